"""The dashboard's page in headless Chromium: what it shows, and to whom."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from starlette.applications import Starlette

import asteady
from asteady.testing import FakeEngine
from tests.server.chromium import chromium, missing
from tests.serving import reserved_port, serving

reason = missing()
pytestmark = pytest.mark.skipif(reason is not None, reason=reason or "")

MARKUP = '<img src=x onerror="document.title=1"><b>bold</b>'
NONE = "\N{EN DASH}"
_LIMIT_S = 60.0


class Server:
    """A server with a dashboard in a thread of its own; `stop` and `start` are a restart."""

    def __init__(self, *, show_prompts: bool = False, **settings: Any) -> None:
        self._show_prompts = show_prompts
        self._settings = settings
        # It is nobody else's while the server is away.
        self._reserved = ExitStack()
        self.port = self._reserved.enter_context(reserved_port())
        self.engine: FakeEngine
        self.session: asteady.Session
        self.start()

    def start(self) -> None:
        ready: queue.Queue[BaseException | None] = queue.Queue()
        self._asking: list[asyncio.Future[str]] = []
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)))
        self._thread.start()
        failure = ready.get(timeout=_LIMIT_S)
        if failure is not None:
            raise failure

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(_LIMIT_S)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self._reserved.close()
        self.stop()

    def call(self, make: Callable[[asteady.Session], Any]) -> Any:
        """What is awaited in the server's loop."""

        async def run() -> Any:
            return await make(self.session)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(_LIMIT_S)

    def begin(self, prompt: str) -> None:
        """Ask, and do not wait for the answer."""

        async def begin() -> None:
            self._asking.append(asyncio.ensure_future(self.session.generate(prompt)))

        asyncio.run_coroutine_threadsafe(begin(), self._loop).result(_LIMIT_S)

    async def _serve(self, ready: queue.Queue[BaseException | None]) -> None:
        try:
            self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
            self.engine = FakeEngine()
            self.session = asteady.Session(
                engine=self.engine, workers=2, max_pending=7, **self._settings
            )
            app = Starlette()
            page = asteady.server.dashboard(self.session, show_prompts=self._show_prompts)
            app.mount("/below/this", page)
            async with self.session, serving(app, port=self.port) as address:
                self.address = f"{address}/below/this/"
                ready.put(None)
                await self._stopping.wait()
                self.engine.resume()
                await asyncio.gather(*self._asking)
        except BaseException as exc:
            ready.put(exc)
            raise


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


def shown(browser: Any, name: str) -> str:
    """The text of a number on the page."""
    script = "return document.querySelector(`[data-show='${arguments[0]}']`).textContent"
    return str(browser.execute_script(script, name))


def value(browser: Any, name: str) -> float | None:
    """What a number is, before it is rounded."""
    script = "return document.querySelector(`[data-show='${arguments[0]}']`).dataset.value"
    found = browser.execute_script(script, name)
    return None if found is None else float(found)


