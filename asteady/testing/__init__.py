"""Testing programs that use asteady: an engine without a model, and recorded answers.

::

    engine = FakeEngine(lambda request: f"You said: {request.prompt}")
    async with asteady.Session(engine=engine, cache_dir=tmp_path) as session:
        assert await session.generate("hi") == "You said: hi"
    assert len(engine.computed) == 1

`Recording` is what the fixtures of the pytest plugin use: ``pytest --asteady-record`` writes the
answers of the real models to a file beside the tests, and ``pytest`` replays them from there.
"""

from typing import TYPE_CHECKING

from asteady._base.public import lazy_exports

if TYPE_CHECKING:
    from asteady.testing._fake import FakeEngine as FakeEngine
    from asteady.testing._format import RecordingError as RecordingError
    from asteady.testing._recording import (
        MissingAnswerError as MissingAnswerError,
        Recording as Recording,
    )
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "asteady.testing._fake": "FakeEngine",
            "asteady.testing._format": "RecordingError",
            "asteady.testing._recording": "MissingAnswerError Recording",
        },
    )
