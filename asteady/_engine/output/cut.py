"""What to do about an answer that was cut before its form was complete."""

from __future__ import annotations

import json

from asteady._base.constraints import Constraint
from asteady._engine.output.schemas import most_bytes

ENDED_IN_REASONING = (
    "the model ended its answer in its reasoning: switch that off, where its template "
    'can, by chat_template_kwargs={"enable_thinking": False}'
)


def cut_message(
    constraint: Constraint | None, tokens: int, *, reasoned: bool, context_full: bool
) -> str:
    """The message of the error for an answer of so many tokens; `reasoned` says that some of them
    are of its reasoning."""
    most = None if constraint is None or reasoned else most_tokens(constraint)
    if context_full:
        remedy = "the context holds no more: shorten the prompt"
    elif most is None:
        remedy = "raise max_new_tokens, or have the form bound what repeats in it"
    else:
        remedy = f"{most} are always enough"
    return f"the answer was cut after {tokens} tokens, before its form was complete: {remedy}"


def most_tokens(constraint: Constraint) -> int | None:
    """How many tokens an answer of this form has at most; None if that is not bounded, or not
    known."""
    # A token is at least one byte.
    if constraint.kind == "json":
        return most_bytes(json.loads(constraint.source))
    if constraint.kind != "choices":
        return None
    # The longest choice ends where it ends.
    return max(len(text.encode()) for text in constraint.choices)
