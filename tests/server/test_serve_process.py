"""``asteady serve`` as a process: addresses, loading, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from asteady.cli import main
from tests.server.serve_process import ServeProcess, client_of, question, serve_process

CHAT = "/v1/chat/completions"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and unix sockets")


def events(reply: httpx.Response) -> list[str]:
    return [line.removeprefix("data: ") for line in reply.iter_lines() if line]


def words(lines: list[str]) -> str:
    deltas = [json.loads(line)["choices"][0]["delta"] for line in lines]
    return "".join(delta.get("content", "") for delta in deltas)


def ready(process: ServeProcess) -> str:
    """Let it load its models, and begin an answer; returns its address."""
    address = process.address()
    process.tell("load")
    process.tell("step 2")
    process.wait_printed("Ctrl-C")
    return address


def test_health_while_models_are_loaded() -> None:
    with serve_process("--port", "0", fake=True) as process:
        address = process.address()
        with client_of(address) as client:
            loading = client.get("/health")
            assert (loading.status_code, loading.json()["status"]) == (503, "loading")
            assert loading.headers["retry-after"] == "1"
            assert client.get("/health/live").status_code == 200
            assert client.get("/v1/models").status_code == 200
            process.tell("load")
            process.wait_printed("ready")
            assert client.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_in_progress_is_finished(number: int, tmp_path: Path) -> None:
    unix = str(tmp_path / "serve.sock")
    options = ("--port", "0", "--unix-socket", unix, "--grace", "60")
    with serve_process(*options, fake=True) as process:
        with (
            client_of(ready(process)) as client,
            client.stream("POST", CHAT, json=question("20", stream=True)) as reply,
        ):
            lines = reply.iter_lines()
            begun = next(lines)
            process.send_signal(number)
            # It takes no one else, and removes what others would come by.
            while _listens(client.base_url.port):
                pass
            process.tell("resume")
            rest = [line.removeprefix("data: ") for line in [begun, *lines] if line]
        assert process.wait() == 0, process.rest()
        assert rest[-1] == "[DONE]"
        assert words(rest[:-1]).count("word") == 20
        assert not Path(unix).exists()
        assert "Traceback" not in process.rest()


def _listens(port: int | None) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def test_after_the_time_of_grace_clients_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTEADY_WORKERS", "2")  # however many cores there are
    with serve_process("--port", "0", "--grace", "0.2", fake=True) as process:
        with (
            client_of(ready(process)) as client,
            ThreadPoolExecutor(1) as executor,
            client.stream("POST", CHAT, json=question("20", stream=True)) as reply,
        ):
            lines = reply.iter_lines()
            begun = [next(lines)]
            waiting = executor.submit(client.post, CHAT, json=question("30"))
            while 'asteady_pool_running{pool="generation:builtin"} 2.0' not in (
                client.get("/metrics").text
            ):
                pass
            process.send_signal(signal.SIGTERM)
            *_, last = [line for line in [*begun, *lines] if line]
            refused = waiting.result()
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "not_ready"
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["error"]["code"] == "not_ready"
        assert process.wait() == 0, process.rest()
        printed = process.rest()
        assert "2 connections still wait" in printed
        assert "Traceback" not in printed


def test_a_connection_without_a_request_is_told_nothing() -> None:
    with serve_process("--port", "0", "--grace", "0", fake=True) as process:
        with client_of(ready(process)) as client:
            assert client.get("/health").status_code == 200  # and is kept
            process.send_signal(signal.SIGTERM)
            assert process.wait() == 0, process.rest()
        assert "still wait" not in process.rest()


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    unix = str(tmp_path / "serve.sock")
    with serve_process("--unix-socket", unix, "--grace", "60", fake=True) as process:
        assert ready(process) == unix
        with (
            client_of(unix) as client,
            client.stream("POST", CHAT, json=question("20", stream=True)) as reply,
        ):
            next(reply.iter_lines())
            process.send_signal(signal.SIGTERM)
            # The first one must be handled, or both are one.
            while _accepts(unix):
                pass
            process.send_signal(signal.SIGTERM)
            assert process.wait() == 128 + signal.SIGTERM
        assert not Path(unix).exists()


def _accepts(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as asking:
        return asking.connect_ex(path) == 0


def test_a_signal_ends_loading() -> None:
    with serve_process("--port", "0", fake=True) as process:
        process.address()
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0, process.rest()


def test_a_socket_that_a_killed_server_left_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unix = str(tmp_path / "serve.sock")
    body = question("Hello")
    with serve_process("--unix-socket", unix, "-q") as process:
        assert process.address() == unix
        with client_of(unix) as client:
            first = client.post(CHAT, json=body).json()
        assert main(["serve", "--unix-socket", unix]) == 1
        assert f"another server listens on the unix socket {unix}" in capsys.readouterr().err
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert stat.S_ISSOCK(os.stat(unix).st_mode)
    with serve_process("--unix-socket", unix, "-q") as process:
        assert process.address() == unix
        with client_of(unix) as client:
            again = client.post(CHAT, json=body, headers={"host": "any.example"}).json()
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
        printed = process.rest()
        assert printed == "", printed[-1500:]
    assert again["choices"] == first["choices"]
    assert not Path(unix).exists()


def test_a_model_that_is_not_there_ends_it() -> None:
    with serve_process("--port", "0", fake=True, fails=True) as process:
        process.address()
        assert process.wait() == 1
        printed = process.rest()
        assert printed.endswith("asteady: there is no builtin\n")
        assert "still wait" not in printed


def test_more_streams_than_allowed_are_refused() -> None:
    with serve_process("--port", "0", "--max-streams", "1", fake=True) as process:
        address = ready(process)
        with (
            client_of(address) as client,
            client.stream("POST", CHAT, json=question("2", stream=True)) as reply,
        ):
            lines = reply.iter_lines()
            next(lines)
            refused = client.post(CHAT, json=question("3"))
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert refused.json()["error"]["code"] == "too_many_requests"
            # Others are not counted.
            assert client.get("/v1/models").status_code == 200
            process.tell("resume")
            assert [line for line in lines if line][-1] == "data: [DONE]"
            assert client.post(CHAT, json=question("3")).status_code == 200


def test_what_cannot_be_served_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, empty = tmp_path / "file", tmp_path / "keys"
    file.write_text("")
    empty.write_text("# none\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for options, told in (
            (["--port", port], f"port {port} of 127.0.0.1 is in use"),
            (["--host", "0.0.0.0"], "--host 0.0.0.0 is reached by other machines"),
            (["--host", "::"], "ASTEADY_API_KEY"),
            (["--host", "nowhere.invalid"], "--host nowhere.invalid is not allowed"),
            (["--host", "192.0.2.1", "--insecure"], "this machine has no address 192.0.2.1"),
            (["--unix-socket", str(file)], "is a file, and no unix socket"),
            (["--unix-socket", f"{tmp_path}/no/x"], "No such file or directory"),
            (["--unix-socket", f"{tmp_path}/{'x' * 200}"], "too long"),
            (["--api-key", ""], "a key is empty"),
            (["--api-key-file", str(empty)], "has no key"),
            (["--api-key-file", str(tmp_path / "none")], "No such file"),
            (["--model", "a=builtin", "--model", "a=smollm2"], "builtin is called a too"),
            (["--model", "=builtin"], "NAME=MODEL"),
        ):
            assert main(["serve", *options]) == 1, options
            printed = capsys.readouterr()
            assert printed.out == ""
            assert told in printed.err, options
    # What no browser and no client sends would never match.
    for option, value, told in (
        ("--port", "99999", "0 to 65535"),
        ("--cors-origin", "example.com", "as https://example.com"),
        ("--cors-origin", "https://example.com/page", "without path"),
        ("--allowed-host", "https://example.com", "without scheme and port"),
        ("--allowed-host", "example.com:8080", "without scheme and port"),
    ):
        assert main(["serve", option, value]) == 2
        assert told in capsys.readouterr().err


def test_keys_are_read_from_a_file_and_the_environment(tmp_path: Path) -> None:
    from asteady.server._process.keys import read_keys

    file = tmp_path / "keys"
    file.write_text("# of the team\none\n\n two \n")
    assert read_keys(["zero"], [str(file)], {"ASTEADY_API_KEY": "three, four"}) == [
        *("zero", "one", "two", "three", "four")
    ]


def test_without_its_libraries_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from asteady import SettingsError
    from asteady.cli._main import build_parser

    options = build_parser().parse_args(["serve"])
    for module in ("starlette", "uvicorn"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(SettingsError, match=r'pip install "asteady\[server\]"'):
                options.run(options)
