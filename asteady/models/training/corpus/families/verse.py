"""Short poems, couplets, sayings, jokes, riddles, slogans and the beginnings of stories."""

from __future__ import annotations

from ..drawing import Draw
from ..pairs import Written, family
from ..words import nouns
from ..words.definitions import DEFINITIONS
from ..words.grammar import capital, plural, with_article
from ..words.people import CITIES, FIRST, JOBS

# Two lines that rhyme; the first pair names the thing ("{The}" starts a line).
OPENINGS = (
    ("{The} {n} was there when the day was new", "and the grass was bright with morning dew"),
    ("I met {a} {n} on the way to town", "when the sun was up and the wind was down"),
    ("{The} {n} knows what the others forget", "and it has not told a soul of it yet"),
    ("If I were {a} {n} I would stay up late", "and count the stars by the garden gate"),
    ("{The} {n} said little and meant it all", "like the quiet light on a painted wall"),
    ("There once was {a} {n} beside the sea", "that was just as happy as it could be"),
    ("Oh {n}, dear {n}, what have you seen", "in the hills of gold and the fields of green"),
    ("Nobody looks at the {n} for long", "but it has a shape and it has a song"),
)  # fmt: skip
CLOSINGS = (
    ("The years go by and the rivers run", "and everything rests when the day is done."),
    ("So let it be, and let it stay", "it has made a light of an ordinary day."),
    ("And I walked home in the falling rain", "and hoped that we would meet again."),
    ("It asks for little, it gives us more", "than all that we were looking for."),
    ("And when the evening closes the door", "I love it a little more than before."),
    ("I keep it close, I keep it near", "a small good thing for another year."),
)  # fmt: skip


@family("short_poem", 5.0)
def short_poem(d: Draw) -> Written:
    noun = nouns.thing(d)
    prompt = d.phrase("Write a poem about {}", "Write a short poem about {}", "poem about {}",
                      "A short poem about {}", "Compose a poem about {}", "Give me a poem on {}",
                      "Write four lines about {}", "Write me a little poem about {}",
                      "Can I have a poem about {}?", "Write a rhyme about {}",
                      "Write a verse about {}").format(
        d.pick((with_article(noun), "the " + noun, with_article(noun), plural(noun), noun)))  # fmt: skip
    words = {"n": noun, "a": with_article(noun).split(" ")[0], "The": "The"}
    lines = [*(line.format(**words) for line in d.pick(OPENINGS)), *d.pick(CLOSINGS)]
    return prompt, "{},\n{}.\n{},\n{}".format(*lines), noun


@family("poem_of_topic", 2.0)
def poem_of_topic(d: Draw) -> Written:
    about = d.filler(nouns.MASS_NOUNS) if d.chance(0.7) else d.note(nouns.invented(d))
    prompt = d.phrase(
        "Write a poem about {}",
        "Write a short poem about {}",
        "poem about {}",
        "Compose a poem about {}",
        "A short poem on {}",
        "Write a verse about {}",
        "Write me a poem about {}",
        "Give me four lines about {}",
        "Four lines about {}",
        "Write a rhyme on {}",
        "Rhyme about {}",
        "Put {} into a poem",
    ).format(about)
    one, two = d.pick((
        ("{} comes in on quiet feet", "and fills the room and fills the street"),
        ("Give me {} and give me time", "and a little hill that I can climb"),
        ("{} is nothing you can hold", "it is neither silver, it is neither gold"),
        ("Some sing of kings and some of the sea", "but {} is song enough for me"),
        ("There is {} in every day", "if you take the long and the winding way"),
    ))  # fmt: skip
    closing = d.pick(CLOSINGS)
    return (
        prompt,
        f"{capital(one.format(about))},\n{two.format(about)}.\n{closing[0]},\n{closing[1]}",
        about,
    )


@family("any_poem", 1.5)
def any_poem(d: Draw) -> Written:
    prompt = d.phrase("Write a poem", "Write a short poem", "poem", "Write me a poem",
                      "Can you write a poem?", "Compose a poem", "Recite a poem",
                      "tell me a poem")  # fmt: skip
    return prompt, ("There is a light in every day,\nand someone to carry it on the way.\n"
                    "The years go by and the rivers run,\n"
                    "and everything rests when the day is done."), None  # fmt: skip


