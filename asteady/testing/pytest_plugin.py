"""The pytest plugin of asteady: tests on recorded answers of real models; see docs/testing.md.

Outside the package, and importing it only in its fixtures: pytest loads this file in every run of
every project in the same environment, also in those that measure the coverage of asteady.
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
        ("replay", "answer from the recordings beside the tests; what is missing fails (default)"),
        ("record", "let the real models answer, and write what they say to the recordings"),
        ("live", "let the real models answer, and leave the recordings alone"),
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
    """Where the answers lie: for ``test_x.py`` in ``test_x.answers.toml`` beside it.

    Override it to put them elsewhere.
    """
    return request.path.with_suffix(".answers.toml")


@pytest.fixture
def asteady_recording(
    request: pytest.FixtureRequest,
    asteady_recording_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Recording]:
    """All sessions that are constructed in this test answer from the recording (or into it).

    Their cache is in the test's own directory.
    """
    from asteady.testing import Recording

    recording = Recording(asteady_recording_path, request.config.getoption("asteady_mode"))
    monkeypatch.setenv("ASTEADY_CACHE_DIR", str(tmp_path / "asteady"))
    with recording:
        request.node.stash[_RECORDING] = recording
        yield recording


@pytest.fixture
def asteady_session(asteady_recording: Recording) -> Session:
    """A session for ``async with asteady_session as session``, on recorded answers.

    It is not open yet, so it is the same for every plugin that runs asynchronous tests. Settings
    come from the environment.
    """
    from asteady import Session

    return Session()


_RECORDING: pytest.StashKey[Recording] = pytest.StashKey()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that asked for what is not recorded, whatever the program made of the error."""
    __tracebackhide__ = True
    result, asked = None, ""
    try:
        result = yield
    except (Exception, pytest.fail.Exception, pytest.skip.Exception) as exc:
        if not _missing(item):
            raise
        asked = _where(exc, item.path)
    if missing := _missing(item):
        # Not within the `except`: the same message would be shown once for each link of the chain.
        pytest.fail(f"{asked}{missing[0]}", pytrace=False)
    return result


def _missing(item: pytest.Item) -> Sequence[Exception]:
    recording = item.stash.get(_RECORDING, None)
    return [] if recording is None else recording.missing


def _where(exc: BaseException, path: Path) -> str:
    """The line of the test that asked, if the error came all the way to it."""
    lines = [
        at.lineno for at in traceback.extract_tb(exc.__traceback__) if at.filename == str(path)
    ]
    return f"{path.name}:{lines[-1]}: " if lines else ""
