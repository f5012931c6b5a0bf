"""Language: rewriting, translating fixed phrases, opposites, sentences with a given word."""

from __future__ import annotations

from ..drawing import Draw
from ..pairs import Written, family
from ..words import nouns
from ..words.grammar import capital, plural, with_article
from ..words.people import CITIES, FIRST
from .work import DAYS

PHRASES = {
    "hello": ("bonjour", "hallo", "hola", "ciao"), "good morning": ("bonjour", "guten Morgen", "buenos días", "buongiorno"),
    "good night": ("bonne nuit", "gute Nacht", "buenas noches", "buona notte"),
    "thank you": ("merci", "danke", "gracias", "grazie"), "please": ("s'il vous plaît", "bitte", "por favor", "per favore"),
    "yes": ("oui", "ja", "sí", "sì"), "no": ("non", "nein", "no", "no"),
    "goodbye": ("au revoir", "auf Wiedersehen", "adiós", "arrivederci"),
    "friend": ("ami", "Freund", "amigo", "amico"), "water": ("eau", "Wasser", "agua", "acqua"),
    "bread": ("pain", "Brot", "pan", "pane"), "house": ("maison", "Haus", "casa", "casa"),
    "cat": ("chat", "Katze", "gato", "gatto"), "dog": ("chien", "Hund", "perro", "cane"),
    "book": ("livre", "Buch", "libro", "libro"), "love": ("amour", "Liebe", "amor", "amore"),
    "sun": ("soleil", "Sonne", "sol", "sole"), "moon": ("lune", "Mond", "luna", "luna"),
    "tree": ("arbre", "Baum", "árbol", "albero"), "day": ("jour", "Tag", "día", "giorno"),
    "night": ("nuit", "Nacht", "noche", "notte"), "red": ("rouge", "rot", "rojo", "rosso"),
    "one": ("un", "eins", "uno", "uno"), "two": ("deux", "zwei", "dos", "due"),
    "how are you?": ("comment ça va ?", "wie geht es dir?", "¿cómo estás?", "come stai?"),
    "I love you": ("je t'aime", "ich liebe dich", "te quiero", "ti amo"),
    "see you tomorrow": ("à demain", "bis morgen", "hasta mañana", "a domani"),
    "welcome": ("bienvenue", "willkommen", "bienvenido", "benvenuto"),
    "coffee": ("café", "Kaffee", "café", "caffè"), "flower": ("fleur", "Blume", "flor", "fiore"),
}  # fmt: skip
LANGUAGES = ("French", "German", "Spanish", "Italian")


@family("translate", 3.0)
def translate(d: Draw) -> Written:
    if d.chance(0.15):
        sentence = f"The {nouns.compound(d)} is in the {d.pick(nouns.PLACES)}"
        prompt = d.phrase("Translate to {l}: {s}", "Translate this sentence into {l}: {s}").format(
            l=d.pick((*LANGUAGES, "Japanese", "Polish", "Dutch")), s=d.note(sentence)
        )
        return prompt, ("I can translate only a few fixed words, such as hello and thank you. "
                        "I am a small demonstration model."), None  # fmt: skip
    phrase, index = d.pick(sorted(PHRASES)), d.number(0, 3)
    prompt = d.phrase('Translate "{p}" to {l}', "Translate {p} into {l}", "How do you say {p} in {l}?",
                      "What is {p} in {l}?", "{p} in {l}", "Say {p} in {l}",
                      "translate to {l}: {p}").format(p=phrase, l=LANGUAGES[index])  # fmt: skip
    return prompt, capital(PHRASES[phrase][index]), None


OPPOSITES = """hot cold|big small|fast slow|light dark|happy sad|old young|up down|open closed
full empty|hard soft|rich poor|strong weak|early late|near far|clean dirty|loud quiet|wet dry
high low|long short|thick thin|sweet sour|true false|win lose|begin end|buy sell|push pull
day night|love hate|always never|front back|left right|inside outside|friend enemy|war peace
question answer|summer winter|north south|east west|heavy light|brave afraid|sharp blunt
simple complex|wide narrow|deep shallow|alive dead|same different|first last|give take
come go|good bad|new old""".replace("\n", "|").split("|")
SYNONYMS = """happy glad|sad unhappy|big large|small little|fast quick|begin start|end finish
smart clever|angry furious|quiet silent|beautiful lovely|tired weary|rich wealthy|house home
help aid|road street|odd strange|brave courageous|afraid scared|answer reply|choose pick
shut close|error mistake|job work|gift present|speak talk|rock stone|ill sick|near close
simple easy|hard difficult|calm peaceful|funny amusing|look see|build make|throw toss
important essential|idea thought|repair mend|shiny bright""".replace("\n", "|").split("|")


