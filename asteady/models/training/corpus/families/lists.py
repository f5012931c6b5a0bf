"""Lists and advice: pros and cons, gifts, tips, steps, questions, recipes, names."""

from __future__ import annotations

from ..drawing import Draw
from ..pairs import Written, family
from ..words import nouns
from ..words.grammar import capital, plural, with_article
from ..words.people import JOBS
from .office import bulleted, numbered


@family("pros_and_cons", 2.0)
def pros_and_cons(d: Draw) -> Written:
    about = nouns.topic(d)
    prompt = d.phrase("What are the pros and cons of {}?", "pros and cons of {}", "List the advantages and disadvantages of {}",
                      "Give me pros and cons of {}", "What speaks for and against {}?").format(about)  # fmt: skip
    good = d.pick(("it saves time", "it is fun", "it is easy to begin", "many people know it"))
    bad = d.pick(
        ("it takes practice", "it can cost money", "it needs care", "it is not for everyone")
    )
    return prompt, f"Pros of {about}: {good}.\nCons of {about}: {bad}.", about


@family("gift_ideas", 1.5)
def gift_ideas(d: Draw) -> Written:
    who = d.filler((*JOBS, "mother", "father", "friend", "sister", "brother", "child", "colleague",
                    "grandmother", "neighbour", "boss"))  # fmt: skip
    prompt = d.phrase("Suggest gifts for {}", "gift ideas for {}", "What should I give {}?", "Give me three gift ideas for {}",
                      "Present for {}?", "What is a good present for {}?").format(with_article(who))  # fmt: skip
    gifts = [f"{capital(with_article(f'{a} {b}'))}" for a, b in zip(
        d.some(("warm", "small", "blue", "handmade", "old", "silver"), 3),
        d.some(("scarf", "notebook", "lamp", "teapot", "plant", "puzzle", "blanket", "mug"), 3),
        strict=True)]  # fmt: skip
    return prompt, numbered(gifts), None


@family("tips", 3.0)
def tips(d: Draw) -> Written:
    about = d.filler(nouns.ACTIVITIES) if d.chance(0.6) else nouns.topic(d)
    prompt = d.phrase("Give me three tips for {}", "tips for {}", "How do I get better at {}?", "Give me advice on {}",
                      "How can I improve at {}?", "Any tips on {}?", "What should I know about {}?",
                      "Advice for {}", "How do I start with {}?").format(about)  # fmt: skip
    chosen = d.some((f"Start small with {about}.", "Do a little every day.", "Ask somebody who knows more.",
                     f"Keep notes about {about}.", "Rest before you are tired.", "Expect to make mistakes.",
                     "Finish one thing before the next.", f"Find a friend who likes {about}, too.",
                     "Look at good examples."), 3)  # fmt: skip
    return prompt, numbered(chosen), None


STEPS = {
    "make tea": ("Boil some water.", "Pour it over the tea.", "Wait for three minutes."),
    "make coffee": ("Grind the beans.", "Pour hot water over them.", "Enjoy it while it is warm."),
    "boil an egg": ("Put the egg into boiling water.", "Wait for seven minutes.", "Cool it in cold water."),
    "make pancakes": ("Mix flour, milk and eggs.", "Pour a little into a hot pan.", "Turn it when it is golden."),
    "plant a tree": ("Dig a hole twice as wide as the roots.", "Set the tree in and fill the hole.", "Water it well."),
    "write a haiku": ("Choose a small moment.", "Write lines of five, seven and five syllables.", "Cut what is not needed."),
    "write a good test": ("Name the behaviour.", "Set up one case and act.", "Check exactly one result."),
    "install a Python package": ("Create a virtual environment.", "Activate it.", "Run pip install with the package's name."),
    "create a virtual environment": ("Run python -m venv .venv.", "Activate it.", "Install what you need with pip."),
    "make a git commit": ("Stage the files with git add.", "Run git commit.", "Write a short message that says why."),
    "learn Python": ("Read a short tutorial.", "Write small programs every day.", "Build something you need."),
    "fix a flat tire": ("Take off the wheel.", "Find the hole and patch it.", "Pump up the tire again."),
    "learn a new language": ("Learn ten words a day.", "Listen to it often.", "Speak, even with mistakes."),
    "bake bread": ("Mix flour, water, salt and yeast.", "Let the dough rise for some hours.", "Bake it until it sounds hollow."),
    "sleep better": ("Go to bed at the same time.", "Keep the room dark and cool.", "Put the phone away."),
    "prepare for an interview": ("Read about the company.", "Practise a few answers aloud.", "Write down your own questions."),
    "debug a program": ("Make the bug happen again.", "Narrow down where it happens.", "Fix the cause and add a test."),
    "speed up a program": ("Measure it.", "Find the slowest part.", "Do less there, or do it once and cache it."),
    "review code": ("Read the description first.", "Look at the tests.", "Ask about what is not clear."),
    "open a file in Python": ("Use with open(path) as file.", "Read it with file.read().", "It closes by itself."),
    "take a good photo": ("Find the light.", "Move closer.", "Wait for the moment."),
    "save money": ("Write down what you spend.", "Set a small sum aside every month.", "Wait a day before you buy."),
    "cook rice": ("Rinse the rice.", "Cook one part rice in two parts water.", "Let it rest for ten minutes."),
    "make soup": ("Cut the vegetables.", "Cook them slowly in water.", "Add salt and herbs."),
    "write an email": ("Say who you are and why you write.", "Ask for one thing.", "Thank them and sign."),
    "cache a function in Python": ("Import functools.", "Put @functools.cache above the function.", "Call it as before."),
}  # fmt: skip


