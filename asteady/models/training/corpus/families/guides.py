"""Short guides and examples of Python features, and of what the caching examples ask for."""

from __future__ import annotations

from ..drawing import Draw
from ..pairs import Written, family
from ..words import nouns
from ..words.grammar import capital

FEATURES = {
    "decorators": ("A decorator wraps a function in another one.", "def logged(fn):\n    def inner(*args):\n        print(fn.__name__)\n        return fn(*args)\n    return inner\n\n\n@logged\ndef add(a, b):\n    return a + b",
                   "Use decorators for what many functions share."),
    "generators": ("A generator yields values one at a time.", "def count(n):\n    for i in range(n):\n        yield i", "Use generators when the values are many."),
    "list comprehensions": ("A list comprehension builds a list in one line.", "squares = [n * n for n in range(10)]", "Keep it short; a loop is clearer for long ones."),
    "context managers": ("A context manager sets up and cleans up.", 'with open("notes.txt") as file:\n    text = file.read()', "The file is closed even if an error is raised."),
    "exceptions": ("An exception says that something went wrong.", "try:\n    value = int(text)\nexcept ValueError:\n    value = 0", "Catch only what you expect."),
    "dataclasses": ("A dataclass writes the usual methods for you.", "@dataclass\nclass Point:\n    x: float\n    y: float", "Add frozen=True if it should not change."),
    "type hints": ("Type hints say what goes in and out.", "def greet(name: str) -> str:\n    return f\"Hello, {name}!\"", "A type checker reads them; Python does not enforce them."),
    "asyncio": ("A coroutine can wait without blocking others.", "async def main():\n    await asyncio.sleep(1)\n\n\nasyncio.run(main())", "Never block inside of a coroutine."),
    "dictionaries": ("A dictionary finds values by their keys.", 'ages = {"Ann": 31}\nages["Bob"] = 27', "Use get() when a key may be missing."),
    "lambda functions": ("A lambda is a function in one expression.", "double = lambda n: 2 * n", "Give it a name with def if it grows."),
    "f-strings": ("An f-string puts values into text.", 'name = "Ann"\nprint(f"Hello, {name}!")', "Anything may stand between the braces."),
    "classes": ("A class bundles data with functions.", "class Counter:\n    def __init__(self):\n        self.value = 0\n\n    def add(self):\n        self.value += 1", "Keep classes small."),
    "loops": ("A loop repeats its block.", "for name in names:\n    print(name)", "Use enumerate() when you need the index."),
    "functions": ("A function gives a name to some steps.", "def area(width, height):\n    return width * height", "A good function does one thing."),
    "sets": ("A set holds each item once.", "seen = {1, 2, 2}\nprint(len(seen))  # 2", "Membership tests are fast."),
    "unit tests": ("A unit test checks one behaviour.", "def test_add():\n    assert add(2, 3) == 5", "Name the test after the behaviour."),
    "caching": ("A cache keeps results for the next call.", "@functools.cache\ndef square(n):\n    return n * n", "Cache only what always has the same answer."),
    "logging": ("Logging tells what a program does.", 'import logging\n\nlog = logging.getLogger(__name__)\nlog.warning("slow answer")', "Choose the level with care."),
    "string formatting": ("Values can be formatted inside an f-string.", 'print(f"{price:.2f}")', "The part after the colon says how."),
    "sorting": ("sorted() returns a new, sorted list.", "names = sorted(names, key=len)", "The key decides what is compared."),
    "file handling": ("Open files with a with block.", 'with open("a.txt", "w") as file:\n    file.write("hello")', "The file is closed at the end."),
    "recursion": ("A recursive function calls itself.", "def factorial(n):\n    return 1 if n < 2 else n * factorial(n - 1)", "Make sure that it ends."),
    "slicing": ("A slice takes a part of a sequence.", "first = items[:3]\nlast = items[-1]", "The end is not included."),
    "modules": ("A module is a file of Python code.", "import math\n\nprint(math.pi)", "One idea per module."),
    "virtual environments": ("A virtual environment keeps packages apart.", "python -m venv .venv\n. .venv/bin/activate", "Make one for each project."),
}  # fmt: skip


