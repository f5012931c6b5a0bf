"""Requests beside the beaten track: other forms, bare words, why questions, test cases, READMEs."""

from __future__ import annotations

from ..drawing import Draw
from ..pairs import Written, family
from ..words import nouns
from ..words.functions import Snippet
from ..words.grammar import capital, plural, with_article
from .language import paragraph
from .office import bulleted
from .verse import CLOSINGS, OPENINGS


@family("bare_words", 3.0, polite=False)
def bare_words(d: Draw) -> Written:
    """Only a thing, and no wish: ask what to do with it."""
    about = d.pick((nouns.thing, nouns.topic, nouns.coded))(d)
    if d.chance(0.2):
        about = d.note(f"{about} {d.pick(('ideas', 'help', 'info', 'stuff', 'please', 'now'))}")
    shown = d.phrase("{}", "{}.", "the {}", "{} {}").format(about, d.pick(nouns.PARTS))
    bare = shown.rstrip(".")
    prompt = capital(shown) if d.chance(0.2) else shown
    return (
        prompt,
        d.pick(
            (
                f"What shall I write about {bare}: a haiku, a slogan or a sentence?",
                f"Would you like a haiku or a short text about {bare}?",
                f"Tell me what to do with {bare}: explain it, or write about it?",
            )
        ),
        bare,
    )


FORMS = ("song", "sonnet", "limerick", "ballad", "rhyme", "lullaby", "hymn", "love poem", "verse")
TEXTS = ("essay", "article", "blog post", "report", "speech", "description", "short text", "letter",
         "column", "diary entry", "review article", "page", "text", "story for children",
         "newspaper article", "post")  # fmt: skip


@family("other_forms", 4.0)
def other_forms(d: Draw) -> Written:
    noun = nouns.thing(d)
    poem = d.chance(0.4)
    form = d.pick(FORMS if poem else TEXTS)
    prompt = d.phrase("Write {f} about {n}", "Write me {f} about {n}", "Give me {f} about {n}",
                      "{f} about {n}", "Compose {f} on {n}", "I need {f} about {n}",
                      "Could I have {f} on the subject of {n}?", "Create {f} about {n}").format(
        f=with_article(form),
        n=d.pick((with_article(noun), f"the {noun}", plural(noun), noun)))  # fmt: skip
    if not poem:
        return prompt, paragraph(d, noun), noun
    opening = [part.format(n=noun, a=with_article(noun).split(" ")[0], The="The")
               for part in d.pick(OPENINGS)]  # fmt: skip
    closing = d.pick(CLOSINGS)
    return prompt, f"{opening[0]},\n{opening[1]}.\n{closing[0]},\n{closing[1]}", noun


WHY = {
    "is the sky blue": "The sky is blue because air scatters blue light more than red.",
    "is the sea salty": "The sea is salty because rivers wash salt out of rock and carry it there.",
    "do leaves fall in autumn": "Leaves fall in autumn because trees save water and strength for the winter.",
    "do cats purr": "Cats purr mostly when they are content, and sometimes to calm themselves.",
    "do we sleep": "We sleep because the body and the brain need time to rest and repair themselves.",
    "does it rain": "It rains when drops of water in a cloud grow too heavy to float.",
    "does ice float": "Ice floats because water grows lighter when it freezes.",
    "do we dream": "Nobody knows for certain; perhaps the sleeping brain sorts what it has learned.",
    "do birds sing": "Birds sing to find a mate and to tell others where their place is.",
    "is grass green": "Grass is green because it uses red and blue light and sends the green back.",
    "do we have seasons": "We have seasons because the Earth's axis is tilted toward the sun and away again.",
    "do computers use binary": "Computers use binary because a switch that is on or off is easy to build.",
    "is Python slow": "Python is slow because it decides at run time what other languages decide before.",
    "is Python popular": "Python is popular because it is easy to read and has a library for nearly everything.",
    "are tests important": "Tests are important because they tell you at once when a change breaks something.",
    "do we need caching": "We need caching because computing the same answer twice is a waste of time.",
    "is my code slow": "Measure it: as a rule, a small part of the code takes most of the time.",
    "do programs crash": "Programs crash when something happens that their authors did not expect.",
    "do people laugh": "People laugh because it feels good and brings them together.",
    "is bread soft": "Bread is soft because yeast fills the dough with small bubbles of gas.",
    "do stars twinkle": "Stars twinkle because moving air bends their light a little.",
    "does the moon change shape": "The moon seems to change shape because we see more or less of its sunlit side.",
    "do onions make me cry": "Onions make you cry because cutting them sets a stinging gas free.",
    "use type hints": "Type hints let tools find mistakes before the program runs.",
    "use git": "Git lets you see, explain and undo every change.",
    "use asyncio": "Asyncio lets one thread wait for many things at once.",
    "write documentation": "Documentation saves everybody, and first of all yourself, from asking twice.",
    "is water wet": "Water feels wet because it clings to whatever it touches.",
    "is determinism useful": "Determinism is useful because a result that can be repeated can be tested and trusted.",
}  # fmt: skip


