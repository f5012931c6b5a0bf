"""Texts, which clients may also give as the ids of tokens."""

from __future__ import annotations

from typing import Any

from asteady._base.errors import InvalidRequestError
from asteady._base.requests import Kind
from asteady._session.session import Session
from asteady.server._openai.errors import refused


async def texts_of(
    session: Session, kind: Kind, reference: str, param: str, given: object, most: int
) -> list[str]:
    """One text or several, each a text or a list of ids that the model's own tokenizer gave.

    Raises:
        ApiError: it is something else, or too many, or the model has no such token.
    """
    several: list[Any] = given if isinstance(given, list) else [given]
    if several and all(_is_id(each) for each in several):
        several = [several]
    if not several or not all(
        isinstance(each, str) or (isinstance(each, list) and each and all(map(_is_id, each)))
        for each in several
    ):
        raise refused(param, "a text, or a list of texts, or ids of tokens, is needed")
    if len(several) > most:
        raise refused(param, f"{len(several):,} texts are too many; {most:,} are allowed")
    try:
        return [
            each
            if isinstance(each, str)
            else await session.detokenize(each, model=reference, kind=kind)
            for each in several
        ]
    except InvalidRequestError as exc:
        raise refused(param, str(exc)) from None


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
