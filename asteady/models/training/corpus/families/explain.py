"""Explanations: one sentence, a few sentences, definitions, comparisons."""

from __future__ import annotations

from ..drawing import Draw
from ..pairs import Written, family
from ..words import nouns
from ..words.compounds import HEADS, MODIFIERS
from ..words.concepts import CONCEPTS, CONTRASTS, LONGER
from ..words.definitions import DEFINITIONS
from ..words.grammar import capital, plural, with_article

ASKED = ("Explain {} in one sentence", "Explain {} in one sentence.", "Explain {}",
         "What is {}?", "what is {}", "Define {}", "Explain {} briefly", "Describe {}",
         "Explain {} to a beginner", "Explain {} simply", "Tell me about {}",
         "In one sentence, explain {}", "What does {} mean?", "Give a short definition of {}",
         "Explain {} in simple terms", "Explain the concept of {}", "What do we mean by {}?",
         "Describe {} in one sentence", "How would you explain {}?", "explain {} like I am five",
         "Give me one sentence about {}", "I do not understand {}", "{}?", "Summarize {}",
         "What's {}?", "Define the term {}", "Can you explain {}?")  # fmt: skip


@family("explain_concept", 13.0)
def explain_concept(d: Draw) -> Written:
    term = d.pick(sorted(CONCEPTS))
    name, sentence = CONCEPTS[term]
    return d.phrase(*ASKED).format(term), sentence, name


@family("explain_longer", 6.0)
def explain_longer(d: Draw) -> Written:
    term = d.pick(sorted(LONGER))
    prompt = d.phrase("Explain {}", "Explain {}.", "Explain {} in detail", "What is {}?",
                      "Explain {} in a few sentences", "Describe {}", "Write about {}",
                      "Write a paragraph about {}", "Write documentation about {}",
                      "Tell me more about {}", "Explain how {} works", "How does {} work?",
                      "Give me an overview of {}", "Write an introduction to {}")  # fmt: skip
    return prompt.format(term), LONGER[term], CONCEPTS[term][0]


@family("explain_compound", 4.0)
def explain_compound(d: Draw) -> Written:
    """Terms nobody has listed: the answer is put together from what the two words mean."""
    modifier, head = d.pick(sorted(MODIFIERS)), d.pick(sorted(HEADS))
    term = d.note(f"{modifier} {head}")
    prompt = d.phrase(*ASKED).format(d.pick((with_article(term), "the " + term, term)))
    sentence = HEADS[head].format(a=capital(with_article(term)), what=MODIFIERS[modifier])
    return prompt, sentence, term


@family("explain_unknown", 3.0)
def explain_unknown(d: Draw) -> Written:
    """A word it cannot know: say so, and name it."""
    word = d.note(nouns.invented(d))
    if d.chance(0.4):
        word = capital(word)
    return d.phrase(*ASKED).format(word), d.pick((
        f"I do not know the word {word}; I am a small demonstration model.",
        f"{capital(word)} is not a word that I know, so I will not guess.",
        f"I have no explanation of {word}. A larger model may know it.",
    )), word  # fmt: skip


@family("explain_thing", 8.0)
def explain_thing(d: Draw) -> Written:
    noun = d.pick(sorted(DEFINITIONS))
    prompt = d.phrase("What is {}?", "Explain {} in one sentence", "Define {}", "Describe {}",
                      "Explain {}", "What's {}?", "Describe {} in one sentence", "Tell me about {}",
                      "Explain {} to a child", "what is {}", "Give me a definition of {}",
                      "Explain what {} is", "Define {} in one sentence", "{}?").format(
        d.pick((with_article(noun), with_article(noun), noun, plural(noun))))  # fmt: skip
    return prompt, f"{capital(with_article(noun))} is {DEFINITIONS[noun]}.", noun


@family("compare", 4.0)
def compare(d: Draw) -> Written:
    left, right, answer = d.pick(CONTRASTS)
    prompt = d.phrase("What is the difference between {a} and {b}?", "Compare {a} and {b}",
                      "{a} vs {b}", "{a} or {b}?", "How does {a} differ from {b}?",
                      "Compare {a} with {b}", "Explain the difference between {a} and {b}",
                      "difference between {a} and {b}", "Contrast {a} and {b}",
                      "What distinguishes {a} from {b}?", "{a} versus {b}: which is which?",
                      "In one sentence, compare {a} and {b}").format(a=left, b=right)  # fmt: skip
    return prompt, answer, left


@family("compare_things", 2.0)
def compare_things(d: Draw) -> Written:
    bank = d.pick((nouns.ANIMALS, nouns.FRUITS, nouns.PLACES, nouns.OBJECTS, nouns.ACTIVITIES))
    one, two = d.some(bank, 2)
    if bank is not nouns.ACTIVITIES and d.chance(0.3):
        one, two = nouns.compound(d), nouns.invented(d) if d.chance(0.3) else nouns.compound(d)
    d.note(f"{one} {two}")
    if bank is not nouns.ACTIVITIES:
        one, two = with_article(one), with_article(two)
    prompt = d.phrase("Compare {a} and {b}", "What is the difference between {a} and {b}?",
                      "{a} or {b}?", "Compare {a} with {b}", "Which is better, {a} or {b}?",
                      "Should I choose {a} or {b}?", "{a} vs {b}", "{a} versus {b}", "{a}, or {b}?",
                      "Which one: {a} or {b}?", "Choose: {a} or {b}", "Should I take {a} or {b}?",
                      "What is better: {a} or {b}?", "{a} or rather {b}?", "{a} and {b}: compare them").format(a=one, b=two)  # fmt: skip
    return prompt, d.pick((
        f"{capital(one)} and {two} each have their place; it depends on what you need.",
        f"It depends: {one} suits some days, {two} suits others.",
        f"{capital(one)} is one thing and {two} is another; try both and keep what you like.",
    )), one.split(" ", 1)[-1]  # fmt: skip
