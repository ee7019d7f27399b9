"""The words of the little world: names, trades, places, animals, things and foods, each with what is true of it.

Plain data. It is longer than 300 lines would allow in code because it is one dictionary, best read in one piece.
"""

import functools
from typing import NamedTuple


def _split(words: str) -> tuple[str, ...]:
    return tuple(words.split())


GIRLS = _split(
    "Anna Mia Lucy Ella Nora Ruby Clara Emma Maya Nina Sara Tara Lena Molly Bella Greta Katie "
    "Lola Nelly Polly Sofia Tilly Wendy Amara"
)
BOYS = _split(
    "Tom Ben Max Leo Sam Jack Finn Noah Oscar Peter Hugo Otto Paul Adam Dan Eli Felix Henry Jacob Liam Milo "
    "Ned Omar Simon Theo Walter Kofi"
)
WOMEN = _split("Martha Edith Flora Helga Lydia Mabel Ada Stella Vera")
MEN = _split("Bruno Albert Edgar Gustav Harold Jonah Martin Oswald Stefan")
PETS = {
    "dog": _split("Biscuit Patch Rex Barley Buster"),
    "puppy": _split("Button Muffin Bingo"),
    "cat": _split("Misty Shadow Ginger Pepper"),
    "kitten": _split("Pebble Velvet Smoky Toffee"),
    "rabbit": _split("Clover Nibble Hazel"),
    "goat": _split("Billy Bramble"),
    "pony": _split("Star Chestnut Dusty"),
    "parrot": _split("Coco Kiki"),
    "hen": _split("Dot Penny"),
    "lamb": _split("Snowy Cotton Daisy"),
}
PET_TREATS = {
    "dog": ("sausage", "bone"),
    "puppy": ("sausage", "biscuit"),
    "cat": ("fish", "cheese"),
    "kitten": ("fish", "cheese"),
    "rabbit": ("carrot", "cabbage"),
    "goat": ("cabbage", "apple"),
    "pony": ("apple", "carrot"),
    "parrot": ("cherry", "peach"),
    "hen": ("corn", "bread"),
    "lamb": ("cabbage", "carrot"),
}
PET_SOUNDS = {
    "dog": "barked loudly and wagged his tail|gave a happy bark",
    "puppy": "gave a tiny bark|wagged his whole body",
    "cat": "purred softly|rubbed against every leg",
    "kitten": "gave a small meow|purred like a little motor",
    "rabbit": "wiggled both ears|twitched a pink nose",
    "goat": "gave a loud bleat|shook a small beard",
    "pony": "neighed and stamped|tossed a long mane",
    "parrot": "flapped and squawked|whistled a tune",
    "hen": "clucked and clucked|ruffled every feather",
    "lamb": "bleated sweetly|jumped on all four feet",
}


class Role(NamedTuple):
    """A grown-up's trade."""

    kinds: tuple[str, ...]  # "man", "woman"
    place: str
    wares: tuple[str, ...]  # nouns of things or foods they have to sell or to lend


BOTH = ("man", "woman")
ROLES = {
    "baker": Role(BOTH, "bakery", ("bread", "bun", "cake", "pie")),
    "miller": Role(BOTH, "mill", ("flour", "rope")),
    "farmer": Role(BOTH, "farm", ("egg", "pumpkin", "bucket", "corn")),
    "fisherman": Role(("man",), "harbor", ("fish", "net", "rope")),
    "smith": Role(BOTH, "forge", ("bell", "hammer")),
    "weaver": Role(BOTH, "cottage", ("scarf", "blanket", "basket")),
    "teacher": Role(BOTH, "school", ("book", "map", "pencil")),
    "shopkeeper": Role(BOTH, "shop", ("ball", "drum", "lantern", "ribbon", "kite")),
    "gardener": Role(BOTH, "garden", ("spade", "pear", "seed")),
    "shepherd": Role(BOTH, "hill", ("cheese", "horn", "flute")),
    "carpenter": Role(BOTH, "workshop", ("hammer", "chair", "ladder")),
    "librarian": Role(BOTH, "library", ("book", "map")),
    "cook": Role(BOTH, "inn", ("soup", "pie", "spoon")),
    "beekeeper": Role(BOTH, "orchard", ("honey", "jar")),
    "clockmaker": Role(BOTH, "tower", ("clock", "compass")),
    "tailor": Role(BOTH, "market", ("hat", "coat", "cap", "needle")),
    "sailor": Role(BOTH, "pier", ("telescope", "rope", "net")),
}