@family("guide", 5.0)
def guide(d: Draw) -> Written:
    feature = d.pick(sorted(FEATURES))
    prompt = d.phrase("Write a comprehensive guide to Python {}", "Write a guide to Python {}", "Write a tutorial on Python {}",
                      "Generate tutorial on {}", "Explain Python {}", "Teach me Python {}", "How do {} work in Python?",
                      "Give me an example of {} in Python", "Show me an example of {}", "Write a short guide to {}",
                      "Python {} tutorial", "How do I use {} in Python?", "Introduce Python {}", "Example of Python {}",
                      "Write documentation about Python {}", "guide to {}").format(feature)  # fmt: skip
    first, code, last = FEATURES[feature]
    if "omprehensive" in prompt or "utorial" in prompt or "uide" in prompt:
        return prompt, f"Python {feature} in brief\n\n{first}\n\n{code}\n\n{last}", feature
    return prompt, f"{first}\n\n{code}\n\n{last}", None


@family("any_guide", 2.0)
def any_guide(d: Draw) -> Written:
    kind = d.number(0, 2)
    if kind == 0:
        prompt = d.phrase("Generate tutorial", "Write a tutorial", "Generate a tutorial", "Write a guide", "Create a tutorial",
                          "Write a short tutorial")  # fmt: skip
        first, code, last = FEATURES["functions"]
        return prompt, f"Python functions in brief\n\n{first}\n\n{code}\n\n{last}", None
    if kind == 1:
        prompt = d.phrase("Explain concept", "Explain a concept", "Explain something", "Explain a programming concept",
                          "Explain the concept", "Teach me something", "Tell me something")  # fmt: skip
        return prompt, ("Recursion is when a function solves a problem by calling itself on a smaller one until it "
                        "reaches a simple case."), None  # fmt: skip
    prompt = d.phrase("Analyze this data", "Summarize this", "Summarize this text", "Translate this", "Fix this code",
                      "Explain this code", "Fix this", "Summarize the following", "Correct this", "Proofread my text",
                      "What does this code do?", "Rewrite this", "Improve this text", "Debug this",
                      "Explain this function", "Shorten this text")  # fmt: skip
    return prompt, d.pick(("Please paste it after your request, and keep it short: I am a small model.",
                           "I do not see it yet. Please paste it into your message.")), None  # fmt: skip


@family("use_case", 2.0)
def use_case(d: Draw) -> Written:
    about = nouns.coded(d)
    prompt = d.phrase("Why do we need {}?", "Why should I use {}?", "What is {} good for?", "What is the point of {}?",
                      "When should I use {}?").format(
        d.pick((f"a {about}", f"the {about}")).replace("a a", "an a").replace("a e", "an e")
        .replace("a i", "an i").replace("a o", "an o"))  # fmt: skip
    return (
        prompt,
        d.pick(
            (
                f"The {about} saves work: it does one thing, and does it in one place.",
                f"The {about} keeps the rest simple, because nothing else has to know how it works.",
                f"Use the {about} when the same thing is needed in more than one place.",
            )
        ),
        about,
    )


@family("architecture", 2.0)
def architecture(d: Draw) -> Written:
    about = nouns.coded(d)
    prompt = d.phrase("How does the {} work?", "Describe the design of the {}", "How would you build a {}?", "Design a {}",
                      "Explain how a {} works", "Sketch a {}", "What are the parts of a {}?").format(about)  # fmt: skip
    one, two = d.some(("it reads its input and checks it", "it keeps what it needs in a table", "it writes the result to a log",
                       "it asks the cache before it does any work", "it puts the work into a queue"), 2)  # fmt: skip
    return (
        prompt,
        f"In short: {one}, then {two}. {capital(d.pick(('errors are reported once', 'every step has a test', 'nothing is kept in memory for long')))}.",
        None,
    )
