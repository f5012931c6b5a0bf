"""Bytes of tokens to text as it may be shown: whole characters, and never a part of a stop string.

Pure; one instance per answer.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Turns the bytes of tokens into chunks of text.

    An incomplete UTF-8 sequence is held back until its last byte; bytes that can never become a
    character turn into U+FFFD, as ``bytes.decode(errors="replace")`` has it. Text that may be the
    beginning of a stop string is held back too. The text ends before the stop string that was
    complete first (of two that end at the same character, the longer one): this depends on the
    text alone, and not on how it was cut into tokens.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._stops = stops
        self._beginnings = {stop[:length] for stop in stops for length in range(1, len(stop))}
        self._longest = max((len(stop) for stop in stops), default=0)
        self._held = ""
        self.stopped = False

    def add(self, data: bytes) -> str:
        """The text that may be shown now; "" when there is none."""
        text = self._decode(data)
        return self._scan(text) if self._stops else text

    def end(self) -> str:
        """The rest, once no more bytes follow."""
        text = self._decode(b"", True)
        if not self._stops:
            return text
        shown = self._scan(text)
        if not self.stopped:
            shown, self._held = shown + self._held, ""
        return shown

    def _scan(self, text: str) -> str:
        if not text or self.stopped:
            return ""
        held = self._held + text
        matches = [
            (start + len(stop), start) for stop in self._stops if (start := held.find(stop)) >= 0
        ]
        if matches:
            self.stopped = True
            self._held = ""
            return held[: min(matches)[1]]
        for length in range(min(self._longest - 1, len(held)), 0, -1):
            if held[-length:] in self._beginnings:
                self._held = held[-length:]
                return held[:-length]
        self._held = ""
        return held
