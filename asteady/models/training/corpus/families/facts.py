"""Small facts: sums, capitals, units, calendars, members of a kind."""

from __future__ import annotations

from ..drawing import Draw
from ..pairs import Written, family
from ..words import nouns
from ..words.grammar import capital, plural, with_article

WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()


@family("arithmetic", 5.0)
def arithmetic(d: Draw) -> Written:
    # People try small sums first.
    largest = 10 if d.chance(0.6) else 20
    a, b = d.number(0, largest), d.number(0, largest)
    sign, name, value = d.pick(
        (
            ("+", "plus", a + b),
            ("-", "minus", a - b),
            ("*", "times", (a % 11) * (b % 11)),
            ("+", "plus", a + b),
        )
    )
    if sign == "*":
        a, b = a % 11, b % 11
    d.note(f"{a}{sign}{b}")
    if d.chance(0.15) and max(a, b) <= 12:
        prompt = f"What is {WORDS[a]} {name} {WORDS[b]}?"
    else:
        prompt = d.phrase("What is {a} {s} {b}?", "{a} {s} {b}", "{a}{s}{b}", "{a} {s} {b} =", "Calculate {a} {s} {b}",
                          "What is {a} {n} {b}?", "{a} {n} {b}", "How much is {a} {n} {b}?", "Compute {a} {s} {b}",
                          "what's {a}{s}{b}?", "{a}{s}{b}=?").format(a=a, b=b, s=sign, n=name)  # fmt: skip
    return prompt, f"{a} {sign} {b} = {value}", None


CAPITALS = """France Paris|Germany Berlin|Italy Rome|Spain Madrid|Portugal Lisbon|Austria Vienna
Switzerland Bern|Norway Oslo|Sweden Stockholm|Finland Helsinki|Denmark Copenhagen|Ireland Dublin
Poland Warsaw|Greece Athens|Turkey Ankara|Russia Moscow|Egypt Cairo|Kenya Nairobi|Japan Tokyo
China Beijing|India Delhi|Australia Canberra|Canada Ottawa|Mexico Mexico_City|Brazil Brasilia
Argentina Buenos_Aires|Peru Lima|Chile Santiago|Cuba Havana|Belgium Brussels|Hungary Budapest
Netherlands Amsterdam|England London|Scotland Edinburgh|Iceland Reykjavik|Thailand Bangkok
Vietnam Hanoi|Korea Seoul|Iran Tehran|Iraq Baghdad|Ukraine Kyiv|Croatia Zagreb|Romania Bucharest
Bulgaria Sofia|Serbia Belgrade|Morocco Rabat|Ghana Accra|Nigeria Abuja|Ethiopia Addis_Ababa
Indonesia Jakarta|Philippines Manila|Malaysia Kuala_Lumpur|Colombia Bogota|Ecuador Quito
Estonia Tallinn|Latvia Riga|Lithuania Vilnius|Slovakia Bratislava""".replace("\n", "|").split("|")


@family("capital_city", 3.5)
def capital_city(d: Draw) -> Written:
    # No country is held out: an answer that was never seen could only be a guess.
    country, city = (part.replace("_", " ") for part in d.pick(CAPITALS).split())
    prompt = d.phrase(
        "What is the capital of {}?",
        "capital of {}",
        "Name the capital of {}",
        "Which city is the capital of {}?",
        "Tell me the capital of {}",
        "{}'s capital?",
        "What's the capital city of {}?",
    ).format(country)
    return prompt, f"The capital of {country} is {city}.", country


UNITS = (
    ("minutes", "hour", 60), ("seconds", "minute", 60), ("hours", "day", 24), ("days", "week", 7),
    ("months", "year", 12), ("weeks", "year", 52), ("days", "year", 365), ("meters", "kilometer", 1000),
    ("grams", "kilogram", 1000), ("bits", "byte", 8), ("bytes", "kilobyte", 1024), ("legs", "spider", 8),
    ("sides", "triangle", 3), ("sides", "square", 4), ("legs", "dog", 4), ("wheels", "bicycle", 2),
    ("strings", "guitar", 6), ("letters", "alphabet", 26), ("centimeters", "meter", 100),
    ("years", "century", 100), ("years", "decade", 10), ("syllables", "haiku", 17), ("lines", "haiku", 3),
    ("players", "football team", 11), ("cents", "dollar", 100), ("items", "dozen", 12),
)  # fmt: skip


@family("how_many", 1.5)
def how_many(d: Draw) -> Written:
    many, one, count = d.pick(UNITS)
    whole = "the alphabet" if one == "alphabet" else with_article(one)
    prompt = d.phrase(
        "How many {m} are in {o}?",
        "How many {m} does {o} have?",
        "How many {m} in {o}?",
        "number of {m} in {o}",
        "Tell me how many {m} {o} has",
    ).format(m=many, o=whole)
    return prompt, f"{capital(whole)} has {count} {many}.", many


