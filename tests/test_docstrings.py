"""The snippets in docstrings, which the reference shows, run after what they take for granted."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette

import asteady
import asteady.blocking
import asteady.operate
import asteady.server
import asteady.testing
from asteady import Session
from asteady.testing import FakeEngine

PACKAGE = Path(asteady.__file__).parent
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def weather(city: str) -> str:
    return f"sunny in {city}"


def snippets() -> dict[str, str]:
    """The literal blocks of docstrings by file and name, of Python as they have keywords of it."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        if "training" in file.parts:
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, DOCUMENTED):
                continue
            text = ast.get_docstring(node) or ""
            for number, block in enumerate(re.findall(r"::\n\n((?: {4}.*\n?|\n)+)", text)):
                name = getattr(node, "name", "module")
                place = f"{file.relative_to(PACKAGE)}:{name}" + (f":{number}" if number else "")
                # What an endpoint returns.
                found[place] = textwrap.dedent(block).removeprefix("return ")
    return found


SNIPPETS = snippets()
# What the snippet of a place takes for granted, beside a session. None: it cannot run here, because
# of what it takes for granted; only its syntax is checked.
GIVEN: dict[str, str | None] = {
    "_base/messages.py:arguments_for": "answer = await session.complete("
    "'Rome?', tools=[weather], tool_choice='required')",
    "_engine/api.py:module": None,
    "_session/generation.py:Prefix": "system_prompt = 'Be kind.'",
    "_session/generation.py:events": "stream = session.stream('hi'); await stream.__aenter__()",
    "blocking/__init__.py:module": None,
    "blocking/_stream.py:Stream": "session = blocking.Session(engine=FakeEngine()).open()",
    "blocking/_session.py:awaitable": "run = blocking.run;"
    " session = blocking.Session(engine=FakeEngine()).open()",
    "blocking/_tools.py:operation": None,
    "operate/dask/__init__.py:module": None,
    "operate/_monitor.py:operation": "monitor = operate.CacheMonitor(session)",
    "server/_web/connected.py:while_connected": None,
    "server/_web/streams.py:EventStreamResponse": "prompt = 'hi'",
    "server/_web/streams.py:TextStreamResponse": "prompt = 'hi'",
    "steadytext.py:module": None,
    "testing/_recording.py:Recording": None,
}


@pytest.mark.anyio
@pytest.mark.parametrize("place", SNIPPETS)
async def test_a_snippet_in_a_docstring_runs(
    place: str, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    operate: ModuleType = asteady.operate
    server: ModuleType = asteady.server
    given = GIVEN.get(place, "")
    code = compile(
        f"{given or ''}\n{SNIPPETS[place]}", place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    )
    if given is None:
        return
    names: dict[str, Any] = {
        **{name: getattr(module, name) for module in (operate, server) for name in module.__all__},
        "asteady": asteady,
        "blocking": asteady.blocking,
        "operate": operate,
        "FakeEngine": FakeEngine,
        "FastAPI": FastAPI,
        "Starlette": Starlette,
        "session": session,
        "tmp_path": tmp_path,
        "weather": weather,
    }
    try:
        result = eval(code, names)
        if inspect.isawaitable(result):
            await result
    finally:
        if isinstance(names["session"], asteady.blocking.Session):
            names["session"].close()


def test_what_is_given_is_for_snippets_that_there_are() -> None:
    assert len(SNIPPETS) > 10
    assert set(GIVEN) <= set(SNIPPETS)
