"""A llama.cpp context with the parameters that answers depend on, and interruptible computing."""

from __future__ import annotations

import ctypes
import struct
import threading
from typing import Any, TypeAlias

import attrs
import llama_cpp

from asteady._base.activity import Activities
from asteady._base.errors import EngineError
from asteady._engine.api import SlotId
from asteady._engine.cores import Cores
from asteady._engine.division import Division
from asteady._engine.llama.lib import Batch, check, libc
from asteady._engine.memory import ContextMemory
from asteady._engine.models.opened import OpenModel

SequenceState: TypeAlias = bytes
"""A copy of a sequence's keys and values; any context of the same model can restore it."""

# What llama.cpp returns when the abort flag stopped it.
_ABORTED = 2
_GO, _STOP = b"\x00", b"\x01"

# A context's positions are allocated in units of this many.
CONTEXT_UNIT_TOKENS = 256

# Of a state: a number that tells its form, and the sequence.
_HEADER_BYTES = 8
_COUNT = struct.Struct("I")


@attrs.frozen(kw_only=True)
class LoadedModel:
    """What an engine's workers share. `native` is llama.cpp's model; the engine frees it.

    `context_tokens` are the most positions of one request, and `kv_bytes` what one position takes.
    `reusable` says whether a sequence can be cut at a position and continued there. An answer is
    certain only if `files.check` raises nothing after it was computed.
    """

    native: Any
    files: OpenModel
    name: str
    fingerprint: str
    context_tokens: int
    piece_tokens: int
    weights_bytes: int
    kv_bytes: int
    reusable: bool
    cores: Cores
    division: Division = attrs.Factory(Division)
    memory: ContextMemory
    activities: Activities


class Interruptions:
    """Which slots of a worker are to be interrupted, and the flag that stops llama.cpp.

    Shared by the worker's contexts, of which only one computes at a time. Only `interrupt` may be
    called from other threads.
    """

    def __init__(self) -> None:
        # llama.cpp calls back before each graph node and stops when that returns true. The C
        # library's strlen needs no Python and has the right signature: called with the flag's two
        # bytes it returns 0 or 1.
        self.flag = ctypes.create_string_buffer(2)
        self.callback = ctypes.cast(libc.strlen, llama_cpp.ggml_abort_callback)
        self._lock = threading.Lock()
        self._computing: SlotId | None = None
        self._interrupted: dict[SlotId, bool] = {}

    def enter(self, slot: SlotId) -> None:
        """From now until `leave`, `interrupt` works for this slot."""
        self._interrupted[slot] = False

    def leave(self, slot: SlotId) -> None:
        with self._lock:
            self._interrupted.pop(slot, None)

    def interrupt(self, slot: SlotId) -> None:
        """Stop the computation for this slot, now or as soon as it begins; other slots go on."""
        with self._lock:
            if slot in self._interrupted:
                self._interrupted[slot] = True
                if self._computing == slot:
                    self.flag[0] = _STOP

    def __contains__(self, slot: SlotId) -> bool:
        return self._interrupted[slot]

    def begin(self, slot: SlotId) -> bool:
        """A computation for one slot begins; False if it was interrupted before."""
        with self._lock:
            if self._interrupted[slot]:
                return False
            self.flag[0] = _GO
            self._computing = slot
            return True

    def end(self) -> None:
        with self._lock:
            # From here on `interrupt` must not set the flag: the next call is for other slots.
            self._computing = None
            self.flag[0] = _GO


