"""Nouns by kind, and compounds and invented words, of which there is no end.

The endless ones teach a model to copy a word from the prompt that it has never met.
"""

from __future__ import annotations

from ..drawing import Draw
from .grammar import plural

NATURE = """river mountain forest ocean lake meadow valley waterfall desert island glacier canyon
garden tree oak pine willow birch maple leaf flower rose tulip daisy sunflower lily cactus fern
cloud storm rainbow sunrise sunset moon star comet tide wave pebble stone seashell cave cliff hill
field brook pond marsh volcano breeze snowflake puddle mushroom acorn branch root seed blossom
orchard harbor beach dune reef creek grove vine thunderstorm horizon shadow campfire""".split()

ANIMALS = """cat dog fox owl crow sparrow robin swan heron eagle hawk falcon wolf bear deer rabbit
squirrel mouse hedgehog badger otter beaver whale dolphin shark seal penguin turtle frog toad
snake lizard spider ant bee butterfly moth dragonfly firefly cricket snail goldfish horse cow
sheep goat pig hen rooster duck goose elephant lion tiger monkey panda kangaroo camel donkey
kitten puppy parrot crane pigeon bat octopus crab ladybug""".split()

FOODS = """coffee tea bread soup cheese honey chocolate rice pasta pizza butter salad sushi cake
pie curry ramen porridge jam toast garlic pepper cinnamon ginger lemonade cider""".split()

FRUITS = """apple banana orange pear peach plum cherry lemon mango melon carrot potato tomato
onion cucumber pumpkin strawberry pancake waffle cookie cupcake dumpling sandwich""".split()

PLACES = """library museum kitchen school office market bridge station harbor castle village city
street park theater bakery cafe hospital lighthouse temple cottage attic cellar balcony farm
airport stadium bookstore classroom workshop laboratory playground barn""".split()

OBJECTS = """book lamp candle clock mirror window door chair table pencil letter key coin
umbrella bicycle train ship boat kite drum guitar piano violin camera map compass lantern
telescope typewriter notebook backpack teapot blanket hammer bell radio suitcase ladder basket
bottle button ribbon puzzle painting statue hat scarf boot glove ring necklace keyboard pillow
toothbrush spoon kettle mug envelope photograph battery bucket rope tent sled""".split()

FEELINGS = """love hope joy sorrow courage patience kindness loneliness curiosity gratitude
friendship peace freedom silence time memory wisdom grief happiness trust forgiveness ambition
nostalgia solitude wonder faith laughter beauty truth anger envy fear calm comfort homesickness
serendipity creativity humility resilience doubt""".split()

SEASONS = """spring summer autumn winter rain snow fog frost wind thunder dawn dusk midnight
twilight moonlight sunshine morning evening january april october december monday friday
""".split()

ACTIVITIES = """caching testing debugging coding refactoring programming deploying writing reading
cooking baking gardening running swimming hiking cycling dancing singing painting fishing
climbing sailing traveling studying teaching learning sleeping dreaming knitting drawing camping
skating surfing logging profiling compiling parsing indexing hashing sorting pairing streaming
monitoring packaging sharding batching waiting""".split()

TECH = """cache server database compiler function variable loop queue stack pointer thread
process kernel router firewall container cluster pipeline test bug patch commit branch merge
script terminal editor keyboard laptop robot browser website network packet token tensor module
package library decorator generator iterator coroutine lock mutex semaphore index query schema
table cursor socket proxy scheduler daemon parser lexer debugger profiler logger
webhook endpoint microservice monolith algorithm transaction checkpoint snapshot backup heap
bit byte buffer linter formatter framework notebook spreadsheet dashboard""".split()

TECH_MASS = [
    word.replace("_", " ")
    for word in """software data python recursion concurrency latency throughput encryption code
    asyncio sqlite javascript rust linux git docker kubernetes memory bandwidth documentation
    technology electricity machine_learning open_source entropy determinism consistency
    idempotency legacy_code technical_debt version_control artificial_intelligence
    garbage_collection unit_testing continuous_integration""".split()
]

COUNT_NOUNS = sorted({*NATURE, *ANIMALS, *FRUITS, *PLACES, *OBJECTS, *TECH})
MASS_NOUNS = sorted({*FOODS, *FEELINGS, *SEASONS, *ACTIVITIES, *TECH_MASS})