class Place(NamedTuple):
    at: str  # the preposition of being there
    outdoors: bool
    spots: tuple[str, ...]  # where a thing may lie
    sights: tuple[str, ...]  # whole sentences, true in any weather by day
    animals: tuple[str, ...]  # "a duck|paddling in a circle"


def _place(at: str, outdoors: bool, spots: str, sights: str, animals: str = "") -> Place:
    return Place(
        at, outdoors, tuple(spots.split("; ")), tuple(sights.split("; ")), tuple(filter(None, animals.split("; ")))
    )


PLACES = {
    "bakery": _place("at", False, "under the counter; behind a tray; beside the oven",
        "The warm smell of bread filled the room.; Rows of golden loaves stood on the shelves."),
    "mill": _place("at", False, "behind a sack of flour; under the stairs; beside the door",
        "The big wheel turned round and round.; White dust lay on everything."),
    "farm": _place("on", True, "behind the hay; under the cart; beside the well",
        "The cows looked up and went on chewing.; There was straw everywhere.",
        "a fat pig|rolling in the mud; a rooster|sitting on the fence; some geese|walking in a row"),
    "harbor": _place("at", True, "under an old net; behind a barrel; beside an old boat",
        "Small boats rocked on the water.; The air smelled of salt and fish.",
        "a gull|sitting on a post; a crab|running over the sand"),
    "forge": _place("at", False, "under the bench; behind the door; beside the coal",
        "The fire glowed red and orange.; The hammer went clang, clang, clang."),
    "cottage": _place("in", False, "under a cushion; behind the wool; beside the stove",
        "Bright wool hung from every beam.; A kettle was humming on the stove."),
    "school": _place("at", False, "under a desk; behind the door; beside the blackboard",
        "There were drawings on all the walls.; The benches stood in neat rows."),
    "shop": _place("in", False, "under the counter; behind a box; on the lowest shelf",
        "The shelves were full from top to bottom.; A tiny bell rang above the door."),
    "garden": _place("in", True, "under a bush; behind the flowerpots; between two rows of beans",
        "Beans and peas grew in straight lines.; The flowers nodded on their stems.",
        "a snail|climbing a leaf; a butterfly|sitting on a flower; a robin|pulling at a worm"),
    "hill": _place("on", True, "behind a round rock; in the long grass; under a lonely tree",
        "From there you could see the whole valley.; The grass bent in the breeze.",
        "a hare|running very fast; some sheep|eating the grass; a hawk|flying far above"),
    "workshop": _place("in", False, "under the saw; behind some boards; beside the toolbox",
        "Curly wood shavings covered the floor.; The room smelled of fresh wood and paint."),
    "library": _place("in", False, "between two thick books; under a reading table; behind a big map",
        "It was so quiet that you could hear a page turn.; Books reached all the way to the ceiling."),
    "inn": _place("at", False, "under a stool; behind the big pot; beside the fireplace",
        "A fire crackled and plates rattled.; Travelers were talking and eating."),
    "orchard": _place("in", True, "under an apple tree; in an empty crate; beside a beehive",
        "Bees hummed from tree to tree.; The branches were heavy with fruit.",
        "a hedgehog|eating a fallen apple; a squirrel|climbing a tree"),
    "tower": _place("in", False, "behind the great clock; on the top step; under the bell rope",
        "High above, the gears went tick, tock.; The stairs went up and up."),
    "market": _place("at", True, "under a stall; behind a basket of onions; beside the fountain",
        "People were calling out their prices.; The stalls were full of fruit and cloth.",
        "a donkey|waiting with a cart; some pigeons|eating crumbs"),
    "pier": _place("on", True, "under a coil of rope; behind a crate; between two planks",
        "The waves slapped against the wood.; A small flag fluttered on a pole.",
        "a pelican|drying its wings; some gulls|fighting over a fish"),
    "river": _place("by", True, "among the reeds; beside a flat stone; under the willow",
        "The water ran quickly over the stones.; Leaves floated by like tiny boats.",
        "an otter|climbing onto a stone; a heron|standing on one leg"),
    "pond": _place("by", True, "beside a mossy log; among the reeds; under a bench",
        "Round green pads floated on the water.; Rings spread slowly across the water.",
        "a frog|jumping onto a leaf; a duck|swimming with six little ones"),
    "forest": _place("in", True, "under a fern; in a hollow stump; beside a mushroom",
        "The trees stood tall and close together.; Twigs snapped at every step.",
        "a deer|drinking from a stream; an owl|sitting on a branch; a fox|running between the trees"),
    "beach": _place("on", True, "behind a hill of sand; under some seaweed; beside a pool",
        "The waves came in and went out again.; There were shells all along the sand.",
        "a turtle|walking over the sand; a crab|digging a hole"),
    "meadow": _place("in", True, "among the clover; under a hedge; under a thin tree",
        "The grass was full of tiny flowers.; Crickets were singing in the grass.",
        "a mole|looking out of its hole; a grasshopper|jumping very far; a lark|flying up into the sky"),
    "bridge": _place("on", True, "beside a flat stone; behind a post; between two stones",
        "The water hurried along below.; The old stones were covered with moss.",
        "a swan|swimming along below; a trout|jumping in the water"),
    "barn": _place("in", False, "under the hay; behind the ladder; beside an empty stall",
        "It was dim and it smelled of hay.; Dust danced in the air.",
        "a mouse|carrying a straw; an old horse|eating hay"),
    "playground": _place("at", True, "under the slide; behind the swings; in the sandbox",
        "Children were laughing and running about.; The swings creaked back and forth.",
        "a sparrow|hopping in the dust; an ant|carrying a crumb"),
    "square": _place("in", True, "under a bench; behind the statue; beside the well",
        "Neighbors stood about and chatted.; Water splashed in the stone well.",
        "some doves|sitting on a roof; a gray cat|sleeping on a wall"),
    "station": _place("at", True, "under a bench; behind a trunk; beside the ticket window",
        "A train puffed and whistled.; People hurried by with heavy bags.",
        "a swallow|flying in and out; a big dog|sleeping on a bag"),
    "cave": _place("in", True, "behind a tall stone; in a dark corner; under a flat stone",
        "Every word came back as an echo.; Drops of water fell from above.",
        "some bats|sleeping upside down; a lizard|running along the wall"),
    "lake": _place("by", True, "under an old boat; behind a big stone; among the roots",
        "The far shore looked thin and blue.; Little waves touched the shore.",
        "a beaver|carrying a branch; some geese|swimming in a row"),
}  # fmt: skip
OUTDOORS = tuple(name for name, place in PLACES.items() if place.outdoors)
HOME = _place("at", False, "under the bed; behind the curtain; on the kitchen table; beside the chimney",
    "It was good to be at home.; The rooms were neat and cozy.")  # fmt: skip

