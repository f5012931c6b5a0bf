"""llguidance through its C interface: other threads run meanwhile, and memory is given back."""

from __future__ import annotations

import ctypes
import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from asteady._base.constraints import Constraint
from asteady._base.errors import EngineError, InvalidRequestError
from asteady._engine.output import guidance
from asteady._engine.output.grammar import Form, Grammars, MaskThread
from asteady._engine.output.guidance import Tokens
from tests.faults.campaign import rounds


def byte_tokens() -> Tokens:
    pieces = [b"", *(bytes([byte]) for byte in range(256))]
    return Tokens(pieces, [b"<end>"] + [b""] * 256, [0], 50_000)


def test_other_threads_run_while_a_vocabulary_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    library = guidance._library()
    seen: list[int] = []
    turns, stop = [0], threading.Event()

    def other() -> None:
        while not stop.wait(0.0001):
            turns[0] += 1

    def watched(*arguments: Any) -> Any:
        before = turns[0]
        native = library.llg_new_tokenizer_v2(*arguments)
        seen.append(turns[0] - before)
        return native

    functions = {name: getattr(library, name) for name in guidance._FUNCTIONS}
    monkeypatch.setattr(
        guidance,
        "_library",
        lambda: SimpleNamespace(**functions | {"llg_new_tokenizer_v2": watched}),
    )
    thread = threading.Thread(target=other)
    thread.start()
    pieces = [b"", *(f"piece {number}".encode() for number in range(100_000))]
    # It takes a tenth of a second, in which a busy machine may have no time for the other thread.
    while len(seen) < 20 and not any(seen):
        Tokens(pieces, [b"<end>"] + [b""] * 100_000, [0], 50_000)
    stop.set()
    thread.join()
    assert seen[-1] > 0


def test_an_error_is_told_and_stays() -> None:
    matcher = byte_tokens().matcher("regex", "ab")
    assert not matcher.error
    assert not matcher.accept(1 + ord("x"))
    assert matcher.error
    assert matcher.stopped
    assert not matcher.accepting
    assert not matcher.mask_into(matcher.new_mask())


def test_a_copy_goes_its_own_way() -> None:
    tokens = byte_tokens()
    matcher = tokens.matcher("regex", "ab|cd")
    copy = matcher.copy()
    assert copy.accept(1 + ord("c"))
    masks = [matcher.new_mask(), copy.new_mask()]
    assert matcher.mask_into(masks[0])
    assert copy.mask_into(masks[1])
    del tokens, matcher
    bits = np.unpackbits(np.stack(masks).view(np.uint8), axis=1, bitorder="little")
    assert [np.flatnonzero(row).tolist() for row in bits] == [
        [1 + ord("a"), 1 + ord("c")],
        [1 + ord("d")],
    ]
    assert copy.accept(1 + ord("d"))
    assert copy.stopped
    assert copy.accepting


def test_a_vocabulary_that_cannot_be_is_an_error() -> None:
    with pytest.raises(EngineError, match=r"cannot use the model's vocabulary: .*out of range"):
        Tokens([b"a"], [b""], [7], 50_000)


def test_what_a_vocabulary_cannot_spell_is_refused_or_fails_in_the_middle() -> None:
    class Letters:
        """The letters a to z, and no other bytes."""

        size, eos = 27, 0

        def piece(self, token: int) -> bytes:
            return bytes([96 + token]) if token else b""

        def whole_piece(self, token: int) -> bytes:
            return b"<end>"

        def ends(self) -> list[int]:
            return [0]

    grammars, masks = Grammars(Letters()), MaskThread()
    with pytest.raises(InvalidRequestError, match=r"choices='bé' is .* has no token for 'é'"):
        grammars.compile(Constraint("choices", '["a", "b\\u00e9"]'))
    with pytest.raises(InvalidRequestError, match="regex is not allowed: no text has this form"):
        grammars.compile(Constraint("regex", "[0-9]"))
    form = Form(grammars.compile(Constraint("regex", "a!")), masks)
    form.accept(1)
    with pytest.raises(EngineError, match="the model has no token for what must come next"):
        form.apply(np.zeros(27, np.float32))


def test_a_library_without_a_c_interface_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    with pytest.raises(EngineError, match=r"C interface.*pip install 'llguidance>=1.9,<2'"):
        guidance._library.__wrapped__()


_STATUS = Path("/proc/self/status")


def resident_mb() -> float:
    """Without the pages of files, which come and go as the system needs memory."""
    found = re.search(r"^RssAnon:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


@pytest.mark.skipif(not _STATUS.exists(), reason=f"reads {_STATUS}")
def test_a_thousand_grammars_leave_no_memory_behind() -> None:
    tokens = byte_tokens()

    def use(number: int) -> None:
        matcher = tokens.matcher("json_schema", '{"enum": ["%s"]}' % ("x" * 10_000 + str(number)))
        copy = matcher.copy()
        assert copy.mask_into(copy.new_mask())
        assert tokens.error_in("json_schema", '{"type": "objekt"}')
        assert tokens.matcher("regex", "[").error

    for number in range(300):
        use(number)
    before = resident_mb()
    for number in range(rounds(1_000, 10_000)):
        use(number)
    # Without giving back, 1,000 of them are 40 MB.
    assert resident_mb() - before < 8
