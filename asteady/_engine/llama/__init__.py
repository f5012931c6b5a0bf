"""The only importer of llama_cpp. Importing a module of this package loads llama.cpp."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

from asteady._base.errors import EngineError
from asteady._engine.build import REPLACED, has_replaced, import_failed, libraries

# Threads of one call wait for each other at every node of the graph. By default they spin for so
# long that two processes which share the cores take ten times as long; a thread that sleeps earlier
# costs an idle machine nothing that could be measured (docs/performance.md).
_SPIN_COUNT = b"1000"


@contextmanager
def _short_spinning() -> Iterator[None]:
    """OpenMP's library reads the variable when it is loaded; child processes do not get it."""
    if any(name in os.environ for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")):
        yield
        return
    # Not in `os.environ`: another thread that copies it would fail when the variable is gone.
    libc = ctypes.PyDLL(None)
    libc.setenv(b"GOMP_SPINCOUNT", _SPIN_COUNT, True)
    try:
        yield
    finally:
        libc.unsetenv(b"GOMP_SPINCOUNT")


LIBRARIES = libraries()
"""The libraries as they were just before they were loaded."""

with _short_spinning():
    try:
        import llama_cpp  # noqa: F401
    except Exception as exc:  # it raises what ctypes does, RuntimeError and others
        raise import_failed(exc) from exc

# Another user of llama_cpp in this process may have loaded it long ago.
if has_replaced(LIBRARIES):
    raise EngineError(REPLACED)