SETTINGS = [
    "in a small village by the sea",
    "in a quiet valley",
    "in a little town with crooked streets",
    "at the edge of a great forest",
    "on a green island",
    "in a village between two hills",
    "beside a wide river",
    "in a town with red roofs",
    "near an old castle",
    "at the foot of a mountain",
    "in a village full of windmills",
    "on a narrow street with tall houses",
]
WEATHERS = {
    "sunny": _split("bright sunny warm clear"),
    "windy": _split("windy breezy"),
    "cloudy": _split("gray cloudy mild"),
    "foggy": _split("foggy misty"),
    "snowy": _split("snowy frosty icy"),
    "rainy": _split("rainy wet"),
}
COLORS = _split("red blue green yellow purple orange pink white brown silver black")
TRAITS = _split(
    "kind brave curious cheerful quiet clever gentle lively patient shy helpful merry careful honest "
    "thoughtful bold playful"
)
NUMBERS = _split(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
)


class Kind(NamedTuple):
    """What is true of every thing of one noun."""

    group: str  # toy, treasure, tool, wear, home, music, food, part
    looks: tuple[str, ...]
    color: bool = True
    mass: bool = False  # "some bread", not "a bread"
    use: str = ""  # what one does with it, after a past tense: "flew it high above the roofs"
    damage: str = ""  # how it breaks, after "the kite": "tore down the middle"
    tool: str = ""  # what mends it


KINDS: dict[str, Kind] = {}


def _kinds(group: str, table: str, *, color: bool = True, mass: bool = False) -> None:
    for line in table.strip().splitlines():
        noun, looks, use, damage, tool = ([field.strip() for field in line.split("|")] + [""] * 4)[:5]
        KINDS[noun] = Kind(group, tuple(looks.split()), color, mass, use, damage, tool)