def wait(browser: Any, is_there: Callable[[], object]) -> None:
    """Also for what is read element by element, of which the page may replace some meanwhile."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.wait import WebDriverWait

    waiting = WebDriverWait(
        browser, _LIMIT_S, 0.1, ignored_exceptions=[StaleElementReferenceException]
    )
    waiting.until(lambda _: is_there())


def opened(browser: Any, server: Server) -> None:
    browser.get(server.address)
    browser.get_log("browser")
    wait(browser, lambda: shown(browser, "state") == "open")


def cells(browser: Any, place: str) -> list[list[str]]:
    script = (
        "return [...document.querySelectorAll(`#${arguments[0]} tbody tr`)]"
        ".map(row => [...row.children].map(cell => cell.textContent))"
    )
    found: list[list[str]] = browser.execute_script(script, place)
    return found


async def pending(session: asteady.Session) -> None:
    """Wait until a call waits for a worker."""
    while session.statistics().pools["generation:builtin"].pending < 1:  # noqa: ASYNC110  # no event tells
        await asyncio.sleep(0.01)


def test_the_numbers_on_the_page_are_the_statistics(browser: Any, server: Server) -> None:
    for prompt in "aabaac":
        server.call(lambda session, prompt=prompt: session.generate(prompt))  # type: ignore[misc]  # binds the loop's value
    server.call(lambda session: session.embed("a"))
    server.engine.hold()
    for prompt in ("d", "d", "e", "f"):
        server.begin(prompt)
    server.call(lambda session: server.engine.wait_computed(6))
    # Each call is at its place by then: the last one is behind all others.
    server.call(pending)
    opened(browser, server)
    stats = server.call(lambda session: session.cache.get_cache_stats())
    pool = server.session.statistics().pools["generation:builtin"]
    hits, misses = (sum(stats[kind][name] for kind in stats) for name in ("hits", "misses"))
    assert (hits, misses) == (3, 7)
    assert value(browser, "hit-ratio") == hits / (hits + misses)
    assert (shown(browser, "hit-ratio"), shown(browser, "lookups")) == (
        "30.0 %",
        "3 hits, 7 misses",
    )
    saved_s = sum(stats[kind]["seconds_saved"] for kind in stats)
    assert value(browser, "saved") == pytest.approx(saved_s)
    assert value(browser, "running") == pool.running == 2
    assert value(browser, "pending") == pool.pending == 1
    assert (shown(browser, "errors"), shown(browser, "error-kinds")) == ("0", "none so far")
    meters = browser.execute_script(
        "return [...document.querySelectorAll('.meter')]"
        ".map(each => [each.dataset.name, +each.dataset.value, +each.dataset.of])"
    )
    assert ["Queue of builtin, answers", 1, 7] in meters
    assert ["Busy workers of builtin, answers", 2, 2] in meters
    flights = cells(browser, "flights")
    assert [(what, model, waiting) for what, model, _, waiting, _ in flights] == [
        ("Answer", "builtin", "2"),
        ("Answer", "builtin", "1"),
        ("Answer", "builtin", "1"),
    ]
    contents = {name: texts for name, *texts in cells(browser, "contents")}
    assert contents["Entries"] == ["3 of 256", "1 of 512"]
    assert contents["Hits"] == ["3", "0"]
    assert contents["Coalesced"] == ["1", "0"]
    assert "Found in the shared cache" not in contents  # there is none
    assert cells(browser, "entries")[0][1:4:2] == ["Answer", "4"]
    # An engine that does not say what its weights take.
    models = cells(browser, "pools")
    assert models[0][:6] == ["builtin", "answers", NONE, "2", "1", "3"]
    assert browser.get_log("browser") == []


def test_what_a_shared_cache_answered_is_shown(browser: Any, server: Server) -> None:
    counters = server.session.cache.generation.counters
    counters.shared_hits, counters.shared_misses, counters.shared_errors = 2, 3, 1
    opened(browser, server)
    contents = {name: texts for name, *texts in cells(browser, "contents")}
    assert contents["Found in the shared cache"] == ["2 of 5", "0 of 0"]
    assert contents["Errors of the shared cache"] == ["1", "0"]
    assert browser.get_log("browser") == []


def test_the_page_survives_a_restart_of_the_server(browser: Any, server: Server) -> None:
    for prompt in "aab":
        server.call(lambda session, prompt=prompt: session.generate(prompt))  # type: ignore[misc]  # binds the loop's value
    opened(browser, server)
    assert value(browser, "hit-ratio") == 1 / 3
    server.stop()
    banner = browser.find_element("id", "banner")
    wait(browser, banner.is_displayed)
    assert "cannot be reached" in banner.text
    assert shown(browser, "state") == "no connection"
    assert value(browser, "hit-ratio") == 1 / 3
    server.start()
    wait(browser, lambda: not banner.is_displayed())
    # Its counters begin at 0 again; what was stored is there.
    assert shown(browser, "hit-ratio") == NONE
    assert {name: texts for name, *texts in cells(browser, "contents")}["Entries"][0] == "2 of 256"
    assert shown(browser, "state") == "open"


def test_a_password_may_be_in_the_address(browser: Any, server: Server) -> None:
    browser.get(server.address.replace("http://", "http://any:key@"))
    wait(browser, lambda: shown(browser, "state") == "open")


@pytest.mark.parametrize("show_prompts", [False, True])
def test_a_prompt_is_never_markup(browser: Any, show_prompts: bool) -> None:
    server = Server(show_prompts=show_prompts)
    try:
        for _ in range(2):
            server.call(lambda session: session.generate(MARKUP))
        server.call(lambda session: session.generate("written after the hit"))
        server.engine.hold()
        server.begin(MARKUP + "2")
        server.call(lambda session: server.engine.wait_computed(3))
        opened(browser, server)
        assert (cells(browser, "flights")[0][0] == MARKUP + "2") is show_prompts
        assert (cells(browser, "entries")[0][0] == MARKUP) is show_prompts
        assert (MARKUP in browser.execute_script("return document.body.innerText")) is show_prompts
        assert browser.find_elements("css selector", "main img, main b") == []
        assert browser.title == "asteady"
        assert browser.get_log("browser") == []
    finally:
        server.close()


def test_long_names_stay_in_their_cards(browser: Any) -> None:
    name = "a" * 80 + ".gguf"
    server = Server(show_prompts=True, generation_model=name)
    try:
        server.engine.hold()
        server.begin("b" * 200)
        server.call(lambda session: server.engine.wait_computed(1))
        opened(browser, server)
        wait(browser, lambda: cells(browser, "flights"))
        assert cells(browser, "flights")[0][1] == name
        outside = "return [...document.querySelectorAll('.meter span, .card td, .card th')].filter("
        outside += "each => each.getBoundingClientRect().right"
        outside += " > (each.closest('.meter') ?? each.closest('.card')).getBoundingClientRect()"
        outside += ".right + 1).map(each => each.textContent)"
        assert browser.execute_script(outside) == []
    finally:
        server.close()


def test_on_a_phone_in_the_dark_nothing_is_wider_than_the_screen(server: Server) -> None:
    for prompt in ("a" * 300, "a" * 300, "b"):
        server.call(lambda session, prompt=prompt: session.generate(prompt))  # type: ignore[misc]  # binds the loop's value
    with chromium(dark=True, mobile=True) as browser:
        opened(browser, server)
        assert browser.execute_script("return innerWidth") == 360
        charts = browser.find_elements("css selector", "summary")
        for element in charts:
            element.click()
        # The browser tells the page afterwards that they are open.
        filled = "figure details table"
        wait(browser, lambda: len(browser.find_elements("css selector", filled)) == len(charts))
        wider = "return [...document.querySelectorAll('body *')].filter(each => {"
        wider += "const {right, left} = each.getBoundingClientRect();"
        wider += "return (right > 360 || left < 0) && !each.closest('.skip')}).length"
        assert browser.execute_script(wider) == 0
        assert browser.execute_script("return document.documentElement.scrollWidth") == 360
        colour = "return getComputedStyle(document.body).backgroundColor"
        assert browser.execute_script(colour) == "rgb(14, 17, 22)"
        button = browser.find_element("id", "theme")
        button.click()
        assert "light" in button.text
        assert browser.execute_script(colour) == "rgb(244, 246, 249)"
        browser.refresh()
        wait(browser, lambda: shown(browser, "state") == "open")
        assert browser.execute_script(colour) == "rgb(244, 246, 249)"
        assert browser.get_log("browser") == []


def test_it_can_be_used_with_the_keyboard_and_a_screen_reader(browser: Any, server: Server) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    server.call(lambda session: session.generate("a"))
    opened(browser, server)

    def tab() -> Any:
        ActionChains(browser).send_keys(Keys.TAB).perform()
        return browser.switch_to.active_element

    skip = tab()
    assert (skip.tag_name, skip.text) == ("a", "Skip to the numbers")
    reached = [skip, tab(), tab()]
    assert [element.tag_name for element in reached[1:]] == ["button", "summary"]
    width = browser.execute_script("return getComputedStyle(arguments[0]).outlineWidth", reached[2])
    assert width == "3px"
    assert browser.execute_script("return arguments[0].offsetLeft", reached[0]) < 0
    # The chart's numbers are a table for those who do not see it.
    ActionChains(browser).send_keys(Keys.SPACE).perform()
    wait(browser, lambda: browser.find_elements("css selector", "#chart-hits details table"))
    assert browser.find_element("css selector", "#chart-hits details").get_attribute("open")
    for landmark in ("header", "main", "footer"):
        assert len(browser.find_elements("css selector", f"body > {landmark}")) == 1
    for section in browser.find_elements("css selector", "main section"):
        assert section.aria_role in ("region", "generic")
        assert section.accessible_name
    charts = browser.find_elements("css selector", "svg")
    assert [chart.accessible_name.partition(":")[0] for chart in charts] == [
        "Hit ratio",
        "Time saved",
        "Tokens a second",
        "Requests",
        "Miss ratio by size of the cache",
    ]
    assert browser.find_element("id", "banner").get_attribute("aria-live") == "polite"

    def tables_have_names() -> bool:
        return all(table.accessible_name for table in browser.find_elements("tag name", "table"))

    wait(browser, tables_have_names)