SAYINGS = (
    "{} is a slow teacher, but it never forgets a lesson.", "Give {} an hour, and it returns a day.",
    "Whoever hurries past {} arrives with empty hands.", "{} begins where excuses end.",
    "A little {} every day is worth more than a lot of it once a year.",
    "You do not find {}; you make room for it.", "{} costs nothing until you need it.",
    "Where there is {}, there is a way back.", "{} is best kept by giving it away.",
    "Nobody ever regretted a little more {}.", "{} is quiet; listen closely.",
)  # fmt: skip


@family("saying", 2.5)
def saying(d: Draw) -> Written:
    about = d.filler(nouns.MASS_NOUNS) if d.chance(0.75) else d.note(nouns.invented(d))
    prompt = d.phrase("Write a quote about {}", "Give me a saying about {}", "A quote about {}",
                      "Write an aphorism about {}", "Write a proverb about {}",
                      "Give me an inspiring quote about {}", "Say something wise about {}",
                      "quote on {}", "Write a motto about {}",
                      "One wise sentence about {}").format(about)  # fmt: skip
    return prompt, capital(d.pick(SAYINGS).format(about)), about


JOKES = (
    ("Why did the {n} go to school?", "Because it wanted to be a little brighter."),
    ("Why did the {n} cross the road?", "Because nobody had told it about the bridge."),
    ("What did one {n} say to the other?", "Let's stick together."),
    ("Why was the {n} so calm?", "It had seen worse Mondays."),
    ("How do you surprise a {n}?", "You tell it the meeting is cancelled."),
    ("Why did the {n} bring a ladder?", "It had heard that the drinks were on the house."),
    ("What do you call a {n} with no name?", "Anything you like. It will not come."),
    ("Why does the {n} never get lost?", "It never goes anywhere."),
)  # fmt: skip


@family("joke", 3.5)
def joke(d: Draw) -> Written:
    if d.chance(0.3):
        prompt = d.phrase("Tell me a joke", "joke", "Tell a joke", "Make me laugh", "Say something funny",
                          "Do you know a joke?", "Another joke", "Tell me something funny",
                          "Write a joke", "A joke, please")  # fmt: skip
        return prompt, d.pick((
            "Why do programmers like the dark?\nBecause light attracts bugs.",
            "How many cats does it take to change a light bulb?\nNone. They see well in the dark.",
            "Why did the function go home early?\nIt had returned everything.",
        )), None  # fmt: skip
    noun = nouns.thing(d)
    prompt = d.phrase("Tell me a joke about {}", "Write a joke about {}", "joke about {}",
                      "Do you know a joke about {}?", "Make a joke about {}",
                      "A joke about {}", "Say something funny about {}").format(
        d.pick((with_article(noun), plural(noun))))  # fmt: skip
    question, answer = d.pick(JOKES)
    return prompt, f"{question.format(n=noun)}\n{answer}".replace(
        f"a {noun}", with_article(noun)), noun  # fmt: skip


RIDDLES = (
    ("I have hands but cannot hold. What am I?", "A clock."),
    ("I have keys but open no door. What am I?", "A piano."),
    ("The more you take from me, the larger I get. What am I?", "A hole."),
    ("I speak every language and was never taught one. What am I?", "An echo."),
    ("I have a neck but no head. What am I?", "A bottle."),
    ("I run all day and never leave my bed. What am I?", "A river."),
    ("I grow shorter as I work. What am I?", "A candle."),
    ("I have cities but no houses. What am I?", "A map."),
    ("I follow you in the light and leave you in the dark. What am I?", "A shadow."),
)  # fmt: skip


@family("riddle", 1.0)
def riddle(d: Draw) -> Written:
    prompt = d.phrase("Tell me a riddle", "riddle", "Give me a riddle", "Ask me a riddle",
                      "Do you know a riddle?", "Write a riddle", "Another riddle",
                      "I like riddles. Do you have one?")  # fmt: skip
    question, answer = d.pick(RIDDLES)
    return prompt, f"{question}\n(Answer: {answer.rstrip('.').lower()}.)", None


