"""Other words for the beginning of a phrasing, so that a family is asked for in more ways than
its writer thought of.

It works on templates, before anything is filled in, so that a reworded template is held out, or
not, by its own text.
"""

from __future__ import annotations

import random
import re

REWORDED = 0.4  # the share of the templates with a known opening that get another one

# What may stand for what in front of "a", "an", "the" or "some".
MAKE = ("Write", "Write me", "Create", "Generate", "Give me", "Make", "Compose", "Draft", "Produce",
        "Show me", "Provide", "Prepare", "I need", "I want", "I would like", "Make me")  # fmt: skip
SUGGEST = ("Suggest", "Propose", "Recommend", "Think of", "Come up with", "Find me", "Invent")
COUNT = ("Give me", "List", "Name", "Tell me", "Write", "Suggest", "Show me", "I need")
ARTICLES = "a|an|the|some"
NUMBERS = "two|three|four|five|ten|{count}"

# Openings that mean the same; a question mark at the end stays or comes with the opening.
SAME = (
    ("How do I ", "How can I ", "How would I ", "How should I ", "How to ",
     "What is the best way to "),
    ("Tell me about ", "Tell me something about ", "Tell me a little about ",
     "I want to know about ", "I would like to hear about "),
    ("Summarize ", "Summarise ", "Sum up ", "Give me a summary of "),
    ("Fix ", "Correct ", "Repair "),
    ("Review ", "Check ", "Look at ", "Look over "),
    ("Explain ", "Help me understand ", "Please explain "),
    ("What is ", "What's ", "What exactly is ", "And what is "),
    ("Translate ", "Please translate "),
    ("Should I ", "Do you think I should "),
)  # fmt: skip
# What asks for something that the prompt already names, and needs no question mark.
NAMED = ("What is the ", "What's the ", "Tell me the ", "Give me the ", "Say the ", "Name the ")

_MADE = re.compile(rf"^({'|'.join(sorted(MAKE, key=len, reverse=True))}) (?=({ARTICLES}) )")
_SUGGESTED = re.compile(rf"^({'|'.join(SUGGEST)}) (?=({ARTICLES}) )")
_COUNTED = re.compile(rf"^({'|'.join(COUNT)}) (?=({NUMBERS}|some) )")


def reword(rng: random.Random, template: str) -> str:
    """`template`, or the same with another opening."""
    if rng.random() >= REWORDED:
        return template
    if rng.random() < 0.2 and template.startswith(MAKE) and " about {" in template:
        return template.replace(" about {", rng.choice((" on {", " regarding {", " for {")))
    for pattern, openings in ((_COUNTED, COUNT), (_MADE, MAKE), (_SUGGESTED, SUGGEST)):
        if pattern.match(template):
            return pattern.sub(f"{rng.choice(openings)} ", template)
    if template.startswith(NAMED[:2]):
        opening = rng.choice(NAMED)
        rest = template.split(" the ", 1)[1]
        return opening + (rest if opening.startswith("What") else rest.rstrip("?"))
    for group in SAME:
        for opening in group:
            if template.startswith(opening):
                return rng.choice(group) + template[len(opening) :]
    return template