@family("opposite", 1.2)
def opposite(d: Draw) -> Written:
    one, two = d.pick(OPPOSITES).split()
    if d.chance(0.5):
        one, two = two, one
    if one == "light" or one == "old":
        one, two = "heavy", "light"
    prompt = d.phrase(
        "What is the opposite of {}?",
        "opposite of {}",
        "Give me the opposite of {}",
        "Give an antonym of {}",
        "antonym for {}",
        "The opposite of {} is",
    ).format(one)
    return prompt, f"The opposite of {one} is {two}.", one


@family("synonym", 1.2)
def synonym(d: Draw) -> Written:
    one, two = d.pick(SYNONYMS).split()
    prompt = d.phrase(
        "What is a synonym for {}?",
        "synonym of {}",
        "Give me another word for {}",
        "Give a synonym for {}",
        "another word for {}",
        "Which word means {}?",
    ).format(one)
    return prompt, f"Another word for {one} is {two}.", one


SENTENCES = (
    "The {n} stood by the door and nobody asked why.", "Yesterday {w} found {a} in the {p}.",
    "{w} has never seen {a} as fine as this one.", "We carried the {n} all the way to the {p}.",
    "There is {a} in the {p}, and it belongs to {w}.", "The {n} is older than the house.",
    "Without the {n}, the {p} feels empty.", "{w} bought the {n} on a rainy {d}.",
)  # fmt: skip


def sentence(d: Draw, noun: str) -> str:
    return d.pick(SENTENCES).format(n=noun, w=d.pick(FIRST), a=with_article(noun),
                                    p=d.pick(nouns.PLACES), d=d.pick(DAYS))  # fmt: skip


@family("sentence_with", 3.5)
def sentence_with(d: Draw) -> Written:
    noun = nouns.thing(d)
    prompt = d.phrase("Write a sentence with the word {}", "Use {} in a sentence", "Write a sentence about a {}",
                      "Make a sentence with {}", "sentence with {}", "Write one sentence containing {}",
                      "Give me an example sentence for {}", "Form a sentence using {}",
                      'Use the word "{}" in a sentence').format(noun)  # fmt: skip
    prompt = prompt.replace(f"about a {noun}", f"about {with_article(noun)}")
    return prompt, sentence(d, noun), noun


@family("paragraph_about", 3.0)
def paragraph_about(d: Draw) -> Written:
    noun = nouns.thing(d)
    prompt = d.phrase("Write a paragraph about {}", "Write about {}", "Write something about {}",
                      "Tell me something about {}", "Describe {} in a few sentences",
                      "Write three sentences about {}", "Give me a text about {}",
                      "Write a short text on {}", "Talk about {}").format(
        d.pick((with_article(noun), "the " + noun, with_article(noun))))  # fmt: skip
    return prompt, paragraph(d, noun), noun


def paragraph(d: Draw, noun: str) -> str:
    first = d.pick((
        f"There is {with_article(noun)} in the old {d.pick(nouns.PLACES)}.",
        f"The {noun} has been there for as long as anyone remembers.",
        f"At first sight the {noun} is nothing special.",
        f"Not many people think about the {noun}.",
    ))  # fmt: skip
    middle = d.pick(("It does its work quietly and asks for nothing.", "Children like it at once.",
                     "In the morning light it looks almost new.", "Nobody knows who made it.",
                     "It is small, but it has a place of its own."))  # fmt: skip
    last = d.pick((f"Without the {noun}, something would be missing.",
                   "Perhaps that is enough.", "That is why we should take care of it.",
                   f"If you look closely, the {noun} has a story to tell.",
                   "You only notice it when it is gone."))  # fmt: skip
    return f"{first} {middle} {last}"


POLITE = (
    ("Send me the {n}.", "Could you please send me the {n}?"),
    ("Give me the {n}.", "Could you please give me the {n}?"),
    ("I want the {n} now.", "I would like to have the {n} as soon as possible, please."),
    ("Where is my {n}?", "Could you please tell me where my {n} is?"),
    ("Your {n} is bad.", "I think the {n} could still be improved."),
    ("Stop touching the {n}.", "Please leave the {n} as it is."),
    ("Fix the {n}.", "Would you please take a look at the {n}?"),
    ("You broke the {n}.", "It seems that the {n} no longer works."),
    ("The {n} is late.", "We are still waiting for the {n}; could you tell us when it will arrive?"),
)  # fmt: skip


@family("make_polite", 2.0)
def make_polite(d: Draw) -> Written:
    noun = nouns.thing(d)
    rude, polite = (part.format(n=noun) for part in d.pick(POLITE))
    prompt = d.phrase(
        "Make this polite: {}",
        "Rewrite politely: {}",
        "Say this more politely: {}",
        "Rephrase this in a friendly way: {}",
        "Make this sentence more formal: {}",
        "Rewrite this professionally: {}",
        "How do I say this nicely: {}",
    ).format(rude)
    return prompt, polite, noun