_kinds("toy", """
kite | big light | flew it high above the roofs | tore down the middle | needle
ball | round bouncy | threw it up and caught it | burst with a loud pop | patch
doll | tiny pretty | told it a long secret | lost an arm | needle
drum | loud round | beat it with two sticks | got a big hole | patch
top | shiny quick | spun it on a flat stone | cracked on the side | glue
boat | little wooden | let it sail on the water in a tub | lost its mast | glue
puppet | funny wooden | made it bow and dance | lost a leg | glue
wagon | sturdy wooden | pulled it up and down | lost a wheel | hammer
robot | square clever | wound it up and watched it march | lost a screw | hammer
bear | soft fluffy | hugged it tightly | came open at the seam | needle
sled | fast smooth | slid down a slope on it | lost a runner | hammer
""")  # fmt: skip
_kinds("treasure", """
shell | smooth curved | held it to one ear to hear the sea
feather | long soft | tickled one cheek with it
marble | shiny glass | rolled it from hand to hand
button | round bright | polished it on a sleeve
ring | thin plain | turned it this way and that
coin | old heavy | tossed it and guessed heads or tails
necklace | sparkling beaded | tried it on and smiled
medal | heavy bright | pinned it on and stood very straight
pebble | flat speckled | skipped it over a puddle and ran after it
ribbon | silky long | waved it in the air
""")  # fmt: skip
_kinds("tool", """
hammer | strong heavy | tapped on a board with it
rope | thick long | made a loop and two knots
basket | deep woven | swung it back and forth | lost its handle | glue
bucket | tall tin | drummed on it with both hands
spade | sharp sturdy | dug a small hole
ladder | long wooden | climbed three steps and down again
needle | thin sharp | put a thread through it
brush | soft wide | painted a circle in the air
lantern | bright little | swung it gently | stopped shining | hammer
net | wide knotted | scooped up some leaves | tore on a nail | needle
patch | square tough |
telescope | long brass | looked far away with it | bent in the middle | hammer
compass | round brass | watched the needle swing north | stopped pointing north | hammer
""", color=False)  # fmt: skip
_kinds("wear", """
hat | tall warm | tried it on and took a bow | got a wide rip | needle
scarf | long woolly | wrapped it around twice | came apart at one end | needle
coat | thick warm | buttoned it up to the chin | lost its pocket | needle
cap | neat soft | pulled it down and grinned | got a wide rip | needle
""")  # fmt: skip
_kinds("home", """
cup | thin painted | drank some water from it | lost its handle | glue
vase | tall slender | put some flowers in it | cracked from top to bottom | glue
plate | round painted | wiped it with care | broke into three pieces | glue
jar | wide glass | looked at the world through it | cracked at the rim | glue
chair | small wooden | sat down on it for a moment | lost a leg | hammer
clock | old little | listened to it tick | stopped ticking | hammer
blanket | soft cozy | crept under it for a moment | got a large hole | needle
umbrella | wide handsome | opened it and spun it around | bent in the wind | patch
pillow | soft plump | gave it a good shake | came open at the seam | needle
""")  # fmt: skip
_kinds("music", """
flute | slim wooden | played a slow song on it | cracked at the end | glue
whistle | shrill tin | blew it three times
horn | curved loud | blew a deep note on it
bell | clear little | rang it merrily
fiddle | old sweet | played a dance on it | lost a string | glue
""", color=False)  # fmt: skip
_kinds("paper", """
book | thick dusty | read the first page aloud | lost its cover | glue
map | torn folded | followed a road on it with one finger
letter | short folded | read it twice
picture | bright framed | looked at every part of it
pencil | long pointed | drew a tiny house with it
""", color=False)  # fmt: skip
_kinds("box", """
box | small heavy
chest | dusty wooden
trunk | big battered
""")  # fmt: skip
_kinds("tool", "glue | sticky strong", color=False, mass=True)
_kinds("key", "key | small rusty iron golden", color=False)
_kinds("food", """
apple | ripe crisp
pear | juicy ripe
plum | sweet dark
peach | soft juicy
cherry | sweet ripe
bun | warm sticky
pie | hot fresh
cake | sweet tall
sandwich | thick tasty
biscuit | crunchy round
pancake | warm thin
muffin | fresh sweet
sausage | fat tasty
egg | fresh brown
carrot | crunchy long
potato | large round
onion | round strong
pumpkin | huge round
cabbage | big leafy
fish | fresh silvery
bone | big chewy
""", color=False)  # fmt: skip
_kinds("food", """
bread | fresh warm
cheese | yellow creamy
honey | sweet golden
soup | hot thick
corn | yellow sweet
flour | fine white
butter | fresh creamy
milk | cold fresh
rice | plain white
salt | fine white
""", color=False, mass=True)  # fmt: skip
_kinds("material", """
wool | soft thick
clay | wet smooth
paper | thin stiff
wood | dry light
""", color=False, mass=True)  # fmt: skip
_kinds("material", "seed | tiny striped", color=False)


