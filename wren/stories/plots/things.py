"""Stories about a thing: lost, traded, locked away, mixed up, mended, found."""

from wren.stories import phrases, words
from wren.stories.teller import Teller

_FROM = ("grandmother", "grandfather", "uncle", "aunt", "mother", "father", "sister", "brother", "cousin")
_PLURALS = {"scarf": "scarves"}


def treasured(t: Teller, A: str, x: str) -> None:
    """Says how A came by x, and lets A use it."""
    t.say(
        "{A} had {x} with {A.him}, [a gift from {A.his} {giver}|which {A.his} {giver} had made|the best thing {A.he} "
        "owned].",
        "{A} had brought {x} along.",
        "{A.s} {giver} had given {A.him} {x}, and {A.he} [took it everywhere|loved it dearly|never went out "
        "without it].",
        "{A} was carrying {x}.",
        A=A, x=x, giver=t.pick(_FROM),
    )  # fmt: skip
    if t.chance(0.6):
        use(t, A, x)


def use(t: Teller, A: str, x: str) -> None:
    """A does with x what one does with such a thing."""
    done = words.KINDS[t.world.things[x].noun].use
    if done:
        t.say("{A} [took|went and took] {x.the} and {use}.", "[Just for fun|At once|Right away], {A} took {x.the} "
                                                             "and {use}.",
              "{A} liked {x.the} so much that {A.he} {use}.", A=A, x=x, use=done)  # fmt: skip


def mend_with(t: Teller, A: str, x: str, tool: str) -> None:
    t.act("mend", A, x, tool, y=tool, say=phrases.MEND[tool])


def reward(t: Teller, A: str, B: str) -> None:
    """B gives A something nice to eat, or a thing, out of thanks."""
    if t.chance(0.5):
        food = t.thing(t.fresh(words.SNACKS), holder=B)
        t.act("give", B, food, A, why="thanks")
        t.act("eat", A, food)
    else:
        gift = t.thing(t.fresh(words.nouns("treasure", "toy")), holder=B)
        t.act("give", B, gift, A, why="thanks")
        t.feel(A, "happy", f"the {gift}")


def lost_and_found(t: Teller) -> None:
    """A thing is left behind on a walk and found where it was left."""
    A = t.begin(place=t.place(outdoors=True))
    x = t.thing(t.pick(words.PLAYTHINGS + words.PRECIOUS), holder=A)
    treasured(t, A, x)
    stops = [t.at(A), t.place(outdoors=True)]
    if t.chance(0.6):
        stops.append(t.place(outdoors=True))
    loss = int(t.rand() * len(stops))
    for index, stop in enumerate(stops):
        t.go(A, stop)
        if index == loss:
            t.act("lose", A, x, detail=t.spot(stop))
    t.go(A, t.homes[A])
    t.paragraph()
    t.say(
        "[At home|A little later], {A} [looked for {x.the}|wanted to show {x.the} to {A.his} {giver}]. It was gone!",
        "{A} was about to sit down when {A.he} thought of {x.the}. Where had {A.he} left it?",
        '"Where is my {x.n}?" {A} cried. {A.he} [emptied {A.his} pockets|turned {A.his} bag inside out]. It was not '
        'there.',
        A=A, x=x, giver=t.pick(_FROM),
    )  # fmt: skip
    t.feel(A, t.pick(("sad", "worried")), f"the {x} was lost")
    B = ""
    if t.chance(0.6):
        B = t.child(t.homes[A])
        t.say("Just then {B} [knocked at the door|came by|looked in at the window].", B=B)
        t.act("tell", A, x, B, detail="lost", say=(
            '"I lost my {x.c}," said {A.n}. "[Think back|Do not worry|Do not cry]," said {B.n}. '
            '"[We will find it together|Let us go back the way you came|I will help you look]."',
            "{A} told {B.o} about {x.the}. {B.n} [wanted to help|had an idea: they would walk the same way again].",
        ))  # fmt: skip
    _retrace(t, A, B, x, stops)
    t.feel(A, "happy", f"the {x} was found")
    if B:
        t.thank(A, B)
    t.finish("it helps to think back", "a good search starts where the day began", "you should look after your things")


