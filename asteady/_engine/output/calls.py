"""Calls of tools, told from the text before them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs

from asteady._engine.output.call_formats import CallFormat

# Only names are read of it; the longest numbers of Python are shorter than JSON's.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)


@attrs.frozen
class CallPlan:
    """How an answer may call tools: the matcher of its calls, from the start tag on.

    With `forced` it begins with one. `tokens` are the control tokens among the format's tags.
    """

    format: CallFormat
    matcher: Any
    forced: bool
    tokens: Mapping[str, int]

    @property
    def start_tokens(self) -> frozenset[int]:
        return frozenset(self.tokens[tag] for tag in self.format.starts if tag in self.tokens)


class CallSplitter:
    """Tells calls from the text before them, as the characters of one answer come.

    Nothing of a model's answer comes after its calls. White space right before them is no text.
    What may be the beginning of a call waits. `written` is what was written since a call began,
    of which the caller knows whether it is one: otherwise `reject` makes it text.
    """

    def __init__(self, format: CallFormat) -> None:
        self._format = format
        self._waiting = ""
        self._space = ""
        self._parsed = 0  # characters of `written`
        self._found: list[tuple[str, str]] = []
        self._over = False  # no call can begin any more
        self.calling = False
        self.written = ""

    def add(self, text: str) -> str:
        """The text that these characters complete."""
        if self.calling:
            self.written += text
            if "}" in text:
                self._parse()
            return ""
        if self._over:
            return text
        self._waiting += text
        at = self._start()
        shown = self._waiting if at is None else self._waiting[:at]
        size = len(shown) - self._held(shown) if at is None else len(shown.rstrip())
        rest, shown = self._waiting[size:], shown[:size]
        if at is None:
            self._waiting = rest
            return shown
        self.calling, self._waiting = True, ""
        self._space, self.written = self._split_space(rest)
        self._parse()
        return shown

    def take(self) -> list[tuple[str, str]]:
        """Name and arguments, as JSON, of the calls that were completed since the last time."""
        found, self._found = self._found, []
        return found

    def reject(self) -> str:
        """What was taken for a call is text."""
        text = self._space + self.written
        self.calling, self.written, self._space, self._parsed = False, "", "", 0
        self._found.clear()
        self._over = self._format.only_first
        return text

    def end(self) -> str:
        """The text that waits, when no more characters follow."""
        rest, self._waiting = self._waiting, ""
        return rest

    def _start(self) -> int | None:
        """Where a call begins."""
        text = self._waiting
        if self._format.only_first:
            body = text.lstrip()
            begins = body.startswith(self._format.starts)
            return len(text) - len(body) if begins else None
        places = [at for start in self._format.starts if (at := text.find(start)) >= 0]
        return min(places, default=None)

    def _held(self, text: str) -> int:
        """How many characters at the end may belong to a call, or to the white space before it."""
        if self._format.only_first:
            body = text.lstrip()
            if any(start.startswith(body) for start in self._format.starts):
                return len(text)
            self._over = True
            return 0
        longest = max(
            (
                size
                for start in self._format.starts
                for size in range(1, min(len(start), len(text) + 1))
                if text.endswith(start[:size])
            ),
            default=0,
        )
        return len(text) - len(text[: len(text) - longest].rstrip())

    def _split_space(self, text: str) -> tuple[str, str]:
        body = text.lstrip()
        return text[: len(text) - len(body)], body

    def _parse(self) -> None:
        """Read the calls that are complete; the grammar sees to their form."""
        separator, key = self._format.separator, self._format.key
        while True:
            if separator is None:
                at = self.written.find("{", self._parsed)
            else:
                at = self.written.find(separator, self._parsed)
            if at < 0:
                return
            begin = at if separator is None else at + len(separator)
            try:
                found, end = _DECODER.raw_decode(self.written, begin)
                if separator is None:
                    name = found["name"]
                    marker = f'"{key}": '
                    begin = self.written.index(marker, begin) + len(marker)
                    arguments = self.written[begin : end - 1]
                else:
                    before = self.written[self._parsed : at]
                    name = before.rpartition(self._format.starts[0])[2]
                    arguments = self.written[begin:end]
            except (ValueError, KeyError, TypeError):
                return
            self._found.append((name, arguments.strip()))
            self._parsed = end