@functools.cache
def nouns(*groups: str) -> tuple[str, ...]:
    return tuple(noun for noun, kind in KINDS.items() if kind.group in groups)


PLAYTHINGS = nouns("toy", "treasure", "music", "wear")
BREAKABLE = tuple(noun for noun, kind in KINDS.items() if kind.damage)
PLAIN_GIFTS = nouns("toy", "treasure", "music", "wear", "paper", "home")
PRECIOUS = (*nouns("treasure"), "letter", "picture", "map", "whistle", "bell", "flute", "book", "telescope", "compass")
SNACKS = _split("apple pear plum peach bun pie sandwich biscuit pancake muffin carrot bread cheese")
SOUP = _split("carrot potato onion pumpkin cabbage corn salt rice fish butter milk")


class Skill(NamedTuple):
    base: str
    ing: str
    place: str
    role: str  # whose trade it is
    fails: tuple[str, ...]  # what happens on a bad try: whole sentences with {A}
    done: str  # what success looks like, past tense
    tip: str


def _skill(base: str, ing: str, place: str, role: str, fails: str, done: str, tip: str) -> Skill:
    return Skill(base, ing, place, role, tuple(fails.split("; ")), done, tip)


SKILLS = {
    "swim": _skill("swim", "swimming", "lake", "fisherman",
        "{A} splashed a lot and sank like a stone.; {A} swallowed water and coughed.",
        "swam all the way to the big rock",
        "Kick your legs and breathe slowly"),
    "whistle": _skill("whistle", "whistling", "hill", "shepherd",
        "Only air came out.; {A} blew and blew, but there was no sound.", "whistled a whole song",
        "Make your lips round"),
    "row": _skill("row a boat", "rowing", "harbor", "fisherman",
        "The boat only turned in circles.; {A} dropped an oar with a splash.", "rowed straight across the bay",
        "Pull both oars at the same time"),
    "bake": _skill("bake bread", "baking", "bakery", "baker",
        "The bread came out black and hard.; The dough stuck to everything.", "baked a perfect loaf",
        "Let the dough rest before you bake it"),
    "juggle": _skill("juggle", "juggling", "square", "cook",
        "All three balls fell down.; One ball bounced off {A.his} nose.", "kept three balls in the air",
        "Look up, not down"),
    "dance": _skill("dance", "dancing", "meadow", "teacher",
        "{A} tripped over {A.his} own feet.; {A} turned left when it should have been right.",
        "danced from one end to the other without a slip", "Listen to the music and count to four"),
    "knit": _skill("knit", "knitting", "cottage", "weaver",
        "The yarn became one large knot.; {A} dropped a dozen stitches.", "knitted a tiny sock",
        "Go slowly, one stitch after the other"),
    "saw": _skill("saw a board", "sawing", "workshop", "carpenter",
        "The saw got stuck.; The cut went as crooked as a snake.", "sawed a board in a straight line",
        "Let the saw do the work"),
    "fish": _skill("catch a fish", "fishing", "river", "fisherman",
        "{A} caught an old boot.; The line got tangled in a bush.", "caught a shiny trout", "Sit still and wait"),
    "read": _skill("read a map", "reading maps", "library", "librarian",
        "{A} held the map upside down.; {A} mixed up east and west.", "found the way from the mountain to the coast "
                                                                      "on the map",
        "First find north"),
    "ride": _skill("ride a pony", "riding", "farm", "farmer",
        "{A} slid off on the other side.; The pony would not take one step.", "rode once around the field",
        "Sit up tall and be gentle"),
    "clocks": _skill("fix a clock", "fixing clocks", "tower", "clockmaker",
        "A spring jumped out and rolled away.; There were two wheels left over at the end.",
        "made a silent clock tick again",
        "Put every wheel back where it was"),
    "sew": _skill("sew a button on", "sewing", "market", "tailor",
        "{A} pricked {A.his} thumb.; {A} sewed the sleeve shut.", "sewed on a button that no one could pull off",
        "Make small stitches"),
    "knot": _skill("tie a sailor's knot", "tying knots", "pier", "sailor",
        "The knot fell open at once.; {A} tied {A.his} own finger to the rope.", "tied a knot that held a boat",
        "Over, under, and through"),
    "shoe": _skill("bend iron", "bending iron", "forge", "smith",
        "The iron was too cold to bend.; The hammer hit the wrong end.", "bent a hook for a coat",
        "Strike while it glows"),
}  # fmt: skip
