"""What a session says that it is busy with, of the real engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from asteady import Session, Settings
from asteady._base.activity import Activities, Running
from asteady._engine.loader import LlamaSource
from asteady._engine.models.resolve import BUILTIN, BUILTIN_FOLDER
from asteady._session.models import engine_source_override

pytestmark = pytest.mark.anyio


class Ended(Activities):
    """Notes how far each activity was when it ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[tuple[str, str, int, int]] = []

    def end(self, running: Running) -> None:
        if any(running.phase == now.phase for now in self.now()):
            name = Path(running.subject).name
            self.ended.append((running.phase, name, running.done, running.total))
        super().end(running)


async def test_a_first_answer_goes_through_all_phases(tmp_path: Path) -> None:
    settings = Settings(cache_dir=tmp_path, probe=False)
    source = LlamaSource(settings)
    source.activities = ended = Ended()
    name = BUILTIN["generation"]
    size = (BUILTIN_FOLDER / name).stat().st_size
    with engine_source_override(lambda _: source):
        async with Session(settings) as session:
            answer = await session.complete("What is a cache?", max_new_tokens=3)
            assert session.statistics().activities == ()
    tokens = answer.prompt_tokens
    assert ended.ended == [
        ("identifying", name, size, size),
        ("loading", name, size, size),
        ("waiting", "builtin", 0, 0),
        ("prompt", "builtin", tokens, tokens),
    ]
