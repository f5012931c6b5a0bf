"""Takes data out of texts: the answers are values of a type, always.

    python -m pip install "asteady[pydantic]"
    python examples/extraction.py

The built-in model is a demonstration, so what it finds is not worth much; try
ASTEADY_GENERATION_MODEL=smollm2, or a larger model.
"""

import asyncio
from enum import Enum

from pydantic import BaseModel, Field

import asteady


class Kind(Enum):
    QUESTION = "question"
    COMPLAINT = "complaint"
    PRAISE = "praise"


class Order(BaseModel):
    article: str = Field(max_length=40)
    amount: int | None = Field(ge=1, le=100)


# Examples help a small model more than a description. All requests share them, so they are computed
# once.
SHARED = [
    {"role": "system", "content": "Write article and amount of what is ordered, as JSON."},
    {"role": "user", "content": "Send four black chairs."},
    {"role": "assistant", "content": '{"article": "black chairs", "amount": 4}'},
    {"role": "user", "content": "Is the red table still there?"},
    {"role": "assistant", "content": '{"article": "red table", "amount": null}'},
]
MAILS = [
    "Please send me three red umbrellas.",
    "One garden chair, as last time.",
    "I need 12 blue pens and nothing else.",
    "Do you have green tea?",
    "Two lamps and five bulbs, please.",
]


async def main() -> None:
    async with asteady.Session() as session, asyncio.TaskGroup() as group:
        orders = [
            group.create_task(
                session.generate(
                    messages=[*SHARED, {"role": "user", "content": mail}],
                    schema=Order,
                    max_new_tokens=100,
                )
            )
            for mail in MAILS
        ]
        kind = group.create_task(session.generate(f"What is this? {MAILS[0]}", choices=Kind))
        for mail, order in zip(MAILS, orders, strict=True):
            print(mail, "->", await order)
        print(MAILS[0], "->", await kind)


asyncio.run(main())