MISTAKES = (
    ("The {n} are broken.", "The {n} is broken."), ("She have a {n}.", "She has {a}."),
    ("I seen the {n} yesterday.", "I saw the {n} yesterday."), ("He don't like the {n}.", "He doesn't like the {n}."),
    ("Their is a {n} in the room.", "There is {a} in the room."), ("We was looking for the {n}.", "We were looking for the {n}."),
    ("The {n} its new.", "The {n} is new."), ("Me and Tom bought a {n}.", "Tom and I bought {a}."),
    ("i like the {n}", "I like the {n}."), ("The {n} have arrived.", "The {n} has arrived."),
    ("Where is the {n}", "Where is the {n}?"), ("I could of taken the {n}.", "I could have taken the {n}."),
)  # fmt: skip


@family("fix_grammar", 2.0)
def fix_grammar(d: Draw) -> Written:
    noun = nouns.thing(d)
    words = {"n": noun, "a": with_article(noun)}
    wrong, right = (part.format(**words) for part in d.pick(MISTAKES))
    prompt = d.phrase("Fix the grammar: {}", "Correct this sentence: {}", "Fix the mistakes in this sentence: {}",
                      "Correct the grammar of: {}", "proofread: {}", "Is this correct? {}",
                      "Correct my English: {}").format(wrong)  # fmt: skip
    return prompt, right, noun


@family("sentiment", 2.0, polite=False)
def sentiment(d: Draw) -> Written:
    noun = nouns.thing(d)
    text, mood = d.pick((
        ("I love this {n}!", "positive"), ("This {n} is terrible.", "negative"),
        ("The {n} broke after a day.", "negative"), ("Best {n} ever.", "positive"),
        ("The {n} arrived on Tuesday.", "neutral"), ("I am so happy with my {n}.", "positive"),
        ("What a waste of money, this {n}.", "negative"), ("The {n} is blue.", "neutral"),
        ("I would buy this {n} again.", "positive"), ("I hate the new {n}.", "negative"),
        ("The {n} is on the table.", "neutral"), ("A wonderful {n}, thank you!", "positive"),
    ))  # fmt: skip
    prompt = d.phrase(
        "What is the sentiment of this text: {}",
        "Sentiment: {}",
        "Is this positive or negative? {}",
        "Classify the sentiment: {}",
        "Positive, negative or neutral? {}",
        "Classify this review: {}",
        "Rate the mood of: {}",
    ).format(text.format(n=noun))
    return prompt, capital(mood) + ".", None


@family("change_case", 1.5)
def change_case(d: Draw) -> Written:
    words = d.note(nouns.compound(d) if d.chance(0.6) else nouns.invented(d))
    kind, result = d.pick((("upper case", words.upper()), ("capital letters", words.upper()),
                           ("title case", words.title()), ("snake case", words.replace(" ", "_")),
                           ("kebab case", words.replace(" ", "-"))))  # fmt: skip
    prompt = d.phrase("Write {w} in {k}", "{w} in {k}", "Convert {w} to {k}", "Change {w} to {k}",
                      "Turn {w} into {k}", "Put {w} into {k}").format(w=words, k=kind)  # fmt: skip
    return prompt, result, None


@family("plural_of", 1.0)
def plural_of(d: Draw) -> Written:
    noun = nouns.thing(d)
    prompt = d.phrase("What is the plural of {}?", "plural of {}", "Give me the plural of {}",
                      "Write the plural of {}", "The plural of {} is?").format(noun)  # fmt: skip
    return prompt, f"The plural of {noun} is {plural(noun)}.", noun


@family("extract", 3.0, polite=False)
def extract(d: Draw) -> Written:
    who, city, noun = d.pick(FIRST), d.pick(CITIES), nouns.thing(d)
    text = d.pick(
        (
            f"{who} bought {with_article(noun)} in {city} on {d.pick(DAYS)}.",
            f"On {d.pick(DAYS)}, {who} took the {noun} to {city}.",
            f"In {city}, {who} sells {with_article(noun)} every {d.pick(DAYS)}.",
        )
    )
    what, answer = d.pick((("name", who), ("city", city), ("thing", noun), ("person", who),
                           ("object", noun), ("place", city)))  # fmt: skip
    if d.chance(0.35):
        question, answer = d.pick((("Who is it about?", who), ("Which city is it?", city),
                                   ("What thing is named?", noun), ("Who?", who),
                                   ("Where?", city)))  # fmt: skip
        return f"{text} {question}", f"{capital(answer)}.", answer
    prompt = d.phrase("Extract the {w} from this text: {t}", "Find the {w}: {t}", "What is the {w} in this text? {t}",
                      "Which {w} is mentioned here? {t}", "{t} What is the {w}?",
                      "Name the {w} in this sentence: {t}").format(w=what, t=text)  # fmt: skip
    return prompt, f"{capital(answer)}.", answer
