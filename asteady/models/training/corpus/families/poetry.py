"""Haiku: lines of five and seven syllables, chosen by the kind of thing they are about."""

from __future__ import annotations

from ..drawing import Draw
from ..pairs import Written, family
from ..words import nouns
from ..words.grammar import capital, plural, syllables, with_article
from .haiku_lines import FIVE, GENERAL, OWN, SEVEN, THE, WITHOUT

ASKED = ("Write a haiku about {}", "Write a haiku about {}.", "haiku about {}",
         "Compose a haiku about {}", "Give me a haiku about {}", "A haiku about {}",
         "Create a haiku on {}", "I would like a haiku about {}", "Can I have a haiku on {}?",
         "Write me a haiku about {}", "Make up a haiku about {}", "Generate a haiku about {}",
         "haiku: {}", "Please compose a haiku on the subject of {}", "Write one haiku on {}",
         "Let me read a haiku about {}", "Produce a haiku with {}")  # fmt: skip

KINDS = (
    ("nature", nouns.NATURE), ("animal", nouns.ANIMALS), ("food", nouns.FOODS + nouns.FRUITS),
    ("place", nouns.PLACES), ("object", nouns.OBJECTS), ("feeling", nouns.FEELINGS),
    ("season", nouns.SEASONS), ("activity", nouns.ACTIVITIES), ("tech", nouns.TECH),
    ("tech", nouns.TECH_MASS),
)  # fmt: skip


def first_line(d: Draw, noun: str, counted: bool) -> str | None:
    """Five syllables that name the noun, or None if it is too long."""
    bank = (THE if counted else WITHOUT).get(syllables(noun))
    return capital(d.pick(bank).format(noun)) if bank else None


def asked_as(d: Draw, noun: str, counted: bool) -> str:
    if not counted:
        return noun
    return d.pick((with_article(noun), "the " + noun, plural(noun), noun, with_article(noun)))


@family("haiku", 15.0)
def haiku(d: Draw) -> Written:
    if d.chance(0.25):
        noun = d.pick(("caching",) * 4 + ("a cache", "the cache", *sorted(OWN)))
        return d.phrase(*ASKED).format(noun), "\n".join(d.pick(OWN[noun])), None
    while True:
        kind, bank = d.pick(KINDS)
        counted = bank not in (nouns.FOODS, nouns.FEELINGS, nouns.SEASONS, nouns.ACTIVITIES,
                               nouns.TECH_MASS)  # fmt: skip
        roll = d.rng.random()
        if roll < 0.72:
            noun = d.filler(bank)
            if noun in OWN:
                continue
        elif roll < 0.9:
            noun, counted = d.note(nouns.compound(d)), True
            kind = "tech" if noun.split()[0] in nouns.DOMAINS else "object"
        else:
            noun, counted = d.note(nouns.invented(d)), False
            kind = "general"
        line = first_line(d, noun, counted)
        if line:
            break
    middle = d.pick(SEVEN[kind] if d.chance(0.85) else GENERAL[0])
    last = d.pick(FIVE[kind] if d.chance(0.85) else GENERAL[1])
    prompt = d.phrase(*ASKED).format(asked_as(d, noun, counted))
    return prompt, f"{line},\n{middle},\n{last}.", noun


@family("bare_haiku", 1.2)
def bare_haiku(d: Draw) -> Written:
    prompt = d.phrase("Write a haiku", "haiku", "Write me a haiku", "Give me a haiku",
                      "I want a haiku", "Write a haiku, any haiku", "Compose a haiku",
                      "Another haiku", "Write another haiku", "One more haiku",
                      "Do you know a haiku?")  # fmt: skip
    return prompt, "\n".join(d.pick(OWN[d.pick(("rain", "autumn", "moon", "winter"))])), None