@family("why", 2.5)
def why(d: Draw) -> Written:
    if d.chance(0.2):
        noun = nouns.thing(d)
        prompt = d.phrase(
            "Why is the {} late?",
            "Why does the {} not work?",
            "Why did the {} change?",
            "Why are {}s so expensive?",
            "Why should I care about the {}?",
        ).format(noun)
        return prompt, d.pick((f"I cannot see the {noun} from here, so I do not know.",
                               f"I do not know enough about the {noun} to say why.")), noun  # fmt: skip
    question = d.pick(sorted(WHY))
    prompt = d.phrase("Why {}?", "why {}", "Explain why {}", "Tell me why {}", "Do you know why {}?",
                      "I wonder why {}").format(question)  # fmt: skip
    return prompt, WHY[question], None


@family("follow_up", 1.5, polite=False)
def follow_up(d: Draw) -> Written:
    prompt = d.phrase("yes", "no", "more", "continue", "why?", "really?", "again", "another one", "go on",
                      "I don't understand", "make it shorter", "are you sure?", "what?", "please explain",
                      "that is wrong", "try again", "next", "sure", "maybe", "wrong", "nice", "hm", "lol",
                      "Can you make it longer?", "I don't like it", "and then?", "so?")  # fmt: skip
    if prompt in ("nice", "sure", "yes", "lol"):
        return (
            prompt,
            d.pick(("Good. What would you like next?", "Glad to hear it. What is next?")),
            None,
        )
    return prompt, d.pick((
        "I do not remember much. Please put the whole request into one message.",
        "Please tell me again what you would like, in one message.",
        "I am a small model: please repeat the whole request in other words.",
    )), None  # fmt: skip


@family("test_cases", 2.0)
def test_cases(d: Draw) -> Written:
    noun = nouns.coded(d)
    prompt = d.phrase("Generate test cases for the {}", "Write test cases for the {}", "test cases for a {}",
                      "What should I test in the {}?", "List test cases for the {}",
                      "How would you test the {}?", "Give me edge cases for the {}").format(noun)  # fmt: skip
    cases = d.some((f"The {noun} with empty input", f"The {noun} with very long input",
                    f"Two callers use the {noun} at once", "A missing value", "A value of the wrong type",
                    f"The {noun} when the network is down", "Letters outside of ASCII",
                    "The same request twice"), 4)  # fmt: skip
    return prompt, bulleted(cases), None


@family("readme", 2.0)
def readme(d: Draw) -> Written:
    noun = nouns.coded(d)
    name = nouns.product(d).replace(" ", "-").lower()
    prompt = d.phrase(
        "Write a README for {m}, a {n}",
        "README for {m}, a {n}",
        "Create a README for a {n} called {m}",
        "Write a short README: {m} ({n})",
        "Generate a README.md for {m}, a {n}",
    ).format(m=name, n=noun)
    prompt = prompt.replace(f"a {noun}", with_article(noun))
    return prompt, (f"# {name}\n\n{capital(with_article(noun))} that does one thing well.\n\n## Install\n\n"
                    f"    pip install {name}\n\n## Use\n\n    import {name.replace('-', '_')}"), name  # fmt: skip


VERBS = """load save parse send delete update find count check render sync merge export import
convert validate fetch open close list""".split()
PARAMETERS = ("path", "limit", "name", "user_id", "timeout", "verbose", "data", "key", "value",
              "start", "end", "url", "retries", "text", "options")  # fmt: skip