class Context:
    """A context over a loaded model, used by one thread, which closes it before the model is freed.

    It has room for `sequences` of `context_tokens` positions each, and computes `batch_tokens` at
    most per call.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        context_tokens: int,
        batch_tokens: int,
        interruptions: Interruptions,
        sequences: int = 1,
        embeddings: bool = False,
    ) -> None:
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = context_tokens * sequences
        parameters.n_seq_max = sequences
        parameters.n_batch = parameters.n_ubatch = batch_tokens
        parameters.n_threads = parameters.n_threads_batch = self._threads = 1
        if embeddings:
            parameters.embeddings = True
            parameters.n_outputs_max_per_seq = 0
        # Flash attention splits a single query among threads beyond 256 positions, so the number
        # of threads would change the result. In a unified cache, sequences change each other's.
        parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.kv_unified = False
        # A sliding window that forgets what has left it cannot be cut at an earlier position.
        parameters.swa_full = True
        # Otherwise a build for GPUs computes large products of CPU layers on the GPU, whatever
        # `gpu_layers` says.
        parameters.op_offload = False
        parameters.no_perf = True
        self.sequences = sequences
        self.native = check(
            llama_cpp.llama_init_from_model(model.native, parameters),
            "make a context (out of memory?)",
        )
        self._interruptions = interruptions
        llama_cpp.llama_set_abort_callback(
            self.native,
            interruptions.callback,
            ctypes.cast(interruptions.flag, ctypes.c_void_p),
        )
        self._memory = llama_cpp.llama_get_memory(self.native)
        self._window: int = llama_cpp.llama_model_n_swa(model.native)

    def use_threads(self, threads: int) -> None:
        """Compute with so many threads from the next call on; that changes no bit."""
        if threads != self._threads:
            self._threads = threads
            llama_cpp.llama_set_n_threads(self.native, threads, threads)

    def forget(self, sequence: int, position: int = 0) -> None:
        """Remove a sequence from this position on."""
        if self._memory:  # encoders have none
            llama_cpp.llama_memory_seq_rm(self._memory, sequence, position, -1)

    def clear(self) -> None:
        """Remove all sequences, and set the memory that they were in to zero.

        `forget` leaves keys and values in place and masks them. That is not enough for a number
        that is none, which stays one under the mask and so reaches the sequence's next user.
        """
        if self._memory:
            llama_cpp.llama_memory_clear(self._memory, True)

    def compute_for(self, slot: SlotId, function: Any, batch: Batch) -> bool:
        """Run ``llama_decode`` or ``llama_encode`` for one slot; False when it was interrupted.

        Raises:
            EngineError: llama.cpp failed.
        """
        if not self._interruptions.begin(slot):
            return False
        try:
            code = function(self.native, batch.native)
        finally:
            self._interruptions.end()
        if code == _ABORTED:
            return False
        if code != 0:
            raise EngineError(f"llama.cpp failed on {batch.native.n_tokens} tokens (code {code})")
        return True

    def decode(self, batch: Batch) -> None:
        """Run ``llama_decode`` for several slots at once; it cannot be interrupted.

        Raises:
            EngineError: llama.cpp failed.
        """
        code = llama_cpp.llama_decode(self.native, batch.native)
        if code != 0:
            raise EngineError(f"llama.cpp failed on {batch.native.n_tokens} tokens (code {code})")

    def state_bytes(self, sequence: int) -> int:
        """About the size of what `save` returns for this sequence now."""
        size: int = llama_cpp.llama_state_seq_get_size(self.native, sequence)
        return size

    def can_save(self, sequence: int) -> bool:
        """Whether `save` would copy all of the sequence.

        llama.cpp leaves out what a sliding window has moved past, which the sequence needs again
        when it is cut.
        """
        if not self._window or not self._memory:
            return True
        last: int = llama_cpp.llama_memory_seq_pos_max(self._memory, sequence)
        return last < self._window

    def save(self, sequence: int, *, complete: bool = True) -> SequenceState:
        """Copy the sequence's keys and values: all of them, or those that are needed to continue it
        where it ends.

        Raises:
            EngineError: a sliding window has moved past a part of it, or llama.cpp failed.
        """
        if complete and not self.can_save(sequence):
            raise EngineError(f"a sequence is longer than the window of {self._window} tokens")
        size = self.state_bytes(sequence)
        buffer = (ctypes.c_uint8 * size)()
        used = llama_cpp.llama_state_seq_get_data(self.native, buffer, size, sequence)
        # llama.cpp reports a failure as 0, also for the size.
        if not used or used != size:
            raise EngineError(
                f"llama.cpp could not copy a sequence's state ({used} of {size} bytes)"
            )
        whole = memoryview(buffer).cast("B")
        parts = self._parts(whole[_HEADER_BYTES:], sequence)
        return b"".join(
            (bytes(whole[:_HEADER_BYTES]), *(self._single(part, sequence) for part in parts))
        )

    def restore(self, sequence: int, state: SequenceState) -> None:
        """Replace the sequence by a saved state. After an error the sequence is empty.

        Raises:
            EngineError: llama.cpp failed.
        """
        # The positions after the state's must be free for it: it is put where they begin.
        self.forget(sequence)
        expanded = self._expanded(state)
        buffer = (ctypes.c_uint8 * len(expanded)).from_buffer_copy(expanded)
        used = llama_cpp.llama_state_seq_set_data(self.native, buffer, len(buffer), sequence)
        if not used or used != len(buffer):
            self.forget(sequence)
            raise EngineError(
                f"llama.cpp could not restore a sequence's state ({used} of {len(buffer)} bytes)"
            )

    # A state has a header and then a part for each of the model's caches (those with a sliding
    # window have a second one), and a part begins with the number of the context's streams, one for
    # each sequence; for each there is the number of its cells, 0 for those of other sequences, and
    # then the cells.
    # Saved states have a single stream, and each part is preceded by its length.

    def _parts(self, whole: memoryview, sequence: int) -> list[memoryview]:
        if not self._window:
            return [whole]
        window = -_HEADER_BYTES + llama_cpp.llama_state_seq_get_size_ext(
            self.native, sequence, llama_cpp.LLAMA_STATE_SEQ_FLAGS_SWA_ONLY
        )
        return [whole[: len(whole) - window], whole[len(whole) - window :]]

    def _single(self, part: memoryview, sequence: int) -> bytes:
        before, after = 4 * (1 + sequence), 4 * (self.sequences - 1 - sequence)
        empty = bytes(4 * sequence)
        if (
            len(part) <= before + after
            or _COUNT.unpack_from(part)[0] != self.sequences
            or part[4:before] != empty
            or part[len(part) - after :] != bytes(after)
        ):
            raise EngineError("llama.cpp's copy of a sequence's state has an unknown form")
        cells = part[before : len(part) - after]
        return struct.pack("Q", len(cells)) + bytes(cells)

    def _expanded(self, state: SequenceState) -> bytes:
        parts = [state[:_HEADER_BYTES]]
        offset = _HEADER_BYTES
        while offset < len(state):
            (length,) = struct.unpack_from("Q", state, offset)
            cells = state[offset + 8 : offset + 8 + length]
            parts += [_COUNT.pack(self.sequences), cells, bytes(4 * (self.sequences - 1))]
            offset += 8 + length
        return b"".join(parts)

    def close(self) -> None:
        if self.native is not None:
            llama_cpp.llama_free(self.native)
            self.native = None
            self._memory = None