def _retrace(t: Teller, A: str, B: str, x: str, stops: list[str]) -> None:
    """A, with B if named, walks back along the stops until x is found."""
    for stop in reversed(stops):
        t.go(A, stop, B)
        if t.world.place_of(x) != stop:
            t.act("look", A, x, detail=t.spot(stop))
            continue
        finder = B if B and t.chance(0.4) else A
        t.act("find", finder, x, detail=t.world.lies[x][1])
        t.act("take", finder, x, say=() if t.chance(0.5) else None)
        if finder != A:
            t.act("return", B, x, A)
        return


def trade(t: Teller) -> None:
    """A wants what B has; B wants what C has; a chain of swaps."""
    A = t.begin()
    x = t.thing(t.fresh(words.PLAYTHINGS), holder=A)
    treasured(t, A, x)
    B = t.child(t.place())
    y = t.thing(t.fresh(words.PLAYTHINGS), holder=B)
    t.go(A, t.at(B))
    t.act("meet", A, B=B)
    t.say("{B} had {y}. {A} [looked at it and sighed|liked it at once|had always wanted one].",
          '{A} [saw|noticed] {y} in {B.s} hands. "[What a fine {y.n}|I wish I had something like that]!" said {A.n}.',
          A=A, B=B, y=y)  # fmt: skip
    t.act("ask", A, y, B, detail="to trade", y=y, z=x, say=(
        '"[Will you trade|Would you swap] your {y.n} for my {z.n}?" {A} asked.',
        '"[I will give you|You can have] my {z.n} for it," said {A.n}.'))  # fmt: skip
    if t.chance(0.3):
        t.say('"[Yes, I would like that|Done|It is a deal]!" said {B.n}.', B=B)
        _swap(t, A, x, B, y)
    else:
        C = t.adult() if t.chance(0.5) else t.child(t.place())
        z = t.thing(t.fresh(words.PLAYTHINGS), holder=C)
        t.say('"No," said {B.n}, "but I would trade it for {z.a}. {C.n} has one."', B=B, z=z, C=C)
        t.go(A, t.at(C))
        t.act("meet", A, B=C)
        t.act("ask", A, z, C, detail="to trade", y=x, say=(
            '"May I have your {x.n} for my {y.n}?" {A} asked. "[Yes, gladly|Why not|I never use it anyway]," said '
            '{B.n}.',
            "{A} offered {y.the} for {x.the}. {B.n} thought for a moment and [nodded|agreed]."))  # fmt: skip
        _swap(t, A, x, C, z)
        t.go(A, t.at(B))
        _swap(t, A, z, B, y)
    t.paragraph()
    use(t, A, y)
    t.feel(A, "happy", f"the trade for the {y}")
    t.say("Both of them thought that they had made the better trade.", "It was a fair trade, and nobody was sorry.",
          "{B} was glad, too.", B=B)  # fmt: skip
    t.finish("a fair trade makes two people happy", "it never hurts to ask", "one thing can lead to another")


def _swap(t: Teller, A: str, x: str, B: str, y: str) -> None:
    t.act("give", A, x, B, why="trade", say=())
    t.act("give", B, y, A, why="trade", z=x, say=(
        "So {A} got {z.the}, and {B} got {x.the}.", "They [swapped|traded]: {z.the} for {x.the}.",
        "{A} [handed over|gave up] {x.the} and took {z.the}."))  # fmt: skip