SERIES = {
    "days of the week": "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday",
    "months of the year": "January, February, March, April, May, June, July, August, September, October, November, December",
    "seasons": "spring, summer, autumn, winter", "vowels": "a, e, i, o, u",
    "primary colours": "red, yellow, blue", "colours of the rainbow": "red, orange, yellow, green, blue, indigo, violet",
    "planets": "Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus, Neptune",
    "continents": "Africa, Antarctica, Asia, Australia, Europe, North America, South America",
    "HTTP methods": "GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS",
    "first ten prime numbers": "2, 3, 5, 7, 11, 13, 17, 19, 23, 29",
    "cardinal directions": "north, east, south, west", "five senses": "sight, hearing, smell, taste, touch",
    "first ten Fibonacci numbers": "0, 1, 1, 2, 3, 5, 8, 13, 21, 34",
    "built-in Python types": "int, float, str, bool, list, tuple, dict, set",
}  # fmt: skip


@family("series", 1.5)
def series(d: Draw) -> Written:
    name = d.pick(sorted(SERIES))
    prompt = d.phrase("List the {}", "What are the {}?", "Name the {}", "Give me the {}", "Which {} are there?",
                      "Tell me the {}", "{}").format(name)  # fmt: skip
    return prompt, capital(SERIES[name]), None


KINDS = {
    "animals": nouns.ANIMALS, "fruits": "apple banana orange pear peach plum cherry lemon mango melon grape kiwi".split(),
    "vegetables": "carrot potato onion cucumber pumpkin spinach cabbage broccoli celery leek".split(),
    "colours": nouns.COLOURS, "trees": "oak pine willow birch maple ash elm cedar beech".split(),
    "flowers": "rose tulip daisy sunflower lily orchid violet poppy iris".split(),
    "birds": "owl crow sparrow robin swan heron eagle hawk falcon parrot pigeon crane".split(),
    "insects": "ant bee butterfly moth dragonfly firefly cricket ladybug".split(),
    "musical instruments": "guitar piano violin drum flute trumpet cello harp".split(),
    "programming languages": "Python JavaScript Rust Go Java Ruby C Haskell Kotlin Swift".split(),
    "drinks": "coffee tea water juice lemonade cider milk cocoa".split(),
    "tools": "hammer saw drill ladder wrench chisel rope brush".split(),
    "countries": "France Germany Italy Spain Norway Japan India Canada Brazil Kenya".split(),
    "cities": "Paris Berlin Rome Madrid Oslo Tokyo Delhi Toronto Lima Nairobi".split(),
    "hobbies": "reading cooking gardening running hiking cycling painting fishing knitting".split(),
    "vehicles": "car bus train bicycle boat ship tram truck".split(),
    "feelings": nouns.FEELINGS[:14], "sports": "football tennis rowing boxing running golf hockey".split(),
    "databases": "SQLite PostgreSQL MySQL Redis MongoDB Oracle".split(),
    "rooms": "kitchen bedroom bathroom attic cellar hall office".split(),
    "jobs": "teacher nurse baker pilot doctor farmer plumber writer".split(),
}  # fmt: skip
COUNTS = {"three": 3, "five": 5, "two": 2, "four": 4, "3": 3, "5": 5, "some": 3}


@family("name_some", 3.0)
def name_some(d: Draw) -> Written:
    kind, count = d.pick(sorted(KINDS)), d.pick(sorted(COUNTS))
    prompt = d.phrase("Name {n} {k}", "List {n} {k}", "Give me {n} {k}", "{n} {k}", "Tell me {n} {k}",
                      "Write a list of {n} {k}", "Can you name {n} {k}?", "I need {n} {k}").format(
        n=count, k=kind)  # fmt: skip
    chosen = d.some(KINDS[kind], COUNTS[count])
    if "list" in prompt.lower():
        return prompt, "\n".join(f"{i}. {capital(w)}" for i, w in enumerate(chosen, 1)), None
    return prompt, capital(", ".join(chosen)), None


