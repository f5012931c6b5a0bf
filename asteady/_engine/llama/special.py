"""The texts of a vocabulary's special tokens, and where they are in a text."""

from __future__ import annotations

import functools
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]
"""Start and end of a part of a text."""


class SpecialTexts:
    """The texts of special tokens, found in linear time; usable from any thread.

    `exact` are those that llama.cpp takes as they are, without the white space around them.
    """

    def __init__(self, texts: Iterable[str], exact: Iterable[str] = ()) -> None:
        self._texts = sorted(set(texts))
        self._exact = set(exact)
        self._reversed = sorted(text[::-1] for text in self._texts)
        self._joined = "\0".join(self._texts)
        self._longest = max(map(len, self._texts), default=0)
        self._compiled = re.compile(_pattern(self._texts) if self._texts else r"(?!)")

    def find(self, text: str, start: int = 0) -> Span | None:
        """The first one from `start` on; the longest of those that begin there."""
        found = self._compiled.search(text, start)
        return found and found.span()

    def end_at(self, text: str, start: int) -> int | None:
        """The end of the longest one that begins at `start`."""
        found = self._compiled.match(text, start)
        return found and found.end()

    def is_part(self, text: str) -> bool:
        """Whether one of them contains this text, which is not only white space."""
        return text in self._joined and bool(text.strip())

    def unfinished(self, text: str) -> int:
        """The length of the longest end of `text` with which a longer special text begins."""
        lengths = range(min(len(text), self._longest - 1), 0, -1)
        return next((n for n in lengths if _is_beginning(text[-n:], self._texts)), 0)

    def unbegun(self, text: str) -> int:
        """The length of the longest beginning of `text` with which a longer special text ends."""
        lengths = range(min(len(text), self._longest - 1), 0, -1)
        return next((n for n in lengths if _is_beginning(text[n - 1 :: -1], self._reversed)), 0)

    def split(self, text: str, trusted: Sequence[Span] = ()) -> list[str]:
        """The text in pieces that contain no special text whole, but those at the `trusted` spans,
        which are in order and do not overlap."""
        bounds = [0, *dict.fromkeys(self._cuts(text, trusted)), len(text)]
        return [text[start:end] for start, end in pairwise(bounds)]

    def parts(self, text: str, size: int) -> Iterator[str]:
        """The text in parts of about `size` characters or more, which llama.cpp makes the same
        tokens of: each but the first begins with a special text that nothing else can overlap.

        llama.cpp itself looks for each special token in all the rest of a text after each one that
        it found, which takes minutes for a text of many.
        """
        begin = at = 0
        while (found := self.find(text, at)) is not None:
            start, end = found
            if text[start:end] in self._apart:
                if start - begin >= size:
                    yield text[begin:start]
                    begin = start
                at = end
            else:
                at = start + 1
        yield text[begin:]

    @functools.cached_property
    def _apart(self) -> frozenset[str]:
        """The exact ones that are in no other one, and share no beginning or end with one."""
        ends = {text[n:] for text in self._texts for n in range(1, len(text))}
        beginnings = {text[:n] for text in self._texts for n in range(1, len(text))}
        return frozenset(
            text
            for text in self._exact
            if not (text[0].isspace() or text[-1].isspace())
            and self._joined.count(text) == 1
            and not any(text[:n] in ends or text[n:] in beginnings for n in range(1, len(text)))
        )

    def _cuts(self, text: str, trusted: Sequence[Span]) -> Iterator[int]:
        spans = iter((*trusted, (len(text), len(text))))
        first, last = next(spans)
        found = self.find(text)
        while found is not None:
            start, end = found
            while last <= start:
                first, last = next(spans)
            if start < first:
                yield start + 1
            elif end > last:
                yield last
            found = self.find(text, start + 1)


def _pattern(texts: Sequence[str], shared: int = 0) -> str:
    """A regular expression for sorted texts, of which the first `shared` characters are the same
    and matched already.

    It is a tree, since an alternation of thousands of texts would try them all at each character.
    """
    # As they are sorted, what the first and the last share all do.
    first, last = texts[0], texts[-1]
    start = shared
    while shared < min(len(first), len(last)) and first[shared] == last[shared]:
        shared += 1
    longer = [text for text in texts if len(text) > shared]
    pattern = re.escape(first[start:shared])
    if longer:
        groups = groupby(longer, key=lambda text: text[shared])
        branches = "|".join(_pattern(list(group), shared) for _, group in groups)
        pattern += f"(?:{branches})" + ("?" if len(longer) < len(texts) else "")
    return pattern


def _is_beginning(text: str, texts: Sequence[str]) -> bool:
    """Whether one of these sorted texts begins with `text` and is longer."""
    at = bisect_left(texts, text + "\0")
    return at < len(texts) and texts[at].startswith(text)
