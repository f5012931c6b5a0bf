"""The pytest plugin of asteady: tests on recorded answers of real models; see docs/testing.md.

pytest loads this module in every run in an environment with asteady, so it imports the rest of the
package only in its fixtures.
"""

from __future__ import annotations

import traceback
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from asteady import Session
    from asteady.testing import Recording


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("asteady", "recorded answers of language models")
    for mode, meaning in (
        ("replay", "answer from the recordings; a request that is not recorded fails (default)"),
        ("record", "let the real models answer, and write their answers to the recordings"),
        ("live", "let the real models answer, and do not change the recordings"),
    ):
        group.addoption(
            f"--asteady-{mode}",
            dest="asteady_mode",
            action="store_const",
            const=mode,
            default="replay",
            help=meaning,
        )


@pytest.fixture
def asteady_recording_path(request: pytest.FixtureRequest) -> Path:
    """The file of recorded answers: ``test_x.answers.toml`` beside ``test_x.py``.

    Override this fixture to use another file.
    """
    return request.path.with_suffix(".answers.toml")


@pytest.fixture
def asteady_recording(
    request: pytest.FixtureRequest,
    asteady_recording_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Recording]:
    """Sessions constructed in this test replay or record the answers of `asteady_recording_path`.

    Their cache is in the test's `tmp_path`, and not shared with other machines.
    """
    from asteady._base.settings import PREFIXES
    from asteady.testing import Recording

    recording = Recording(asteady_recording_path, request.config.getoption("asteady_mode"))
    monkeypatch.setenv("ASTEADY_CACHE_DIR", str(tmp_path / "asteady"))
    for prefix in PREFIXES:
        monkeypatch.delenv(f"{prefix}SHARED_CACHE", raising=False)
    with recording:
        request.node.stash[_RECORDING] = recording
        yield recording


@pytest.fixture
def asteady_session(asteady_recording: Recording) -> Session:
    """An unopened session on recorded answers: ``async with asteady_session as session``.

    It is not opened here, so it works with every plugin for asynchronous tests. Settings come from
    the environment.
    """
    from asteady import Session

    return Session()


_RECORDING: pytest.StashKey[Recording] = pytest.StashKey()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test with a request that is not recorded, even if the program caught the error."""
    __tracebackhide__ = True
    result, location = None, ""
    try:
        result = yield
    except (Exception, pytest.fail.Exception, pytest.skip.Exception) as exc:
        if not _missing(item):
            raise
        location = _where(exc, item.path)
    if missing := _missing(item):
        # Outside the `except`, or pytest would print the message once for each chained exception.
        pytest.fail(f"{location}{missing[0]}", pytrace=False)
    return result


def _missing(item: pytest.Item) -> Sequence[Exception]:
    recording = item.stash.get(_RECORDING, None)
    return [] if recording is None else recording.missing


def _where(exc: BaseException, path: Path) -> str:
    """The line of the test that raised, if the error got there."""
    lines = [
        at.lineno for at in traceback.extract_tb(exc.__traceback__) if at.filename == str(path)
    ]
    return f"{path.name}:{lines[-1]}: " if lines else ""
