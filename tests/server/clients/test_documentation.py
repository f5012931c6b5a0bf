"""The snippets of docs/openai-api.md that ask a server."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("openai")
pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[3] / "docs" / "openai-api.md"
OURS = "<!-- not run: tests/server/clients/test_documentation.py runs it -->"


@pytest.mark.parametrize("language", ["sh", "python"])
async def test_a_snippet_of_the_page_runs(url: str, language: str) -> None:
    (found,) = re.findall(rf"{OURS}\n```{language}\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    assert "http://127.0.0.1:8000/v1" in found
    snippet = found.replace("http://127.0.0.1:8000/v1", url)
    program = [sys.executable, "-c"] if language == "python" else ["sh", "-ec"]
    run = await asyncio.create_subprocess_exec(
        *program, snippet, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await run.communicate()
    assert run.returncode == 0, errors.decode()
    if language == "sh":
        assert b'"object":"chat.completion"' in output
    else:
        *lines, told = output.decode().splitlines()
        assert lines
        assert lines[: len(lines) // 2] == lines[len(lines) // 2 :]  # whole, and streamed
        assert re.fullmatch("(computed|memory) [0-9a-f]{64}", told)
