"""Running text without a question: what a prompt that skips the chat template continues."""

from __future__ import annotations

from ..drawing import Draw
from ..pairs import Written, document, family
from ..words import nouns
from ..words.concepts import CONCEPTS, LONGER
from ..words.definitions import DEFINITIONS
from ..words.grammar import capital, with_article
from .language import paragraph, sentence
from .verse import story


@document
def tale(d: Draw) -> str:
    noun = nouns.thing(d)
    return " ".join((story(d, noun), sentence(d, noun), sentence(d, nouns.thing(d))))


@document
def sketch(d: Draw) -> str:
    return " ".join((paragraph(d, nouns.thing(d)), sentence(d, nouns.thing(d))))


@document
def lesson(d: Draw) -> str:
    terms = d.some(sorted(CONCEPTS), 3)
    return " ".join(CONCEPTS[term][1] for term in terms)


@document
def essay(d: Draw) -> str:
    return LONGER[d.pick(sorted(LONGER))]


@document
def glossary(d: Draw) -> str:
    chosen = d.some(sorted(DEFINITIONS), 3)
    return " ".join(f"{capital(with_article(n))} is {DEFINITIONS[n]}." for n in chosen)


@document
def diary(d: Draw) -> str:
    place, thing, other = d.pick(nouns.PLACES), nouns.thing(d), d.pick(nouns.COUNT_NOUNS)
    return " ".join((
        d.pick((f"This morning I went to the {place}.", f"I spent the day at the {place}.",
                f"We arrived at the {place} before noon.")),
        d.pick((f"Somebody had left {with_article(thing)} on a bench.",
                f"I had hoped to find {with_article(thing)} there.",
                f"An old man was selling {with_article(thing)}.")),
        d.pick((f"It reminded me of the {other} we used to have at home.",
                f"Next to it lay {with_article(other)}, as if it had always been there.",
                f"I thought of the {other} and walked on.")),
        d.pick(("In the evening it began to rain.", "I came home late and slept well.",
                "Nothing else happened, and I was glad of it.", "Tomorrow I will go again.")),
    ))  # fmt: skip


WRITERS = (tale, sketch, lesson, glossary, diary)


@family("long_summary", 1.5, polite=False)
def long_summary(d: Draw) -> Written:
    """A text of several sentences with a request: its first sentence says what it is about."""
    parts = [d.pick(WRITERS)(d) for _ in range(d.pick((1, 1, 2, 3, 5, 8)))]
    first = parts[0].split(". ")[0].rstrip(".") + "."
    prompt = d.phrase("Summarize the following text: {}", "Summarize this text: {}",
                      "Summarize this in one sentence: {}", "tl;dr: {}", "{} What is this about?",
                      "What is this text about? {}", "Summarize:\n\n{}",
                      "Give me a one-sentence summary: {}").format(" ".join(parts))  # fmt: skip
    return prompt, first, None