def locked_box(t: Teller) -> None:
    """A locked box, a key somewhere else, and somebody's lost treasure inside."""
    A = t.begin()
    B = t.adult()
    box = t.thing(t.pick(words.nouns("box")), place=t.place())
    inside = t.thing(t.fresh(words.PRECIOUS), inside=box, owner=B)
    key = t.thing("key")
    t.lock(box, key)
    if t.chance(0.6):
        t.lay(key, t.place())
    else:
        t.keep(t.adult(), key)
    where, spot = t.world.lies[box]
    t.go(A, where)
    t.act("find", A, box, detail=spot)
    t.feel(A, t.pick(("excited", "surprised")), f"the {box}")
    t.open(A, box)
    t.paragraph()
    t.act("take", A, inside, y=box, say=("Inside {y.the} {A} found {x}!", "{A} lifted the lid. There was {x}!",
                                         "In {y.the}, wrapped in cloth, lay {x}. {A} took it out."))  # fmt: skip
    t.say(
        "A [note|label] said that it belonged to {B}.",
        "{A} turned it over and read a name. It belonged to {B}.",
        A=A,
        B=B,
    )
    t.reach(A, t.at(B))
    t.act("return", A, inside, B)
    t.feel(B, t.pick(("surprised", "happy", "grateful")), f"the {inside} came back")
    t.say('"I lost it [many years ago|when I was as small as you|last winter]," said {B.n}.',
          '"I thought it was gone forever," said {B.n}.', B=B)  # fmt: skip
    reward(t, A, B)
    t.finish("what is lost can come back", "an honest heart is the best key", "it feels good to give a thing back")


def mixed_up(t: Teller) -> None:
    """Two things alike but for their colour change hands by mistake."""
    A = t.begin()
    noun = t.pick((*words.nouns("wear"), "umbrella", "blanket", "ball", "cup"))
    color, color2 = t.pick(words.COLORS), t.pick(words.COLORS)
    while color == color2:
        color2 = t.pick(words.COLORS)
    meet = t.place()
    B = t.child(meet)
    x, y = t.thing(noun, holder=A, color=color), t.thing(noun, holder=B, color=color2)
    t.say("{A} had {x.a}.", "{A} had brought {A.his} {x.c}[ along| with {A.him}].", A=A, x=x)
    t.go(A, meet)
    t.act("meet", A, B=B)
    t.say(
        "{B} had {x.a}.",
        "{B} had {noun2}, too, but {B.his} {noun} was {x.color}.",
        B=B,
        x=y,
        noun=noun,
        noun2=t.an(noun),
    )
    t.voice.known[y] = True
    spot = t.spot(meet)
    t.act("put", A, x, detail=spot, say=())
    t.act("put", B, y, detail=spot, plural=_PLURALS.get(noun, noun + "s"), say=(
        "They laid the two {plural} down {s} and went to play.", "Both of them put their {plural} "
                                                                "down {s}."))  # fmt: skip
    t.act("play", A, B=B)
    t.act("take", A, y, say=())
    t.act("take", B, x, say=())
    t.go(A, t.homes[A])
    t.paragraph()
    t.say("At home {A} looked at the {noun}. It was {x.color}, not {y.color}!",
          '"[Wait|Oh dear]," said {A.n}, "this {noun} is {x.color}. Mine is {y.color}!"',
          "Then {A} saw that the {noun} in {A.his} hands was {x.color}. {A.he} had taken the wrong one.",
          A=A, noun=noun, x=y, y=x)  # fmt: skip
    t.feel(A, t.pick(("surprised", "worried", "ashamed")), f"{A} took the {y} of {B} by mistake")
    if t.chance(0.5):
        t.go(A, meet)
        t.act(
            "meet", A, B=B, say=("{B} was still there, [looking puzzled|scratching {B.his} head|as red as a tomato].",)
        )
    else:
        t.act("go", B, p=t.homes[A], y=x, say=("At that moment {A} [knocked at the door|came running] with {y.the}.",))
    t.act("return", A, y, B)
    t.act("return", B, x, A, say=("{A} laughed and gave {x.the} to {B.o}.", "And {A} gave {B.o} {x.the}.",
                                  '"And this is yours," said {A.n}, and gave {B.o} {x.the}.'))  # fmt: skip
    t.say(
        '"Next time we should look twice," said {B.n}.',
        "They laughed until their sides hurt.",
        "Both of them were glad.",
        B=B,
    )
    t.finish("it is good to look twice", "anyone can make a mistake", "a mistake can be put right")