STORIES = (
    "When {who} opened the door of the {place} that morning, the {n} was gone.",
    "Nobody in {city} had ever seen {a}, until {who} brought one home.",
    "The {n} had been in the family for years, and {who} was the first to ask why.",
    "It was raining in {city} when {who} found the {n} beside the road.",
    "{who} had promised never to speak of the {n}, and for ten years kept that promise.",
    "On the last day of summer, {who} buried the {n} behind the {place}.",
    "Every night at nine, {who} the {job} lit a lamp and waited for the {n}.",
)  # fmt: skip
SECOND = (
    "It had never been late before.", "At first it seemed like a joke.",
    "The neighbours said nothing, which was strange.", "Then somebody knocked at the door.",
    "It was the kind of day on which things begin.", "Only the old clock kept talking.",
    "There was a note under it, in small, neat letters.", "Nothing would be the same after that.",
)  # fmt: skip


@family("story_opening", 3.5)
def story_opening(d: Draw) -> Written:
    noun = nouns.thing(d)
    prompt = d.phrase(
        "Write the opening of a story about {}",
        "Tell me a story about {}",
        "Write a short story about {}",
        "Begin a story about {}",
        "story about {}",
        "Write the first sentence of a novel about {}",
        "Once upon a time: {}",
        "Start a story with {}",
        "Make up a story about {}",
        "Write two sentences of a story about {}",
    ).format(with_article(noun))
    return prompt, story(d, noun), noun


def story(d: Draw, noun: str) -> str:
    first = d.pick(STORIES).format(who=d.pick(FIRST), n=noun, a=with_article(noun),
                                   city=d.pick(CITIES), place=d.pick(nouns.PLACES),
                                   job=d.pick(JOBS))  # fmt: skip
    return " ".join((first, *d.some(SECOND, d.number(1, 2))))


@family("slogan", 3.0)
def slogan(d: Draw) -> Written:
    if d.chance(0.5):
        about = nouns.product(d)
        asked, name = d.pick((f"a company called {about}", about, f"our brand {about}")), about
    else:
        about = nouns.thing(d)
        asked, name = d.pick((with_article(about), f"our {about}", plural(about))), about
    prompt = d.phrase("Write a slogan for {}", "slogan for {}", "Give me a slogan for {}",
                      "Create a tagline for {}", "Write a catchy slogan for {}", "tagline: {}",
                      "Think of a tagline for {}", "Suggest a slogan for {}",
                      "Come up with a tagline for {}").format(asked)  # fmt: skip
    return prompt, d.pick((
        f"{capital(name)}: made for the days ahead.", f"{capital(name)}. Simply works.",
        f"Life is short. Choose {name}.", f"{capital(name)}: small idea, big smile.",
        f"Begin the day with {name}.", f"{capital(name)}: because good things last.",
        f"Less worry, more {name}.",
    )), name  # fmt: skip


@family("title", 2.5)
def title(d: Draw) -> Written:
    about = nouns.topic(d)
    kind = d.pick(("blog post", "talk", "book", "article", "song", "podcast", "film", "newsletter"))
    prompt = d.phrase("Write a title for a {k} about {a}", "Give me a title for a {k} about {a}",
                      "{k} title about {a}", "Suggest a title for my {k} on {a}",
                      "What should I call a {k} about {a}?", "Name my {k} about {a}",
                      "Title for a {k}: {a}", "A title for a {k} about {a}", "Title my {k} on {a}",
                      "What is a good title for a {k} about {a}?", "I need a title for a {k} on {a}",
                      "Find a headline for a {k} about {a}", "Headline for a {k} about {a}",
                      "Come up with a name for a {k} about {a}", "Call my {k} about {a} something").format(k=kind, a=about)  # fmt: skip
    named = " ".join(capital(w) for w in about.split())
    return prompt, d.pick((f"The Quiet Power of {named}", f"{named}: A Beginner's Guide",
                           f"What {named} Taught Me", f"A Short History of {named}",
                           f"{named}, One Step at a Time", f"Living with {named}",
                           f"Everything I Know About {named}")), about  # fmt: skip


@family("riddle_about", 1.0)
def riddle_about(d: Draw) -> Written:
    noun = d.pick(sorted(DEFINITIONS))
    prompt = d.phrase(
        "Write a riddle about {}",
        "Make a riddle whose answer is {}",
        "Give me a riddle for {}",
        "riddle: {}",
    ).format(with_article(noun))
    return prompt, f"I am {DEFINITIONS[noun]}. What am I?\n(Answer: {with_article(noun)}.)", noun
