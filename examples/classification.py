"""Puts texts into classes, says how probable each class is, and counts how often it is right.

    ASTEADY_GENERATION_MODEL=smollm2 python examples/classification.py

The built-in model is a demonstration and only guesses; `smollm2` is the smallest real model to try.
"""

import asyncio
import math
from collections.abc import Sequence
from enum import Enum

import asteady


class Topic(Enum):
    BILLING = "billing"
    DELIVERY = "delivery"
    TECHNICAL = "technical"


# A handful of texts whose class is known tells more than any impression.
LABELLED = [
    ("I was charged twice for my order.", Topic.BILLING),
    ("The parcel has not arrived yet.", Topic.DELIVERY),
    ("The app crashes when I open it.", Topic.TECHNICAL),
    ("Please send me an invoice with our address.", Topic.BILLING),
    ("The courier left the box with a neighbour.", Topic.DELIVERY),
    ("I cannot log in since the update.", Topic.TECHNICAL),
    ("When will I get my money back?", Topic.BILLING),
    ("The package was sent to my old address.", Topic.DELIVERY),
    ("The button does nothing on my phone.", Topic.TECHNICAL),
]


def question(text: str) -> list[dict[str, str]]:
    """The conversation that asks for the class of a text. What all share is computed once."""
    examples = [
        ("Why is there a fee on my bill?", Topic.BILLING),
        ("My parcel is late.", Topic.DELIVERY),
        ("I get an error message.", Topic.TECHNICAL),
    ]
    messages = [
        {"role": "system", "content": "Name the topic: billing, delivery or technical."},
    ]
    for example, topic in examples:
        messages.append({"role": "user", "content": example})
        messages.append({"role": "assistant", "content": topic.value})
    return [*messages, {"role": "user", "content": text}]


async def classify(session: asteady.Session, text: str) -> Topic:
    return await session.generate(messages=question(text), choices=Topic)


async def probabilities(
    session: asteady.Session, text: str, classes: Sequence[str]
) -> dict[str, float]:
    """How probable the model finds each class; they add up to 1.

    An answer with one choice has that text, whatever the model thinks of it, and the log
    probabilities of its tokens are the model's own. Their sum is that of the text.
    """
    answers = await asyncio.gather(
        *(session.complete(messages=question(text), choices=[each], logprobs=0) for each in classes)
    )
    scores = [math.fsum(token.logprob for token in answer.logprobs or ()) for answer in answers]
    weights = [math.exp(score - max(scores)) for score in scores]
    return {each: weight / sum(weights) for each, weight in zip(classes, weights, strict=True)}


async def main() -> None:
    async with asteady.Session() as session:
        found = await asyncio.gather(*(classify(session, text) for text, _ in LABELLED))
        right = 0
        for (text, topic), answer in zip(LABELLED, found, strict=True):
            right += answer is topic
            print(f"{answer.value:10} {'' if answer is topic else 'WRONG'} {text}")
        print(f"{right} of {len(LABELLED)} are right")

        for text in ("I was charged twice for my order.", "It does not work."):
            each = await probabilities(session, text, [topic.value for topic in Topic])
            print(text, {name: round(probability, 2) for name, probability in each.items()})


if __name__ == "__main__":
    asyncio.run(main())
