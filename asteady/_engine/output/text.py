"""The text of one answer: whole characters, up to the first stop string."""

from __future__ import annotations

import codecs
from array import array
from collections.abc import Sequence

from asteady._engine.output.calls import CallSplitter
from asteady._engine.output.thinking import ReasoningSplitter, hidden


class _StopMatcher:
    """Finds a stop string in a text that comes character by character, in linear time and memory
    (Knuth, Morris and Pratt 1977).

    `matched` is how long a beginning of the stop string the text ends with.
    """

    def __init__(self, stop: str) -> None:
        self._stop = stop
        # For each beginning of the stop string, by length: its longest proper beginning that is
        # its end too.
        self._borders = array("I", [0, 0])
        self.matched = 0
        for char in stop[1:]:
            self.advance(char)
            self._borders.append(self.matched)
        self.matched = 0

    def advance(self, char: str) -> bool:
        """Take one more character, up to the first match; whether the stop string is complete."""
        matched = self.matched
        while matched and self._stop[matched] != char:
            matched = self._borders[matched]
        if self._stop[matched] == char:
            matched += 1
        self.matched = matched
        return matched == len(self._stop)


class TextStream:
    """Turns the bytes of one answer's tokens into chunks of text.

    An incomplete UTF-8 sequence waits for its last byte; bytes that can never become a character
    turn into U+FFFD, as with ``bytes.decode(errors="replace")``. Text that may be the beginning of
    a stop string waits too. The text ends before the stop string that is complete first (of two
    that end at the same character, the longer one). So it does not depend on how the text was cut
    into tokens.

    With a `splitter` what it finds to be reasoning is not text: `take_reasoning` gives what the
    calls so far completed of it, which comes before their text. No stop string is found in it.
    Neither is what `calls` finds to be calls of tools, which comes after all text.
    """

    def __init__(
        self,
        stops: Sequence[str],
        splitter: ReasoningSplitter | None = None,
        calls: CallSplitter | None = None,
    ) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._matchers = [_StopMatcher(stop) for stop in stops]
        self._waiting = ""
        self._splitter = splitter
        self._calls = calls
        self._reasoning = ""
        self.stopped = False

    @property
    def in_reasoning(self) -> bool:
        """Whether what comes next belongs to the reasoning."""
        return self._splitter is not None and self._splitter.reasoning

    @property
    def calling(self) -> bool:
        """Whether what comes next belongs to calls of tools."""
        return self._calls is not None and self._calls.calling

    def reject_calls(self) -> str:
        """The text that was taken for a call, and is none."""
        return "" if self._calls is None else self._scan(self._calls.reject())

    def add(self, data: bytes) -> str:
        """The text that these bytes complete; may be ""."""
        return self._scan(self._split(self._decode(data)))

    def add_hidden(self, text: str) -> str:
        """As `add`, of the ASCII text of a token that is no part of the text, but may be of a
        thinking tag."""
        return self._scan(self._split(hidden(text)))

    def take_reasoning(self) -> str:
        """The reasoning that was completed since the last call; may be ""."""
        taken, self._reasoning = self._reasoning, ""
        return taken

    def end(self, *, cut: bool) -> str:
        """The rest of the text, when no more bytes follow.

        `cut` says that more would have followed: a character that is incomplete is left out then,
        and otherwise turns into U+FFFD.
        """
        shown = self._scan(self._split("" if cut else self._decode(b"", True), last=True))
        if not self.stopped:
            shown, self._waiting = shown + self._waiting, ""
        return shown

    def _split(self, text: str, *, last: bool = False) -> str:
        if self._splitter is None:
            return self._without_calls(text, last=last)
        reasoning, shown = self._splitter.add(text)
        if last:
            more, rest = self._splitter.end()
            reasoning, shown = reasoning + more, shown + rest
        self._reasoning += reasoning
        return self._without_calls(shown, last=last)

    def _without_calls(self, text: str, *, last: bool) -> str:
        if self._calls is None:
            return text
        shown = self._calls.add(text)
        return shown + self._calls.end() if last else shown

    def _scan(self, text: str) -> str:
        if self.stopped or not self._matchers:
            return text
        whole = self._waiting + text
        for at, char in enumerate(text, len(self._waiting) + 1):
            complete = [matcher.matched for matcher in self._matchers if matcher.advance(char)]
            if complete:
                self.stopped = True
                self._waiting = ""
                return whole[: at - max(complete)]
        shown = len(whole) - max(matcher.matched for matcher in self._matchers)
        self._waiting = whole[shown:]
        return whole[:shown]