COLOURS = "red blue green yellow golden silver white black purple orange pink grey".split()
ADJECTIVES = """old new small quiet bright broken lost hidden empty wooden frozen gentle lonely
ancient distant forgotten wild tiny giant sleepy clever brave silent rusty dusty misty warm cold
simple strange secret careful curious hungry patient northern paper crystal velvet copper stone
glass winter summer midnight morning mountain river garden village ocean""".split()

DOMAINS = """payment user order invoice product customer account session report billing inventory
shipping search login profile message notification image video audio file document calendar
booking ticket event metric log config weather location email password token subscription
refund coupon review comment rating category cart wishlist sensor device camera vehicle patient
student course lesson recipe book movie song playlist photo contact address team project task
sprint budget expense salary contract vendor warehouse delivery route flight hotel room menu
restaurant loan insurance claim policy audit feature release build test cache queue worker
backup archive snapshot template theme survey quiz exam grade library museum garden""".split()

PARTS = """service handler parser validator queue cache index table form page button report
dashboard widget controller client server gateway worker scheduler importer exporter formatter
loader manager registry filter router store model view schema endpoint webhook module pipeline
monitor tracker editor viewer builder resolver mapper serializer checker generator counter
collector reader writer sender receiver listener logger archive catalog ledger planner
calculator converter""".split()

_ONSETS = """b bl br c ch cl cr d dr f fl fr g gl gr h j k kl kr l m n p pl pr qu r s sc sh sk sl
sm sn sp st str t th tr tw v w y z""".split()
_VOWELS = "a e i o u a e i o u ai ea ee oa oo ou".split()
_CODAS = "b d f g k l ll m n p r rn s sh ss st t x z ck nd nt th".split()
_LAST = "a o us ix ex on ly er it al um ia en ova ora ify io el an or".split()


def invented(draw: Draw) -> str:
    """A word that nobody has used before, in small letters."""
    word = ""
    for _ in range(draw.pick((1, 1, 2))):
        word += draw.pick(_ONSETS) + draw.pick(_VOWELS)
    return word + draw.pick(_CODAS) + (draw.pick(_LAST) if draw.chance(0.6) else "")


def compound(draw: Draw) -> str:
    """A thing of two words, such as "payment gateway" or "silver kettle"."""
    roll = draw.rng.random()
    if roll < 0.4:
        return f"{draw.pick(DOMAINS)} {draw.pick(PARTS)}"
    if roll < 0.55:
        return f"{invented(draw)} {draw.pick((*PARTS, *OBJECTS))}"
    return f"{draw.pick((*COLOURS, *ADJECTIVES))} {draw.pick(COUNT_NOUNS)}"


def thing(draw: Draw) -> str:
    """A countable thing, as a filler: a listed noun, a compound or an invented word."""
    roll = draw.rng.random()
    if roll < 0.5:
        return draw.filler(COUNT_NOUNS)
    return draw.note(compound(draw) if roll < 0.85 else invented(draw))


def coded(draw: Draw) -> str:
    """A thing that a program might be about: mostly technical, now and then anything."""
    roll = draw.rng.random()
    if roll < 0.45:
        first = invented(draw) if draw.chance(0.25) else draw.pick(DOMAINS)
        return draw.note(f"{first} {draw.pick(PARTS)}")
    if roll < 0.65:
        return draw.filler((*TECH, *DOMAINS))
    return draw.note(invented(draw)) if roll < 0.8 else thing(draw)


def topic(draw: Draw) -> str:
    """Anything to speak about without an article: mass nouns, plurals, activities."""
    roll = draw.rng.random()
    if roll < 0.5:
        return draw.filler(MASS_NOUNS)
    if roll < 0.7:
        return plural(draw.filler(COUNT_NOUNS))
    return draw.note(plural(compound(draw)) if roll < 0.9 else invented(draw))


def product(draw: Draw) -> str:
    """A product's or company's name, such as "Quorvex" or "Blue Lantern"."""
    if draw.chance(0.6):
        return draw.note(invented(draw).capitalize())
    return draw.note(f"{draw.pick((*COLOURS, *ADJECTIVES))} {draw.pick(COUNT_NOUNS)}".title())
