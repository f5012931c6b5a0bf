"""Small facts remembered between processes, as one JSON object per file in the cache directory.

What is remembered here only saves time, so every failure (no file, broken file, a read-only or full
disk) means "not known", is logged at debug level, and nothing else.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

_log = logging.getLogger("asteady")

# Entries beyond this many are dropped, oldest first, so that the file cannot grow for ever.
_MAX_ENTRIES = 256

_lock = threading.Lock()


def recall(file: Path, key: str) -> Any:
    """What was remembered under this key, or None."""
    return _read(file).get(key)


def remember(file: Path, key: str, value: Any) -> None:
    """Write this entry so that a reader sees the old file or the new one, never a part.

    Two processes that write at once may lose one entry, which is then found anew.
    """
    with _lock:
        entries = _read(file)
        entries.pop(key, None)
        entries[key] = value
        for oldest in list(entries)[:-_MAX_ENTRIES]:
            del entries[oldest]
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # mkstemp creates with mode 0600; the rename keeps it.
            handle, name = tempfile.mkstemp(prefix=file.name, dir=file.parent)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as stream:
                    json.dump(entries, stream, indent=1)
                os.replace(name, file)
            except BaseException:
                os.unlink(name)
                raise
        except OSError as exc:
            _log.debug("%s could not be written: %s", file, exc)


def _read(file: Path) -> dict[str, Any]:
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        _log.debug("%s could not be read and counts as empty: %s", file, exc)
        return {}
    return entries if isinstance(entries, dict) else {}
