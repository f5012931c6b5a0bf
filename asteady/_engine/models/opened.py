"""The files of a model, open from before they are loaded until their weights are freed.

llama.cpp maps a file, and reads its pages when it needs them: what is written to the file later
becomes part of the model, and cutting it off ends the process with SIGBUS. A file that was replaced
under its name does not matter, as the mapping and the descriptor stay with the old one.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from io import FileIO
from pathlib import Path

from asteady._base.errors import ModelChangedError
from asteady._base.files import Identity, settled_identity
from asteady._engine.models.resolve import FoundModel, FoundPart, ModelFile, ModelPart

_DESCRIPTORS = Path("/proc/self/fd")


class OpenModel:
    """The files of a model, held open; close it when its weights are freed.

    Raises:
        ModelChangedError: a file was replaced, written to or removed since it was found.
    """

    def __init__(self, file: FoundModel) -> None:
        self._parts = file.parts
        self.names = [part.path for part in file.parts]
        self._lock = threading.Lock()
        self._changed = ""
        self._doubts = 0
        with ExitStack() as stack:
            self._streams: list[FileIO] = []
            self._identities = [part.identity for part in file.parts]
            for part in file.parts:
                try:
                    stream = stack.enter_context(FileIO(part.path))
                except OSError as exc:
                    raise ModelChangedError(f"{part.path} cannot be opened again: {exc}") from exc
                if Identity.of(os.fstat(stream.fileno())) != part.identity:
                    raise _replaced(part)
                self._streams.append(stream)
            self._attributes = [_attributes(stream) for stream in self._streams]
            self._stack = stack.pop_all()

    def paths(self) -> Sequence[Path]:
        """Names to load the files by; `check_loaded` comes after.

        On Linux they lead to the open files, whatever is under their own names now.
        """
        paths = [_DESCRIPTORS / str(stream.fileno()) for stream in self._streams]
        # A process that changed its user may be denied them.
        return paths if all(os.access(path, os.R_OK) for path in paths) else self.names

    def check_loaded(self) -> None:
        """Raise unless what was loaded by `paths` was these files.

        Raises:
            ModelChangedError: a file was replaced or written to meanwhile.
        """
        self.check(since=0)
        for part, path, known in zip(self._parts, self.paths(), self._identities, strict=True):
            if path == part.path and Identity.of(path.stat()) != known:
                raise _replaced(part)

    def check_identified(self, file: ModelFile) -> None:
        """Raise unless these files are the ones whose bytes have the digests of `file`.

        Raises:
            ModelChangedError: a file was replaced or written to in between.
        """
        for part, known in zip(file.parts, self._identities, strict=True):
            if part.identity != known:
                raise _replaced(part)
        self._parts = file.parts

    def check(self, since: int | None = None) -> int:
        """Raise if a file was written to since it was identified; usually takes a microsecond.

        A file whose time of change says that something happened to it is read to make sure.
        Its content may have been another one in between, unless a name, owner or permission was
        changed. That matters to what was computed meanwhile: `since` is what the check before it
        returned.

        Raises:
            ModelChangedError: it was written to, or may have been since that check.
        """
        if self._changed or not self._are_as_known():
            with self._lock:
                for index in range(len(self._parts)):
                    if not self._changed and not self._is_same(index):
                        self._changed = (
                            f"{self._parts[index].path} was written to while the model was in use,"
                            " so what was computed meanwhile is dropped; the next call loads the"
                            " file anew: call again. To replace a model, rename another file to it"
                        )
        if self._changed:
            raise ModelChangedError(self._changed)
        if since is not None and since != self._doubts:
            raise ModelChangedError(
                f"{self._parts[0].path} may have been written to while the model was in use, so"
                " what was computed meanwhile is dropped: call again"
            )
        return self._doubts

    def close(self) -> None:
        self._stack.close()

    def _are_as_known(self) -> bool:
        try:
            now = [Identity.of(os.fstat(stream.fileno())) for stream in self._streams]
        except OSError:  # of a file server
            return False
        return now == self._identities

    def _is_same(self, index: int) -> bool:
        stream, known = self._streams[index], self._identities[index]
        try:
            now = settled_identity(stream.fileno())
            if now == known:
                return True
            attributes = _attributes(stream)
            if now[:-1] != known[:-1]:
                return False
            stream.seek(0)
            part = self._parts[index]
            if not isinstance(part, ModelPart):
                return False  # there is no digest to compare with yet
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            if digest != part.sha256 or settled_identity(stream.fileno()) != now:
                return False
        except OSError:
            return False
        if attributes == self._attributes[index]:
            self._doubts += 1
        self._identities[index] = now
        self._attributes[index] = attributes
        return True


def _attributes(stream: FileIO) -> tuple[int, ...]:
    """What is changed with a file's content as it is."""
    status = os.fstat(stream.fileno())
    return status.st_nlink, status.st_mode, status.st_uid, status.st_gid


def _replaced(part: FoundPart) -> ModelChangedError:
    return ModelChangedError(
        f"{part.path} was replaced or written to while it was loaded: call again"
    )