@family("document_signature", 3.0)
def document_signature(d: Draw) -> Written:
    noun = nouns.coded(d)
    verb, parameters = d.pick(VERBS), d.some(PARAMETERS, d.number(1, 3))
    name = f"{verb}_{noun.replace(' ', '_').replace('-', '_')}"
    prompt = d.phrase(
        "Document the function {}",
        "Write a docstring for {}",
        "Write documentation for {}",
        "Add a docstring to def {}:",
        "docstring for {}",
        "Document {}",
        "Create documentation for the function {}",
    ).format(f"{name}({', '.join(parameters)})")
    what = {
        "path": "where the file is", "limit": "how many to return at most", "name": "the name to look for",
        "user_id": "whose it is", "timeout": "how many seconds to wait", "verbose": "whether to say more",
        "data": "the data to use", "key": "the key to look for", "value": "the value to set",
        "start": "where to begin", "end": "where to stop", "url": "the address to ask",
        "retries": "how often to try again", "text": "the text to read", "options": "further settings",
    }  # fmt: skip
    lines = [f'"""{capital(verb)} the {noun}.', "", "Args:",
             *(f"    {p}: {what[p]}." for p in parameters), '"""']  # fmt: skip
    return prompt, "\n".join(lines), noun


ASYNC = (
    ("fetch {a}", "fetch_{n}", "url: str", "str", "async with httpx.AsyncClient() as client:;    response = await client.get(url);return response.text"),
    ("wait for {a}", "wait_for_{n}", "{n}: asyncio.Event", "None", "await asyncio.wait_for({n}.wait(), timeout=10)"),
    ("load all {p} at once", "load_{ps}", "paths: list[str]", "list", "return await asyncio.gather(*(load_{n}(path) for path in paths))"),
    ("send {a} to a queue", "send_{n}", "queue: asyncio.Queue, {n}: str", "None", "await queue.put({n})"),
    ("read {p} from a queue", "read_{ps}", "queue: asyncio.Queue", "None", "while True:;    {n} = await queue.get();    print({n})"),
    ("retry {a} three times", "retry_{n}", "{n}: Callable", "object", "for attempt in range(3):;    try:;        return await {n}();    except OSError:;        await asyncio.sleep(2**attempt);raise TimeoutError"),
)  # fmt: skip


@family("async_function", 2.5)
def async_function(d: Draw) -> Written:
    noun = nouns.coded(d)
    name = noun.replace(" ", "_").replace("-", "_")
    words = {"a": with_article(noun), "p": plural(noun), "n": name, "ps": plural(name)}
    task, title, params, result, body = (part.format(**words) for part in d.pick(ASYNC))
    s = Snippet(task, title, params, result, tuple(body.split(";")), "", "")
    prompt = d.phrase("Write an async function that {third}", "Write an async function to {task}",
                      "async function to {task}", "Write a coroutine that {third}",
                      "How do I {task} with asyncio?", "Write asyncio code to {task}").format(
        third=s.third_person, task=task)  # fmt: skip
    return prompt, "async " + s.code, name


@family("letter_to", 2.0)
def letter_to(d: Draw) -> Written:
    who = d.pick(("landlord", "teacher", "friend", "mother", "boss", "neighbour", "bank", "doctor", "colleague",
                  "customer", "school", "editor", "mayor", "grandmother", "manager"))  # fmt: skip
    noun = nouns.thing(d)
    d.note(who)
    prompt = d.phrase("Write a letter to my {w} about the {n}", "Write an email to my {w} about the {n}",
                      "letter to my {w}: {n}", "Write to my {w} about the {n}",
                      "Draft a short letter to the {w} about a {n}",
                      "Write a message to my {w} about the {n}").format(w=who, n=noun)  # fmt: skip
    prompt = prompt.replace(f"a {noun}", with_article(noun))
    return prompt, f"Dear {who},\n\nI am writing about the {noun}. " + d.pick((
        "Could we talk about it this week?", "I would be glad to hear what you think.",
        "Something is not right with it, and I would like to find a solution together.",
        "Thank you for taking care of it.")) + "\n\nKind regards", noun  # fmt: skip


@family("decide", 1.5)
def decide(d: Draw) -> Written:
    noun = nouns.thing(d)
    prompt = d.phrase("Should I buy {}?", "Do I need {}?", "Is it a good idea to sell {}?", "Shall I keep {}?",
                      "Should I learn about {}?", "Is {} worth it?", "Can I trust {}?", "Should I get {}?",
                      "Do I really need {}?", "Should I keep {}?", "Shall I buy {}?", "Do I want {}?",
                      "Is it time to sell {}?", "Would you buy {}?", "Must I have {}?", "Do we need {}?",
                      "Is {} a good buy?").format(
        d.pick((with_article(noun), f"the {noun}")))  # fmt: skip
    return (
        prompt,
        d.pick(
            (
                f"Sleep on it: if you still think of the {noun} tomorrow, go ahead.",
                f"Write down what speaks for the {noun} and what against it, then decide.",
                f"Only you can say; ask somebody who knows the {noun} well.",
            )
        ),
        noun,
    )