@family("is_it", 2.0)
def is_it(d: Draw) -> Written:
    kinds = {"an animal": nouns.ANIMALS, "a place": nouns.PLACES, "a feeling": nouns.FEELINGS,
             "something to eat": nouns.FRUITS, "a part of nature": nouns.NATURE}  # fmt: skip
    asked, real = d.pick(sorted(kinds)), d.pick(sorted(kinds))
    if d.chance(0.5):
        real = asked
    noun = d.pick(kinds[real])
    name = noun if real == "a feeling" else with_article(noun)
    prompt = d.phrase("Is {n} {k}?", "is {n} {k}", "Yes or no: is {n} {k}?", "Would you say that {n} is {k}?",
                      "Do you think {n} is {k}?").format(n=name, k=asked)  # fmt: skip
    if asked == real:
        return prompt, f"Yes, {name} is {asked}.", noun
    return prompt, f"No, {name} is {real}.", noun


@family("sort_words", 1.5)
def sort_words(d: Draw) -> Written:
    count = d.number(3, 4)
    if d.chance(0.4):
        numbers = [d.number(1, 30) for _ in range(count)]
        shown, result = ", ".join(map(str, numbers)), ", ".join(map(str, sorted(numbers)))
        what = "numbers"
    else:
        words = d.some((*nouns.FRUITS, *nouns.ANIMALS, *nouns.COLOURS), count)
        shown, result, what = ", ".join(words), ", ".join(sorted(words)), "words"
    d.note(shown)
    prompt = d.phrase("Sort these {w}: {s}", "Sort: {s}", "Put these {w} in order: {s}", "Sort the {w} {s}",
                      "Order these {w}: {s}").format(w=what, s=shown)  # fmt: skip
    return prompt, result, None


@family("count_to", 1.0)
def count_to(d: Draw) -> Written:
    n = d.number(3, 15)
    if d.chance(0.2):
        prompt = d.phrase(
            "Count down from {}", "Count backwards from {}", "countdown from {}"
        ).format(n)
        return prompt, ", ".join(str(i) for i in range(n, 0, -1)), None
    prompt = d.phrase("Count to {}", "Count from 1 to {}", "List the numbers from 1 to {}", "count up to {}",
                      "Write the numbers 1 to {}").format(n)  # fmt: skip
    return prompt, ", ".join(str(i) for i in range(1, n + 1)), None


COMPLEX = {
    "binary search": "O(log n)", "linear search": "O(n)", "bubble sort": "O(n^2)", "merge sort": "O(n log n)",
    "quicksort": "O(n log n) on average", "a dictionary look-up": "O(1) on average", "appending to a list": "O(1)",
    "inserting at the start of a list": "O(n)", "sorting a list": "O(n log n)", "two nested loops": "O(n^2)",
    "insertion sort": "O(n^2)", "breadth-first search": "O(V + E)", "pushing to a heap": "O(log n)",
    "checking membership in a set": "O(1) on average", "checking membership in a list": "O(n)",
}  # fmt: skip


@family("complexity", 1.2)
def complexity(d: Draw) -> Written:
    what = d.pick(sorted(COMPLEX))
    prompt = d.phrase("What is the time complexity of {}?", "complexity of {}", "big O of {}", "How fast is {}?",
                      "Give the running time of {}", "Time complexity of {}").format(what)  # fmt: skip
    return prompt, f"The time complexity of {what} is {COMPLEX[what]}.", what


@family("colour_of", 1.2)
def colour_of(d: Draw) -> Written:
    thing, colour = d.pick(
        """grass green|snow white|coal black|a_lemon yellow|a_tomato red|the_sky blue
the_sun yellow|a_carrot orange|chocolate brown|an_elephant grey|a_crow black|milk white|blood red
a_frog green|the_sea blue|honey gold|a_swan white|a_pumpkin orange|a_banana yellow""".replace(
            "\n", "|"
        ).split("|")
    ).split()
    thing = thing.replace("_", " ")
    prompt = d.phrase("What colour is {}?", "What color is {}?", "colour of {}", "Which colour does {} have?",
                      "Name the colour of {}", "color of {}", "Name the color of {}", "What color does {} have?",
                      "What is the colour of {}?", "{}: which colour?", "The colour of {} is?").format(thing)  # fmt: skip
    return prompt, f"{capital(thing)} is {colour}.", thing


@family("what_kind", 1.0)
def what_kind(d: Draw) -> Written:
    kind = d.pick(
        (
            "animals",
            "trees",
            "flowers",
            "birds",
            "insects",
            "vegetables",
            "fruits",
            "tools",
            "vehicles",
        )
    )
    one, two, three = d.some(KINDS[kind], 3)
    d.note(f"{one} {two} {three}")
    prompt = d.phrase("What do {a}, {b} and {c} have in common?", "{a}, {b}, {c}: what are they?",
                      "Which group do {a}, {b} and {c} belong to?", "What are {a}, {b} and {c}?").format(
        a=plural(one), b=plural(two), c=plural(three))  # fmt: skip
    return prompt, f"They are all {kind}.", None
