"""A llama.cpp context with the parameters that answers depend on, and interruptible computing."""

from __future__ import annotations

import ctypes
import threading
from typing import Any, TypeAlias

import llama_cpp

from asteady._base.errors import EngineError
from asteady._engine.api import SlotId
from asteady._engine.llama.lib import AbortFlag, Batch, check

SequenceState: TypeAlias = ctypes.Array[ctypes.c_uint8]
"""A copy of a sequence's keys and values."""

ABORTED = 2
"""What ``llama_decode`` returns when the abort flag stopped it."""


class Context:
    """A context over a loaded model, used by one thread, which closes it before the model is freed.

    Only `interrupt` may be called from other threads, also after `close`.
    """

    def __init__(self, model: Any, parameters: Any) -> None:
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
        self._flag = AbortFlag(self.native)
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
                    self._flag.set()

    def is_interrupted(self, slot: SlotId) -> bool:
        return self._interrupted[slot]

    def leave(self, slot: SlotId, sequence: int) -> None:
        """Clear the slot's sequence, so that nothing of it reaches the next job."""
        with self._lock:
            self._interrupted.pop(slot, None)
        if self._memory:
            llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def compute_for(self, slot: SlotId, function: Any, batch: Batch, count: int) -> bool:
        """Run ``llama_decode`` or ``llama_encode`` for one slot; False when it was interrupted.

        Raises:
            EngineError: llama.cpp failed.
        """
        with self._lock:
            if self._interrupted[slot]:
                return False
            self._flag.clear()
            self._computing = slot
        batch.native.n_tokens = count
        code = function(self.native, batch.native)
        with self._lock:
            # From here on `interrupt` must not set the flag: the next call is for other slots.
            self._computing = None
            self._flag.clear()
        if code == ABORTED:
            return False
        if code != 0:
            raise EngineError(f"llama.cpp failed on {count} tokens (code {code})")
        return True

    def decode(self, batch: Batch, count: int) -> None:
        """Run ``llama_decode`` for several slots at once; it cannot be interrupted.

        Raises:
            EngineError: llama.cpp failed.
        """
        batch.native.n_tokens = count
        code = llama_cpp.llama_decode(self.native, batch.native)
        if code != 0:
            raise EngineError(f"llama.cpp failed on a step of {count} sequences (code {code})")

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
            llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)
            raise EngineError(
                f"llama.cpp could not restore a sequence's state ({used} of {len(state)} bytes)"
            )

    def close(self) -> None:
        if self.native is not None:
            llama_cpp.llama_free(self.native)
            self.native = None
            self._memory = None
