"""Articles, plurals and syllables, as far as the word lists need them."""

from __future__ import annotations

import re

_LONG = {"fire": 1, "quiet": 2, "poem": 2, "lion": 2, "science": 2, "idea": 3, "area": 3,
         "piano": 3, "ocean": 2, "violin": 3, "client": 2, "diary": 3, "giant": 2, "violet": 3,
         "hour": 1, "flower": 2, "tower": 2, "power": 2, "people": 2, "being": 2, "coffee": 2,
         "evening": 2, "chocolate": 2, "every": 2, "different": 2, "recipe": 3, "orange": 2,
         "software": 2, "homework": 2, "database": 3, "firewall": 2, "namespace": 2,
         "something": 2, "someone": 2, "lonely": 2, "hopeful": 2, "careful": 2, "loneliness": 3,
         "create": 2, "theater": 3, "museum": 3, "volcano": 3, "queue": 1, "cache": 1,
         "tree": 1, "python": 2, "asyncio": 4, "concurrency": 4, "serendipity": 5, "api": 3,
         "business": 2, "candle": 2, "apple": 2, "table": 2, "curiosity": 5, "patience": 2,
         "silence": 2, "moonlight": 2, "sunrise": 2, "lifetime": 2, "homesickness": 3,
         "wireless": 2, "grapevine": 2, "firefly": 2, "snowflake": 2, "pancake": 2, "cupcake": 2,
         "toothbrush": 2, "horse": 1, "house": 1, "umbrella": 3, "cottage": 2, "message": 2,
         "village": 2, "bicycle": 3, "noise": 1, "breeze": 1}  # fmt: skip


def article(noun: str) -> str:
    """Which of "a" and "an" goes before the noun."""
    word = noun.split()[0].lower()
    if word in {"hour", "honest", "heir", "honor", "api", "sql", "html", "http", "ide", "ssh"}:
        return "an"
    if re.match(r"(uni|use|usu|eu|one|util|ut)", word) and not re.match(r"(unin|unim)", word):
        return "a"
    return "an" if word[0] in "aeiou" else "a"


def with_article(noun: str) -> str:
    return f"{article(noun)} {noun}"


def capital(text: str) -> str:
    """The first letter in upper case, the rest as it is."""
    return text[:1].upper() + text[1:]


_PLURALS = {"mouse": "mice", "sheep": "sheep", "deer": "deer", "goose": "geese",
            "wolf": "wolves", "leaf": "leaves", "tomato": "tomatoes", "potato": "potatoes",
            "mango": "mangoes", "goldfish": "goldfish", "scarf": "scarves", "volcano": "volcanoes",
            "echo": "echoes", "index": "indexes", "query": "queries", "salmon": "salmon",
            "person": "people", "child": "children"}  # fmt: skip


def plural(noun: str) -> str:
    start, _, last = noun.rpartition(" ")
    if last in _PLURALS:
        return f"{start} {_PLURALS[last]}".strip()
    if re.search(r"(s|x|z|ch|sh)$", noun):
        return noun + "es"
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + "s"


def syllables(text: str) -> int:
    """Syllables of an English phrase: a list of exceptions, and a rule that is mostly right."""
    return sum(_word(word) for word in re.findall(r"[a-z]+", text.lower()))


def _word(word: str) -> int:
    if word in _LONG:
        return _LONG[word]
    count = len(re.findall(r"[aeiouy]+", word))
    if re.search(r"[^aeiouyl]e$|[aeiouy]le$|[aeiouy][^aeiouytd]es$", word) and count > 1:
        count -= 1
    if re.search(r"[^aeiouytd]ed$", word) and count > 1:
        count -= 1
    count += len(re.findall(r"i[ao](?!us)|[^q]ua|eo|ying", word)) - len(
        re.findall(r"[tcsg]io", word)
    )
    return max(1, count)
