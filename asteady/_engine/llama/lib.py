"""llama.cpp itself: imported here, made quiet, and wrapped in a few typed helpers.

Importing this module loads llama.cpp (about 0.2 s), so it is imported only when an engine starts.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import threading
from pathlib import Path
from typing import Any

import llama_cpp

from asteady._base.errors import EngineError, ModelFormatError

_log = logging.getLogger("asteady")

# From ggml.h; the table in llama_cpp._logger is of an older version.
_LEVEL_ERROR = 4
_libc = ctypes.CDLL(None)
_holding = ctypes.PyDLL(llama_cpp.llama_cpp._lib._name)

_load_lock = threading.Lock()
_complaints: list[str] | None = None
_backend_started = False


def _take_line(level: int, text: bytes | None, _data: object) -> None:
    if not text:
        return
    line = text.decode("utf-8", "replace").rstrip()
    if level == _LEVEL_ERROR and _complaints is not None and line:
        _complaints.append(line)
    if line.strip("."):
        _log.debug("llama.cpp: %s", line)


_logger_callback = llama_cpp.llama_log_callback(_take_line)
# abs(int) ignores the other arguments: a callback that does nothing and needs no interpreter.
_silent_callback = ctypes.cast(_libc.abs, llama_cpp.llama_log_callback)


def _be_silent() -> None:
    # A worker that outlives the interpreter must not call into Python.
    llama_cpp.llama_log_set(_silent_callback, None)


def start_backend() -> None:
    """Route llama.cpp's log to the logger "asteady" at debug level, and start it, once."""
    global _backend_started
    with _load_lock:
        # Each time: another user of llama_cpp in this process may have set its own callback.
        llama_cpp.llama_log_set(_logger_callback, None)
        if not _backend_started:
            llama_cpp.llama_backend_init()
            atexit.register(_be_silent)
            _backend_started = True


def load_model(path: Path, *, repack: bool, gpu_layers: int = 0) -> Any:
    """Load a model; free it with ``llama_model_free``.

    Raises:
        EngineError: `gpu_layers` is not 0, and this build cannot offload.
        ModelFormatError: llama.cpp cannot load the file; the message has its reason.
    """
    global _complaints
    start_backend()
    if gpu_layers and not llama_cpp.llama_supports_gpu_offload():
        raise EngineError(
            f"gpu_layers={gpu_layers} is not possible: this build of llama.cpp cannot offload to a "
            'GPU; rebuild llama-cpp-python (CMAKE_ARGS="-DGGML_CUDA=on", or the backend of your '
            "GPU), or set gpu_layers=0"
        )
    parameters = llama_cpp.llama_model_default_params()
    # Not all versions of llama.cpp take a negative number for all layers.
    parameters.n_gpu_layers = gpu_layers if gpu_layers >= 0 else 2**31 - 1
    # Without extra buffers weights stay as they are in the file. Repacked ones compute other sums,
    # and a build that announces AMX crashes with them.
    parameters.use_extra_bufts = repack
    with _load_lock:
        # What llama.cpp logs as errors meanwhile is the reason if it fails.
        complaints = _complaints = []
        try:
            model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        finally:
            _complaints = None
    if not model:
        reason = complaints[0] if complaints else "no reason given"
        raise ModelFormatError(f"llama.cpp cannot load {path}: {reason}")
    return model


def version_and_system() -> tuple[str, str]:
    """llama.cpp's version, and the CPU features that this build uses here."""
    start_backend()
    version = f"{llama_cpp.__version__} {llama_cpp.llama_version().decode()}"
    return version, llama_cpp.llama_print_system_info().decode()


def quick(name: str) -> Any:
    """A function of llama.cpp that keeps the interpreter's lock while it runs.

    For calls of a few microseconds: giving the lock up and waiting for it again costs more than
    they do, each time, when several workers compute.
    """
    function = getattr(_holding, name)
    known = getattr(llama_cpp, name)
    function.argtypes, function.restype = known.argtypes, known.restype
    return function


class AbortFlag:
    """A flag that stops a running `llama_decode`, without Python in the callback.

    llama.cpp calls back before each graph node and stops when that returns true. The C library's
    ``strlen`` has the right shape: called with the flag's two bytes it returns 0 or 1. The context
    must not outlive this object.
    """

    def __init__(self, context: Any) -> None:
        self._buffer = ctypes.create_string_buffer(2)
        self._callback = ctypes.cast(_libc.strlen, llama_cpp.ggml_abort_callback)
        llama_cpp.llama_set_abort_callback(
            context, self._callback, ctypes.cast(self._buffer, ctypes.c_void_p)
        )

    def raise_(self) -> None:
        self._buffer[0] = b"\x01"

    def lower(self) -> None:
        self._buffer[0] = b"\x00"


class Batch:
    """A `llama_batch` over arrays of its own, for up to `size` tokens; reused from call to call."""

    def __init__(self, size: int) -> None:
        self.tokens = (ctypes.c_int32 * size)()
        self.positions = (ctypes.c_int32 * size)()
        self.outputs = (ctypes.c_int8 * size)()
        self._one_each = (ctypes.c_int32 * size)(*([1] * size))
        self._pointer_type = ctypes.POINTER(ctypes.c_int32)
        self.sequences = (self._pointer_type * size)()
        # Typed as Any inside: llama_cpp's annotations call its pointers arrays.
        self.native = llama_cpp.llama_batch()
        native: Any = self.native
        native.token = ctypes.cast(self.tokens, self._pointer_type)
        native.pos = ctypes.cast(self.positions, self._pointer_type)
        native.n_seq_id = ctypes.cast(self._one_each, self._pointer_type)
        native.seq_id = ctypes.cast(self.sequences, ctypes.POINTER(self._pointer_type))
        native.logits = ctypes.cast(self.outputs, ctypes.POINTER(ctypes.c_int8))


class SequenceIds:
    """The sequence ids from 0 as pointers, which is how a batch wants them."""

    def __init__(self, count: int) -> None:
        self._cells = [ctypes.c_int32(sequence) for sequence in range(count)]
        self._pointers = [ctypes.pointer(cell) for cell in self._cells]

    def __getitem__(self, sequence: int) -> Any:
        return self._pointers[sequence]


def check(pointer: Any, what: str) -> Any:
    """Pass on what llama.cpp returned, unless it is a null pointer.

    Raises:
        EngineError: it is.
    """
    if not pointer:
        raise EngineError(f"llama.cpp could not {what}; its log (logger 'asteady') says more")
    return pointer
