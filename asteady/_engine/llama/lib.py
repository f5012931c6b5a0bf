"""llama.cpp itself: loaded, its log redirected, and typed helpers around its C interface.

Importing this module loads llama.cpp, which takes 0.2 s: import it only when an engine starts.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import os
import threading
from collections.abc import Sequence
from typing import Any

import llama_cpp

from asteady._base.activity import Running
from asteady._base.errors import EngineError, ModelChangedError, ModelFormatError
from asteady._base.forks import ProcessLock, fork_gate
from asteady._engine.models.opened import OpenModel

_log = logging.getLogger("asteady")

# From ggml.h; the table in llama_cpp._logger is of an older version.
_LEVEL_ERROR = 4
libc = ctypes.CDLL(None)

_load_lock = ProcessLock()
_backend_started = False


class _Loading(threading.local):
    """The errors of the model that this thread loads: others may log theirs meanwhile."""

    errors: list[str] | None = None


_loading = _Loading()


def _log_line(level: int, text: bytes | None, _data: object) -> None:
    if not text:
        return
    line = text.decode("utf-8", "replace").rstrip()
    if level == _LEVEL_ERROR and _loading.errors is not None and line:
        _loading.errors.append(line)
    if line.strip("."):
        _log.debug("llama.cpp: %s", line)


_log_callback = llama_cpp.llama_log_callback(_log_line)
# C's abs(int) ignores the other arguments: a callback that does nothing and needs no interpreter.
_silent_callback = ctypes.cast(libc.abs, llama_cpp.llama_log_callback)


def _silence() -> None:
    # A worker thread that outlives the interpreter must not call into Python.
    llama_cpp.llama_log_set(_silent_callback, None)


def start_backend() -> None:
    """Redirect llama.cpp's log to the logger "asteady" at debug level, and start it once."""
    global _backend_started
    # In this order: while a model is loaded, a fork must not wait for whoever waits for that.
    with _load_lock, fork_gate:
        # Each time: another user of llama_cpp in this process may have set its own callback.
        llama_cpp.llama_log_set(_log_callback, None)
        if not _backend_started:
            llama_cpp.llama_backend_init()
            atexit.register(_silence)
            _backend_started = True


def load_model(
    files: OpenModel,
    *,
    repack: bool,
    gpu_layers: int = 0,
    vocabulary_only: bool = False,
    running: Running | None = None,
) -> Any:
    """Load a model, or its vocabulary and metadata only; free it with ``llama_model_free``.

    `running` is told how much of its total has been loaded.

    Raises:
        EngineError: `gpu_layers` is not 0, and this build cannot offload.
        ModelChangedError: a file was replaced or written to meanwhile.
        ModelFormatError: llama.cpp cannot load the file; the message has its reason.
    """
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
    # Without extra buffers the weights stay as they are in the file. Repacked ones are summed in
    # another order, and a build that reports AMX crashes with them.
    parameters.use_extra_bufts = repack
    parameters.vocab_only = vocabulary_only
    if running is not None:
        advance = _advancer(running)
        parameters.progress_callback = advance
    paths = [os.fsencode(path) for path in files.paths()]
    with _load_lock:
        error_lines = _loading.errors = []
        try:
            if len(paths) == 1:
                model = llama_cpp.llama_model_load_from_file(paths[0], parameters)
            else:
                array = (ctypes.c_char_p * len(paths))(*paths)
                model = llama_cpp.llama_model_load_from_splits(array, len(paths), parameters)
        finally:
            _loading.errors = None
    try:
        files.check_loaded()
    except ModelChangedError:
        if model:
            llama_cpp.llama_model_free(model)
        raise
    if not model:
        reason = error_lines[0] if error_lines else "it logged no reason"
        for path, name in zip(files.paths(), files.names, strict=True):
            reason = reason.replace(str(path), str(name))
        raise ModelFormatError(f"llama.cpp cannot load {files.names[0]}: {reason}")
    return model


def _advancer(running: Running) -> Any:
    """A progress callback for llama.cpp; to be kept until the model is loaded."""

    def advance(fraction: float, user_data: Any) -> bool:
        running.done = int(fraction * running.total)
        return True  # go on

    return llama_cpp.llama_progress_callback(advance)


def version_and_system() -> tuple[str, str]:
    """llama.cpp's version, and the CPU features that this build uses on this machine."""
    start_backend()
    version = f"{llama_cpp.__version__} {llama_cpp.llama_version().decode()}"
    # One at a time: it writes into a string of its own, which all threads share.
    with _load_lock:
        return version, llama_cpp.llama_print_system_info().decode()


def holding_gil(function: Any) -> Any:
    """A function of llama.cpp that does not release the GIL while it runs.

    For calls of a few microseconds: with several workers, releasing the GIL and waiting to get it
    back costs more than the call.
    """
    address: Any = ctypes.cast(function, ctypes.c_void_p).value
    return ctypes.PYFUNCTYPE(function.restype, *function.argtypes)(address)


class Batch:
    """A ``llama_batch`` over its own arrays: room for `size` tokens of the sequences from 0 on.

    Reused from call to call; `fill` or `put` says what is in it.
    """

    def __init__(self, size: int, sequences: int = 1) -> None:
        pointer_type = ctypes.POINTER(ctypes.c_int32)
        self._tokens = (ctypes.c_int32 * size)()
        self._positions = (ctypes.c_int32 * size)()
        self._outputs: Any = (ctypes.c_int8 * size)()
        self._sequence_counts = (ctypes.c_int32 * size)(*([1] * size))
        self._sequences = (pointer_type * size)()
        self._ids = [ctypes.pointer(ctypes.c_int32(sequence)) for sequence in range(sequences)]
        native: Any = llama_cpp.llama_batch()  # llama_cpp's annotations call its pointers arrays
        native.token = ctypes.cast(self._tokens, pointer_type)
        native.pos = ctypes.cast(self._positions, pointer_type)
        native.n_seq_id = ctypes.cast(self._sequence_counts, pointer_type)
        native.seq_id = ctypes.cast(self._sequences, ctypes.POINTER(pointer_type))
        native.logits = ctypes.cast(self._outputs, ctypes.POINTER(ctypes.c_int8))
        self.native = native

    def fill(self, sequence: int, first: int, tokens: Sequence[int], outputs: int) -> None:
        """Tokens of one sequence from position `first` on; the last `outputs` give a result."""
        count = self.native.n_tokens = len(tokens)
        self._tokens[:count] = list(tokens)
        self._positions[:count] = list(range(first, first + count))
        self._sequences[:count] = [self._ids[sequence]] * count
        self._outputs[:count] = [0] * (count - outputs) + [1] * outputs

    def put(self, place: int, sequence: int, position: int, token: int) -> None:
        """One token that gives a result, and is the last; call it for the places from 0 on."""
        self.native.n_tokens = place + 1
        self._tokens[place] = token
        self._positions[place] = position
        self._sequences[place] = self._ids[sequence]
        self._outputs[place] = 1


def check(pointer: Any, what: str) -> Any:
    """Return the pointer that llama.cpp returned.

    Raises:
        EngineError: it is null.
    """
    if not pointer:
        raise EngineError(f"llama.cpp could not {what}; see its log (logger 'asteady', debug)")
    return pointer
