"""A llama.cpp context with the parameters that answers depend on, and interruptible computing."""

from __future__ import annotations

import ctypes
import threading
from typing import Any, TypeAlias

import attrs
import llama_cpp

from asteady._base.errors import EngineError
from asteady._engine.api import SlotId
from asteady._engine.llama.lib import Batch, check, libc
from asteady._engine.models.opened import OpenModel

SequenceState: TypeAlias = ctypes.Array[ctypes.c_uint8]
"""A copy of a sequence's keys and values."""

# What llama.cpp returns when the abort flag stopped it.
_ABORTED = 2
_GO, _STOP = b"\x00", b"\x01"


@attrs.frozen(kw_only=True)
class LoadedModel:
    """What an engine's workers share. `native` is llama.cpp's model; the engine frees it.

    An answer is certain only if `files.check` raises nothing after it was computed.
    """

    native: Any
    files: OpenModel
    name: str
    fingerprint: str
    context_tokens: int
    threads: int


class Context:
    """A context over a loaded model, used by one thread, which closes it before the model is freed.

    It has room for `sequences` of `context_tokens` positions each, and computes `batch_tokens` at
    most per call. Only `interrupt` may be called from other threads, also after `close`.
    """

    def __init__(
        self,
        model: Any,
        *,
        context_tokens: int,
        batch_tokens: int,
        threads: int,
        sequences: int = 1,
        embeddings: bool = False,
    ) -> None:
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = context_tokens * sequences
        parameters.n_seq_max = sequences
        parameters.n_batch = parameters.n_ubatch = batch_tokens
        parameters.n_threads = parameters.n_threads_batch = threads
        if embeddings:
            parameters.embeddings = True
            parameters.n_outputs_max_per_seq = 0
        # Flash attention splits a single query among threads beyond 256 positions, so the number
        # of threads would change the result. In a unified cache, sequences change each other's.
        parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.kv_unified = False
        # Otherwise a build for GPUs computes large products of CPU layers on the GPU, whatever
        # `gpu_layers` says.
        parameters.op_offload = False
        parameters.no_perf = True
        self.native = check(
            llama_cpp.llama_init_from_model(model, parameters), "make a context (out of memory?)"
        )
        # llama.cpp calls back before each graph node and stops when that returns true. The C
        # library's strlen needs no Python and has the right signature: called with the flag's two
        # bytes it returns 0 or 1.
        self._flag = ctypes.create_string_buffer(2)
        self._callback = ctypes.cast(libc.strlen, llama_cpp.ggml_abort_callback)
        llama_cpp.llama_set_abort_callback(
            self.native, self._callback, ctypes.cast(self._flag, ctypes.c_void_p)
        )
        self._memory = llama_cpp.llama_get_memory(self.native)
        self._lock = threading.Lock()
        self._computing: SlotId | None = None
        self._interrupted: dict[SlotId, bool] = {}

    def enter(self, slot: SlotId) -> None:
        """From now until `leave`, `interrupt` works for this slot."""
        self._interrupted[slot] = False

    def interrupt(self, slot: SlotId) -> None:
        """Stop the computation for this slot, now or as soon as it begins; other slots go on."""
        with self._lock:
            if slot in self._interrupted:
                self._interrupted[slot] = True
                if self._computing == slot:
                    self._flag[0] = _STOP

    def is_interrupted(self, slot: SlotId) -> bool:
        return self._interrupted[slot]

    def leave(self, slot: SlotId, sequence: int) -> None:
        """Clear the slot's sequence, so that nothing of it reaches the next job."""
        with self._lock:
            self._interrupted.pop(slot, None)
        self.forget(sequence)

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
        with self._lock:
            if self._interrupted[slot]:
                return False
            self._flag[0] = _GO
            self._computing = slot
        code = function(self.native, batch.native)
        with self._lock:
            # From here on `interrupt` must not set the flag: the next call is for other slots.
            self._computing = None
            self._flag[0] = _GO
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
        """The size of what `save` returns for this sequence now."""
        size: int = llama_cpp.llama_state_seq_get_size(self.native, sequence)
        return size

    def save(self, sequence: int) -> SequenceState:
        """Copy the sequence's keys and values. Every context of this model with the same number of
        sequences can `restore` the copy.

        Raises:
            EngineError: llama.cpp failed.
        """
        size = self.state_bytes(sequence)
        buffer = (ctypes.c_uint8 * size)()
        used = llama_cpp.llama_state_seq_get_data(self.native, buffer, size, sequence)
        # llama.cpp reports a failure as 0, also for the size.
        if not used or used != size:
            raise EngineError(
                f"llama.cpp could not copy a sequence's state ({used} of {size} bytes)"
            )
        return buffer

    def restore(self, sequence: int, state: SequenceState) -> None:
        """Replace the sequence by a saved state. After an error the sequence is empty.

        Raises:
            EngineError: llama.cpp failed.
        """
        used = llama_cpp.llama_state_seq_set_data(self.native, state, len(state), sequence)
        if not used or used != len(state):
            self.forget(sequence)
            raise EngineError(
                f"llama.cpp could not restore a sequence's state ({used} of {len(state)} bytes)"
            )

    def close(self) -> None:
        if self.native is not None:
            llama_cpp.llama_free(self.native)
            self.native = None
            self._memory = None
