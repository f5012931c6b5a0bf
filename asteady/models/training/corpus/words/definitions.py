"""Everyday things in a sentence each: "fox|a wild animal with red fur and a bushy tail"."""

from __future__ import annotations

_TABLE = """
fox|a wild animal with red fur and a bushy tail
cat|a small, furry animal that hunts mice and likes to sleep
dog|a loyal animal that has lived with people for thousands of years
owl|a bird with large eyes that hunts at night
crow|a clever black bird with a harsh call
sparrow|a small brown bird that lives near people
robin|a small bird with a red breast
swan|a large white bird with a long neck that lives on water
heron|a tall bird that stands in shallow water and waits for fish
eagle|a large bird of prey with very sharp eyes
hawk|a bird of prey that hunts by day
wolf|a wild animal like a large dog that lives in packs
bear|a large, heavy animal with thick fur that sleeps through the winter
deer|a shy animal of the forest with long legs
rabbit|a small animal with long ears that lives in a burrow
squirrel|a small animal with a bushy tail that gathers nuts
mouse|a very small animal with a long tail, or a device that moves the pointer on a screen
hedgehog|a small animal covered with spines
badger|a strong animal with a striped face that digs tunnels
otter|a playful animal that swims well and eats fish
beaver|an animal with a flat tail that builds dams
whale|the largest animal of the sea, which breathes air
dolphin|a clever sea animal that lives in groups and breathes air
shark|a large fish with many rows of teeth
seal|a sea animal with flippers that rests on the shore
penguin|a black and white bird that swims but cannot fly
turtle|a slow animal that carries a hard shell
frog|a small animal with smooth skin that jumps and lives near water
snake|a long animal without legs
spider|an animal with eight legs that spins webs
ant|a tiny insect that lives in large colonies
bee|an insect that gathers nectar and makes honey
butterfly|an insect with large, colourful wings that was once a caterpillar
moth|an insect that flies at night toward the light
dragonfly|a fast insect with four clear wings that lives near water
cricket|an insect that sings by rubbing its wings together
snail|a slow animal that carries a spiral shell
horse|a large, strong animal that people ride
cow|a large farm animal that gives milk
sheep|a farm animal that is kept for its wool
goat|a farm animal with horns that climbs and eats nearly anything
pig|a clever farm animal with a flat nose
elephant|the largest animal on land, with a long trunk
lion|a large wild cat that lives in groups called prides
tiger|a large wild cat with orange fur and black stripes
monkey|a clever animal with hands that lives in trees
panda|a black and white bear that eats bamboo
kangaroo|an animal that hops and carries its young in a pouch
camel|an animal of the desert that can go long without water
parrot|a colourful bird that can copy words
bat|a small animal that flies at night and finds its way by sound
octopus|a sea animal with eight arms and a soft body
crab|a sea animal with a hard shell that walks sideways
river|a long stream of water that flows to the sea
mountain|a very high piece of land with steep sides
forest|a large area covered with trees
ocean|a vast body of salt water
lake|a large body of water with land all around it
meadow|a field of grass and wild flowers
valley|the low land between hills or mountains
waterfall|a place where a river falls over a cliff
desert|a dry region where very little rain falls
island|a piece of land with water all around it
glacier|a slow river of ice
canyon|a deep valley with steep walls of rock
garden|a piece of ground where people grow flowers or vegetables
tree|a tall plant with a trunk of wood
oak|a strong tree that grows from an acorn
flower|the colourful part of a plant that makes its seeds
rose|a flower with a sweet smell and thorns on its stem
cactus|a plant with spines that stores water in its stem
cloud|a mass of tiny drops of water that floats in the sky
storm|a time of strong wind and heavy rain
sunrise|the moment when the sun appears in the morning
sunset|the moment when the sun goes down in the evening
moon|the round body that circles the Earth and lights the night
star|a huge ball of hot gas that shines in the night sky
comet|a ball of ice and dust with a bright tail
tide|the slow rise and fall of the sea
wave|a moving ridge on the surface of water
beach|a strip of sand along the water
cave|a hollow place in rock
snowflake|a tiny crystal of ice that falls from a cloud
mushroom|a fungus with a stem and a cap
seed|the small part of a plant from which a new one grows
apple|a round fruit with a crisp bite that grows on trees
banana|a long yellow fruit with a soft inside
orange|a round, juicy fruit with a thick peel
lemon|a sour yellow fruit
cherry|a small red fruit with a stone
mango|a sweet fruit with orange flesh that grows in warm countries
carrot|an orange root that is eaten raw or cooked
potato|a vegetable that grows under the ground
tomato|a red, juicy fruit that is used like a vegetable
onion|a vegetable with many layers that can make you cry
pumpkin|a large orange vegetable that is carved in autumn
sandwich|a meal of two slices of bread with something between them
pancake|a thin, flat cake that is fried in a pan
cookie|a small, flat, sweet cake
library|a place where people read and borrow books
museum|a place where old or beautiful things are kept and shown
kitchen|the room where meals are made
school|a place where children learn
office|a place where people work at desks
market|a place where people buy and sell things
bridge|a structure that carries a road or a path over something
station|a place where trains or buses stop
harbor|a safe place for ships near the shore
castle|a large old building with thick walls and towers
village|a small group of houses in the country
city|a large place where very many people live
hospital|a place where sick people are cared for
lighthouse|a tower with a bright light that guides ships
bakery|a place where bread and cakes are made
cafe|a small place where people drink coffee and talk
theater|a building where plays are shown
farm|a piece of land where food is grown and animals are kept
airport|a place where planes take off and land
book|a set of written pages bound together
lamp|a device that gives light
candle|a stick of wax with a wick that burns and gives light
clock|a device that shows the time
mirror|a smooth surface that shows what is in front of it
window|an opening in a wall that lets in light
chair|a seat for one person with a back
table|a flat board on legs
pencil|a stick of wood with a dark core for writing and drawing
letter|a written message that is sent to somebody
key|a small piece of metal that opens a lock
coin|a round piece of metal used as money
umbrella|a folding roof on a stick that keeps off the rain
bicycle|a vehicle with two wheels that is moved by pedals
train|a line of wagons that runs on rails
boat|a small vessel that floats on water
kite|a light frame covered with cloth that flies on a string
drum|an instrument that is played by hitting it
guitar|an instrument with six strings
piano|a large instrument with black and white keys
violin|a small instrument with four strings that is played with a bow
camera|a device that takes pictures
map|a drawing that shows where places are
compass|a device whose needle points north
telescope|a tube with lenses that makes far things look near
notebook|a book of empty pages to write in
backpack|a bag that is carried on the back
teapot|a pot with a spout for making tea
blanket|a warm cover for a bed
hammer|a tool with a heavy head for driving nails
bell|a hollow piece of metal that rings when it is struck
suitcase|a case for clothes on a journey
ladder|two poles with steps between them, for climbing
basket|a container woven from thin branches
puzzle|a game in which pieces or ideas have to be put together
keyboard|a board of keys for typing or for making music
kettle|a pot in which water is boiled
bucket|a round container with a handle for carrying water
robot|a machine that does tasks by itself
computer|a machine that follows the instructions of a program
phone|a device for speaking with people far away
browser|a program that shows web pages
website|a set of pages on the internet that belong together
laptop|a computer small enough to be carried
spreadsheet|a table on a computer that calculates by itself
volcano|a mountain from which hot rock can flow
poem|a text that chooses its words for sound as well as sense
novel|a long story in a book
recipe|a list of steps for cooking something
bug|a mistake in a program, or a small insect
patch|a small change that repairs a program
framework|a ready-made structure on which programs are built
package|a bundle of code that others can install
"""

DEFINITIONS: dict[str, str] = {}
for _line in _TABLE.strip().splitlines():
    _noun, _meaning = _line.split("|")
    DEFINITIONS[_noun] = _meaning