def mended(t: Teller) -> None:
    """A thing breaks; the right tool is somewhere else; together it is mended."""
    A = t.begin()
    x = t.thing(t.pick(words.BREAKABLE), holder=A)
    treasured(t, A, x)
    kind = words.KINDS[t.world.things[x].noun]
    t.act("break", A, x, damage=kind.damage, say=phrases.BREAK)
    t.feel(A, t.pick(("sad", "worried", "sad", "angry")), f"the {x} broke")
    t.paragraph()
    helper = t.child() if t.chance(0.5) else t.adult()
    tool = t.thing(kind.tool, holder=helper if t.chance(0.4) else t.adult())
    t.reach(A, t.at(helper))
    t.act("meet", A, B=helper)
    t.act("tell", A, x, helper, detail="broken", say=(
        '"Look, my {x.c} is broken," {A} said. "[Can it be mended|Can you help me]?"',
        "{A} showed {B.o} {x.the}.", '"[Please help me!|What can we do?]" {A} said, and held up {x.the}.'))  # fmt: skip
    t.say('"[I can mend that|That is not so bad|Nothing is lost yet]," said {B.n}. "[All we need is|We only need] '
          '{y.a}."',
          B=helper, y=tool)  # fmt: skip
    if t.world.holder[tool] == helper:
        t.say("{B.n} [found it in a drawer|had it in {B.his} pocket|got it at once].", B=helper)
    else:
        back = t.at(helper)
        t.fetch(A, tool)
        t.go(A, back)
        t.act("lend", A, tool, helper, say=())
    mend_with(t, helper, x, tool)
    t.feel(A, "happy", f"the {x} is whole again")
    t.thank(A, helper)
    t.finish("many broken things can be mended", "two can do more than one", "help is closer than you think")


def honest_finder(t: Teller) -> None:
    """A finds a thing that is not A's and looks for the one who lost it."""
    A = t.begin()
    place = t.place(outdoors=True)
    owner = t.adult() if t.chance(0.5) else t.child()
    x = t.thing(t.fresh(words.PLAYTHINGS + words.PRECIOUS), owner=owner, place=place)
    t.go(A, place)
    t.act("find", A, x, detail=t.world.lies[x][1])
    t.act("take", A, x)
    t.say('"Who lost this {x.n}?" {A} [wondered|asked aloud].',
          "It was a lovely thing, and {A} [wanted to keep it|wished to have one like it]. But it was not {A.his} own.",
          "Nobody was near. {A} could have kept it, but that would not be right.", A=A, x=x)  # fmt: skip
    t.paragraph()
    other = ""
    for _ in range(1 if t.chance(0.6) else 2):
        other = t.adult() if t.chance(0.5) else t.child(t.place())
        t.reach(A, t.at(other))
        t.act("ask", A, x, other, detail="is it yours", say=(
            '"Is this {x.n} yours?" {A} asked {B.o}. "No," said {B.n}, '
            '"[mine is at home|I have never seen it|but it is very nice]."',
            "{A} showed {x.the} to {B.i}, who shook {B.his} head."))  # fmt: skip
    t.say(
        '"[Ask|Try|Go and ask] {C.n}," said {B.n}.',
        '"I think I saw {C.n} with one like that," {B} said.',
        B=other,
        C=owner,
    )
    t.reach(A, t.at(owner))
    t.act("ask", A, x, owner, detail="is it yours", say=(
        '"Did you lose {x.a}?" {A} asked {B.o}. "Yes!" cried {B.n}. "[I looked for it everywhere|I have missed it '
        'so]!"',
        '{B} was [looking for something|searching every corner]. "Is this what you lost?" asked {A.n}.'))  # fmt: skip
    t.act("return", A, x, owner)
    t.feel(owner, t.pick(("happy", "grateful", "surprised")), f"the {x} came back")
    if t.chance(0.6):
        reward(t, A, owner)
    else:
        t.thank(owner, A)
    t.finish("giving back feels better than keeping", "what is not yours wants to go home", "honest people sleep well")
