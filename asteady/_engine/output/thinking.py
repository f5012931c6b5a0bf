"""The reasoning of thinking models, told from the text that comes after it.

A chat template that knows a pair of thinking tags tells which ones its model writes. The answer's
beginning up to the end tag is reasoning. Where the tags are control tokens, which are not part of
the text, they are followed in a form of their own: as lone surrogates, which no decoded text has.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

from asteady._engine.models.thinking_tags import ThinkingTags

_HIDDEN = 0xDC00
_FOLD = {_HIDDEN + code: code for code in range(128)}
_SHOW = dict.fromkeys(_FOLD)


def hidden(text: str) -> str:
    """The ASCII text of a control token, to be followed without being shown."""
    return "".join(chr(_HIDDEN + ord(char)) for char in text)


class _State(Enum):
    BEGIN = auto()
    REASONING = auto()
    BETWEEN = auto()
    """After a block of reasoning, before the text."""
    TEXT = auto()


class ReasoningSplitter:
    """Tells reasoning from text, as the characters of one answer come.

    White space right around the tags belongs to neither; an answer without tags stays as it is.
    What may be the beginning of a tag waits. With `opened` the prompt has the start tag already.
    """

    def __init__(self, tags: ThinkingTags, *, opened: bool) -> None:
        self._tags = tags
        self._state = _State.REASONING if opened else _State.BEGIN
        self._waiting = ""
        # A model may repeat the tag that its prompt ends with.
        self._may_repeat = opened
        # No character of the block of reasoning, or of the text, has come yet.
        self._first = opened
        self._reasoned = False

    @property
    def reasoning(self) -> bool:
        """Whether the answer is in its reasoning now."""
        return self._state is _State.REASONING

    def add(self, text: str) -> tuple[str, str]:
        """The reasoning that these characters complete, and the text after it."""
        self._waiting += text
        reasoning: list[str] = []
        more = True
        while more:
            if self._state is _State.TEXT:
                shown, self._waiting = self._waiting.translate(_SHOW), ""
                return "".join(reasoning), shown
            if self._state is _State.REASONING:
                part, more = self._take_reasoning()
                reasoning.append(part)
            else:
                more = self._take_tag()
        return "".join(reasoning), ""

    def end(self) -> tuple[str, str]:
        """What waits, when no more characters follow: reasoning, and text."""
        rest, self._waiting = self._waiting.translate(_SHOW), ""
        if self._state is _State.REASONING:
            return rest, ""
        return "", rest

    def _take_tag(self) -> bool:
        """Go on to what comes next; False to wait for it."""
        folded = self._waiting.translate(_FOLD)
        body = folded.lstrip()
        space = len(folded) - len(body)
        if self._state is _State.BETWEEN:
            self._waiting, space = self._waiting[space:], 0
        if not body:
            return False
        nexts = self._nexts()
        for tag, state in nexts:
            if body.startswith(tag):
                self._waiting = self._waiting[space + len(tag) :]
                self._state = state
                self._first = True
                if state is _State.TEXT:
                    self._waiting = self._waiting.lstrip()
                return True
        if any(tag.startswith(body) for tag, _ in nexts):
            return False
        self._state = _State.TEXT
        return True

    def _nexts(self) -> Sequence[tuple[str, _State]]:
        """The tags that may come now."""
        tags = self._tags
        if tags.text is None:
            return () if self._reasoned else ((tags.start, _State.REASONING),)
        nexts = [(tags.start, _State.REASONING), (tags.text, _State.TEXT)]
        if tags.between is not None:
            nexts.append((tags.between, _State.BETWEEN))
        return nexts

    def _take_reasoning(self) -> tuple[str, bool]:
        """Reasoning that is complete, and whether the end tag was after it."""
        if self._first:
            self._waiting = self._waiting.lstrip()
        folded = self._waiting.translate(_FOLD)
        if self._may_repeat and folded:
            start = self._tags.start
            if folded.startswith(start):
                self._waiting = self._waiting[len(start) :].lstrip()
                folded = self._waiting.translate(_FOLD)
            elif start.startswith(folded):
                return "", False
            self._may_repeat = False
        end = self._tags.end
        at = folded.find(end)
        done = at >= 0
        if not done:
            lengths = range(min(len(end) - 1, len(folded)), 0, -1)
            at = len(folded) - next((n for n in lengths if end.startswith(folded[-n:])), 0)
        size = len(folded[:at].rstrip())
        part = self._waiting[:size].translate(_SHOW)
        if part and self._first:
            part = "\n" * self._reasoned + part
            self._first = False
        if done:
            self._waiting = self._waiting[at + len(end) :]
            self._state = _State.BETWEEN
            self._reasoned = True
        else:
            self._waiting = self._waiting[size:]
        return part, done