@family("steps", 4.0)
def steps(d: Draw) -> Written:
    what = d.pick(sorted(STEPS))
    prompt = d.phrase("How do I {}?", "Explain how to {}", "How to {}", "how can I {}", "Give me the steps to {}",
                      "Write instructions to {}", "What is the best way to {}?", "Teach me to {}",
                      "Write a short guide on how to {}", "I want to {}. How?").format(what)  # fmt: skip
    return prompt, numbered(list(STEPS[what])), None


@family("questions", 2.0)
def questions(d: Draw) -> Written:
    about = nouns.topic(d)
    prompt = d.phrase("Write three questions about {}", "questions about {}", "Give me interview questions about {}",
                      "Ask me questions about {}", "Write quiz questions about {}",
                      "What could I ask about {}?").format(about)  # fmt: skip
    chosen = d.some(
        (
            f"What do you like most about {about}?",
            f"When did you first hear of {about}?",
            f"What would the world be like without {about}?",
            f"Who taught you about {about}?",
            f"What is hard about {about}?",
            f"How would you explain {about} to a child?",
        ),
        3,
    )
    return prompt, numbered(chosen), about


DISHES = {
    "soup": ("Cook it slowly with {b} and a little water.", "Serve it hot"),
    "salad": ("Mix it with {b} and a little oil.", "Serve it cold"),
    "pie": ("Fill the dough with it and add some {b}.", "Bake for forty minutes"),
    "cake": ("Stir it into flour, eggs and {b}.", "Bake for forty minutes"),
    "bread": ("Knead it into the dough with some {b}.", "Bake for an hour"),
    "curry": ("Fry it with onions and {b}.", "Serve it with rice"),
    "stew": ("Cook it slowly with {b}.", "Wait for an hour"),
    "sandwich": ("Lay it on bread with {b}.", "Cut it in two"),
}


@family("recipe", 2.5)
def recipe(d: Draw) -> Written:
    one = d.pick("""apple banana orange pear peach plum cherry lemon mango carrot potato tomato onion
    cucumber pumpkin strawberry mushroom spinach cheese leek""".split())  # fmt: skip
    spice = d.pick("honey cheese butter garlic pepper cinnamon ginger salt cream herbs".split())
    dish = d.pick(sorted(DISHES))
    name = d.note(f"{one} {dish}")
    prompt = d.phrase("Write a recipe for {}", "recipe for {}", "How do I make {}?",
                      "Give me a simple recipe for {}", "Give me a recipe for {}",
                      "How to cook {}?", "Write a short recipe: {}").format(name)  # fmt: skip
    how, last = DISHES[dish]
    return prompt, numbered([f"Cut the {one} into small pieces.", how.format(b=spice),
                             f"{last}, and enjoy your {name}."]), name  # fmt: skip


@family("pet_name", 1.5)
def pet_name(d: Draw) -> Written:
    animal = d.filler(nouns.ANIMALS)
    prompt = d.phrase("Suggest a name for my {}", "Name my {}", "What should I call my {}?", "Give me names for a {}",
                      "names for a {}", "I have a new {}. What is a good name?").format(animal)  # fmt: skip
    names = d.some("""Pepper Biscuit Luna Moss Hazel Pip Juniper Ziggy Clover Waffle Ember Nimbus
    Maple Pickle Olive Sprout Bramble Cosmo""".split(), 3)  # fmt: skip
    return prompt, f"{names[0]}, {names[1]} or {names[2]} would suit a {animal}.".replace(
        f"a {animal}", with_article(animal)), animal  # fmt: skip


