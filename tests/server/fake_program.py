"""``asteady serve`` on a fake engine, for tests: standard input says what it does.

``load`` lets models be loaded, which wait for it; ``step N`` and ``resume`` let answers go on. With
``fail`` as the first argument no model can be loaded.
"""

from __future__ import annotations

import sys
import threading

from asteady import ModelNotFoundError
from asteady._base.requests import Kind
from asteady._engine.api import Engine
from asteady._session.models import GivenEngine, engine_source_override
from asteady.cli import main
from asteady.testing import FakeEngine


class _Source(GivenEngine):
    def __init__(self, engine: FakeEngine, *, fails: bool) -> None:
        super().__init__(engine)
        self.may_load = threading.Event()
        self._fails = fails

    def load(self, kind: Kind, reference: str) -> Engine:
        if self._fails:
            raise ModelNotFoundError(f"there is no {reference}")
        self.may_load.wait()
        return super().load(kind, reference)


def _obey(engine: FakeEngine, source: _Source) -> None:
    for line in sys.stdin:
        match line.split():
            case ["load"]:
                source.may_load.set()
            case ["step", count]:
                engine.step(int(count))
            case ["resume"]:
                engine.resume()


if __name__ == "__main__":
    engine = FakeEngine(lambda request: "word " * int(request.conversation()[-1].texts()[0]))
    engine.hold()
    arguments = sys.argv[1:]
    fails = arguments[0] == "fail"
    source = _Source(engine, fails=fails)
    threading.Thread(target=_obey, args=(engine, source), daemon=True).start()
    with engine_source_override(lambda settings: source):
        sys.exit(main(arguments[fails:]))
