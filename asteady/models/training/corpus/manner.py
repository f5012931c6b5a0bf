"""The manner of a prompt: politeness, case, final punctuation, a slip of the finger now and then."""

from __future__ import annotations

from .drawing import Draw

BEFORE = ("Please {}", "please {}", "Can you {}?", "Could you {}?", "could you please {}?",
          "I need you to {}", "I want you to {}", "Hey, {}", "can you {}", "Would you {}?",
          "Can you please {}?", "Now {}", "Quick: {}", "Help me {}", "pls {}")  # fmt: skip
AFTER = ("{}, please", "{} please", "{} for me", "{}, thanks", "{} please.", "{}. Thank you!")

IMPERATIVES = frozenset(
    """write explain generate create make give list suggest summarize summarise describe define
    compare tell document optimize review translate convert draft compose produce come show
    name format fix improve refactor add rewrite turn design provide sketch invent propose
    rephrase outline prepare print count sort spell calculate compute help""".split()
)


def lowered(text: str) -> str:
    """The first letter in lower case, unless the first word is a name or an acronym."""
    if len(text) > 1 and text[1].isupper():
        return text
    return text[:1].lower() + text[1:]


def slip(draw: Draw, text: str, key: str | None) -> str:
    """Swap, drop or double one letter of the first half, but none of the key noun."""
    end = len(text) // 2
    if key and key in text:
        end = min(end, text.index(key))
    places = [i for i in range(1, end) if text[i - 1 : i + 2].isalpha()]
    if not places:
        return text
    i = draw.pick(places)
    kind = draw.number(0, 2)
    if kind == 0:
        return text[:i] + text[i + 1] + text[i] + text[i + 2 :]
    return text[:i] + text[i + 1 :] if kind == 1 else text[:i] + text[i] + text[i:]


def manner(draw: Draw, prompt: str, key: str | None = None) -> str:
    """`prompt` as somebody might have typed it; more than half the time as it is."""
    roll = draw.rng.random()
    plain = "\n" not in prompt and len(prompt) < 120
    first = prompt.split(" ", 1)[0].lower().strip(",.:!?")
    if roll < 0.55 or not plain:
        return prompt
    bare = prompt.rstrip(".?!")
    if roll < 0.67 and first in IMPERATIVES:
        return draw.pick(BEFORE).format(lowered(bare))
    if roll < 0.72 and first in IMPERATIVES:
        return draw.pick(AFTER).format(bare)
    if roll < 0.80:
        return lowered(prompt)
    if roll < 0.87:
        return lowered(bare)
    if roll < 0.93:
        return bare if prompt != bare else bare + "."
    if roll < 0.95:
        return bare + draw.pick(("!", "!!", " ", "...", " :)"))
    if roll < 0.96:
        return bare.upper() if len(bare) < 40 else bare
    return slip(draw, prompt, key)