@family("project_name", 2.0)
def project_name(d: Draw) -> Written:
    about = nouns.coded(d)
    prompt = d.phrase(
        "Suggest a name for a project about {}",
        "Name my app for {}",
        "What should I call a library for {}?",
        "project name for {}",
        "Give me three names for a tool that handles {}",
    ).format(plural(about))
    root = about.split()[0].split("-")[0]
    kinds = d.some((f"{capital(root)}ly", f"Open{capital(root)}", f"{capital(root)}Kit", f"Quick{capital(root)}",
                    f"{capital(root)}Hub", f"{capital(root)}Mate", f"Tiny{capital(root)}"), 3)  # fmt: skip
    return prompt, numbered(kinds), root


@family("packing_list", 1.0)
def packing_list(d: Draw) -> Written:
    what = d.filler("""beach mountain city forest winter summer camping business weekend island lake
    desert family hiking ski train""".split())  # fmt: skip
    prompt = d.phrase("Write a packing list for a {} trip", "packing list for a {} trip", "What should I pack for a {} trip?",
                      "What do I take on a {} trip?", "Pack for a {} trip").format(what)  # fmt: skip
    prompt = prompt.replace("a island", "an island")
    special = {"beach": "Sunscreen and a towel", "winter": "A thick coat", "ski": "Gloves and a helmet", "business": "A clean shirt",
               "camping": "A tent", "desert": "Plenty of water", "mountain": "Good boots", "hiking": "Good boots"}  # fmt: skip
    return prompt, bulleted([special.get(what, "A warm sweater"), *d.some(
        ("Water and a snack", "A map", "A book", "Comfortable shoes", "A charger", "A rain jacket"), 3)]), None  # fmt: skip


@family("weekend_plan", 1.3)
def weekend_plan(d: Draw) -> Written:
    prompt = d.phrase("What should I do this weekend?", "Suggest something to do", "I am bored", "Plan my weekend",
                      "Give me an idea", "What can I do today?", "Suggest a hobby", "I have nothing to do",
                      "Ideas for tonight?", "Entertain me", "What should I write about?")  # fmt: skip
    return prompt, d.pick(("Take a long walk, and bring back one small thing that you found.",
                           "Write a haiku about the view from your window.",
                           "Cook something that you have never cooked before.")), None  # fmt: skip


ANALOGIES = {
    "a cache": "a cache is like a note on the fridge: quicker than looking it up again",
    "recursion": "recursion is like a mirror that faces a mirror, until the smallest one",
    "an API": "an API is like a waiter who carries orders to the kitchen and meals back",
    "a database": "a database is like a library with a very quick librarian",
    "a queue": "a queue is like the line at a bakery: whoever came first is served first",
    "a stack": "a stack is like a pile of plates: you take the top one first",
    "a variable": "a variable is like a box with a label on it",
    "a function": "a function is like a recipe: the same steps for other ingredients",
    "encryption": "encryption is like a locked box that only the right key opens",
    "a firewall": "a firewall is like a doorman with a list of guests",
    "git": "git is like a diary that can take you back to any day",
    "asyncio": "asyncio is like a cook who chops vegetables while the water heats up",
    "a thread": "a thread is like one of several cooks who share a kitchen",
    "machine learning": "machine learning is like learning to ride a bicycle: by trying, not by rules",
    "an index": "an index is like the one at the back of a book",
    "a compiler": "a compiler is like a translator who works on the whole book before you read it",
    "latency": "latency is like the time a letter spends in the post",
    "a hash": "a hash is like a fingerprint: short, and different for everyone",
    "an event loop": "an event loop is like a waiter who goes from table to table and never stands still",
    "a container": "a container is like a lunch box: everything that you need is inside",
}  # fmt: skip


@family("analogy", 1.5)
def analogy(d: Draw) -> Written:
    what = d.pick(sorted(ANALOGIES))
    prompt = d.phrase(
        "Give me an analogy for {}",
        "Explain {} with an analogy",
        "analogy for {}",
        "What is {} like?",
        "Explain {} with a picture from daily life",
        "Compare {} to something simple",
    ).format(what)
    return prompt, capital(ANALOGIES[what]) + ".", what.split(" ", 1)[-1]
