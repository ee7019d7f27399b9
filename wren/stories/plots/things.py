"""Stories about a thing: lost, traded, locked away, mixed up, mended."""

from wren.stories import words
from wren.stories.teller import Teller

_FROM = ("grandmother", "grandfather", "uncle", "aunt", "mother", "father", "sister", "brother", "cousin")


def _treasured(t: Teller, A: str, x: str) -> None:
    """Says how A came by x, and lets A use it."""
    t.say(
        "{A} had {x} with {A.him}, [a gift from {A.his} {giver}|which {A.his} {giver} had made|the best thing {A.he} owned].",
        "In {A.his} bag {A.he} carried {x}.",
        "{A.his} {giver} had given {A.him} {x}, and {A.he} [took it everywhere|loved it dearly|never went out without it].",
        "{A} was carrying {x}.",
        A=A, x=x, giver=t.pick(_FROM),
    )  # fmt: skip
    _use(t, A, x)


def _use(t: Teller, A: str, x: str) -> None:
    use = words.KINDS[t.world.things[x].noun].use
    if use and t.chance(0.6):
        t.say("{A} {use}.", "[First|For a while|Just for fun], {A} {use}.", A=A, use=use.replace(" it", " it"))


def lost_and_found(t: Teller) -> None:
    """A thing is left behind on a walk and found where it was left."""
    A = t.begin(place=t.place(outdoors=True))
    x = t.thing(t.pick(words.PLAYTHINGS + words.PRECIOUS), holder=A)
    _treasured(t, A, x)
    stops = [t.at(A)]
    for _ in range(1 if t.chance(0.4) else 2):
        stops.append(t.place(outdoors=True))
    loss = int(t.rand() * len(stops))
    for index, stop in enumerate(stops):
        t.go(A, stop)
        if index == loss:
            t.act("lose", A, x, detail=t.spot(stop))
    t.go(A, t.homes[A])
    t.paragraph()
    t.say(
        "[At home|That afternoon|A little later], {A} [reached into {A.his} bag|wanted to show {x.the} to {A.his} {giver}|looked for {x.the}]. It was gone!",
        "{A} was about to sit down when {A.he} thought of {x.the}. [Where was it|It was not in {A.his} bag]?".replace("bag]?", "bag]!").replace("was it|", "could it be|") if False else
        "{A} was about to sit down when {A.he} thought of {x.the}. It was not in {A.his} bag!",
        '"Where is my {x.n}?" {A} cried. {A.he} [emptied {A.his} pockets|turned {A.his} bag inside out], but it was not there.',
        A=A, x=x, giver=t.pick(_FROM),
    )  # fmt: skip
    t.feel(A, t.pick(("sad", "worried")), f"the {x} was lost")
    B = ""
    if t.chance(0.6):
        B = t.child(t.homes[A], f"{t.his(A)} friend @")
        t.say("Just then {B} [knocked at the door|came by|looked in at the window].", B=B)
        t.act("tell", A, x, B, detail="lost", say=(
            '"I lost my {x.c}," said {A.n}. "[Think back|Do not worry|Do not cry]," said {B.n}. "[Where were you today|We will find it together|Let us go back the way you came]."'.replace("today|", "today, then|") if False else
            '"I lost my {x.c}," said {A.n}. "[Think back|Do not worry|Do not cry]," said {B.n}. "[We will find it together|Let us go back the way you came|I will help you look]."',
            "{A} told {B.o} about {x.the}. {B.n} [wanted to help|had an idea: they would walk the same way again].",
        ))  # fmt: skip
    for stop in reversed(stops):
        t.go(A, stop, B)
        if t.world.place_of(x) != stop:
            t.act("look", A, x, say=None, detail=t.spot(stop))
            continue
        finder = B if B and t.chance(0.4) else A
        t.act("find", finder, x, detail=t.world.lies[x][1])
        t.act("take", finder, x, say=() if t.chance(0.5) else None)
        if finder != A:
            t.act("return", B, x, A)
        break
    t.feel(A, "happy", f"the {x} was found")
    if B:
        t.thank(A, B)
    t.finish(t.pick(("it helps to think back", "a good search starts where the day began", "you should look after your things")))


def trade(t: Teller) -> None:
    """A wants what B has; B wants what C has; a chain of swaps."""
    A = t.begin()
    x = t.thing(t.fresh(words.PLAYTHINGS), holder=A)
    _treasured(t, A, x)
    owners = [t.child(t.place(), ""), t.adult()] if t.chance(0.5) else [t.child(t.place()), t.child(t.place())]
    goods = [t.thing(t.fresh(words.PLAYTHINGS), holder=owner) for owner in owners]
    B, C = owners
    y, z = goods
    t.go(A, t.at(B))
    t.act("meet", A, B=B)
    t.say(
        "{B} had {y}. {A} [looked at it and sighed|liked it at once|had always wanted one].",
        '{A} [saw|noticed] {y} in {B.s} hands. "[What a fine {y.n}|I wish I had a {y.noun} like that]!" said {A.n}.'.replace("a {y.noun} like", "something like"),
        A=A, B=B, y=y,
    )  # fmt: skip
    t.act("ask", A, y, B, detail="to trade", say=(
        '"[Will you trade|Would you swap] your {x.n} for my {y.n}?" {A} asked.',), **{"y": x})
    direct = t.chance(0.3)
    if direct:
        t.say('"[Yes, I would like that|Done|It is a deal]!" said {B.n}.', B=B)
    else:
        t.say('"No," said {B.n}, "but I would trade it for {z.a} like the one {C.n} has."', B=B, z=z, C=C)
        t.go(A, t.at(C))
        t.act("meet", A, B=C)
        t.act("ask", A, z, C, detail="to trade", y=x, say=(
            '"May I have your {x.n} for my {y.n}?" {A} asked. "[Yes, gladly|Why not|I never use it anyway]," said {B.n}.',
            "{A} offered {y.the} for {x}. {B.n} thought for a moment and [nodded|agreed]."))  # fmt: skip
        _swap(t, A, x, C, z)
        t.go(A, t.at(B))
    _swap(t, A, x if direct else z, B, y)
    t.paragraph()
    _use(t, A, y)
    t.feel(A, "happy", f"the trade for the {y}")
    t.say("Both of them thought that they had made the better trade.", "It was a fair trade, and nobody was sorry.",
          "{B.n} was happy, too.", B=B)  # fmt: skip
    t.finish(t.pick(("a fair trade makes two people happy", "it never hurts to ask", "one thing can lead to another")))


def _swap(t: Teller, A: str, x: str, B: str, y: str) -> None:
    t.act("give", A, x, B, why="trade", say=())
    t.act("give", B, y, A, why="trade", say=(
        "So {B} got {y.the}, and {A} got {x.the}.", "They [swapped|traded]: {y.the} for {x.the}.",
        "{B} [handed over|gave up] {y.the} and took {x.the}."), **{"y": x})


def locked_box(t: Teller) -> None:
    """A locked box, a key somewhere else, and somebody's lost treasure inside."""
    A = t.begin()
    B = t.adult()
    box = t.thing(t.pick(words.nouns("box")), place=t.place())
    key = t.thing("key")
    inside = t.thing(t.fresh(words.PRECIOUS), inside=box, owner=B)
    t.world.do(t_event(key, t, B))
    t.world.do(lock_event(box, key))
    where, spot = t.world.lies[box]
    t.go(A, where)
    t.act("find", A, box, detail=spot)
    t.feel(A, t.pick(("excited", "surprised")), f"the {box}")
    t.open(A, box)
    t.paragraph()
    t.act("take", A, inside, y=box, say=("Inside {y.the} {A} found {x}!", "{A} lifted the lid. There was {x}!",
                                         "In {y.the}, wrapped in cloth, lay {x}."))  # fmt: skip
    t.say("A [note|label] said: this belongs to {B.n}.", 'On it was written, "{B.n}."',
          "{A} turned it over and read a name: {B.n}.", A=A, B=B)  # fmt: skip
    t.reach(A, t.at(B))
    t.act("return", A, inside, B)
    t.feel(B, t.pick(("surprised", "happy", "grateful")), f"the {inside} came back")
    t.say('"I lost it [many years ago|when I was as small as you|last winter]," said {B.n}.',
          '"I thought it was gone forever," said {B.n}.', B=B)  # fmt: skip
    _reward(t, A, B)
    t.finish(t.pick(("what is lost can come back", "an honest heart is the best key", "it feels good to give a thing back")))


def t_event(key: str, t: Teller, avoid: str):
    """The key lies somewhere that is not where the story began."""
    from wren.stories.world import Event

    place = t.place()
    return Event("lie", "", key, "", place, t.spot(place))


def lock_event(box: str, key: str):
    from wren.stories.world import Event

    return Event("lock", "", box, key)


def _reward(t: Teller, A: str, B: str) -> None:
    """B gives A something nice to eat, or a thing."""
    if t.chance(0.5):
        food = t.thing(t.fresh(words.SNACKS), holder=B)
        t.act("give", B, food, A, why="thanks")
        t.act("eat", A, food)
    else:
        gift = t.thing(t.fresh(words.nouns("treasure", "toy")), holder=B)
        t.act("give", B, gift, A, why="thanks")
        t.feel(A, "happy", f"the {gift}")


def mixed_up(t: Teller) -> None:
    """Two things alike but for their colour change hands by mistake."""
    A = t.begin()
    noun = t.pick(words.nouns("wear") + ("umbrella", "blanket", "ball", "cup"))
    colors = [t.pick(words.COLORS), t.pick(words.COLORS)]
    while colors[0] == colors[1]:
        colors[1] = t.pick(words.COLORS)
    meet = t.place()
    B = t.child(meet)
    x = t.thing(noun, holder=A, color=colors[0])
    y = t.thing(noun, holder=B, color=colors[1])
    t.say("{A} had {x.a}.", "{A} [took|brought] {A.his} {x.c} [along|with {A.him}].", A=A, x=x)
    t.go(A, meet)
    t.act("meet", A, B=B)
    t.say("{B} had {x.a}.", "{B} had one, too, but {B.his} {noun} was {x.color}.", B=B, x=y, noun=noun)
    t.voice.known[y] = True
    spot = t.spot(meet)
    t.act("put", A, x, detail=spot, say=())
    t.act("put", B, y, A=B, detail=spot, say=()) if False else t.act("put", B, y, detail=spot, say=(
        "They laid both {noun}s {s} and [played|went to play]."), noun=noun) if False else t.act(
        "put", B, y, detail=spot, noun=noun, a=A, say=(
            "They laid {A.his} {noun} and {a}'s {noun} {s} and went to play.",
            "Both of them put their {noun}s down {s}."))  # fmt: skip
    t.act("play", A, B=B)
    t.act("take", A, y, say=())
    t.go(A, t.homes[A])
    t.paragraph()
    t.say("At home {A} looked at the {noun}. It was {x.color}, not {y.color}!",
          '"[Wait|Oh dear]," said {A.n}, "this {noun} is {x.color}. Mine is {y.color}!"',
          "Then {A} saw that the {noun} in {A.his} hands was {x.color}. {A.he} had taken the wrong one.",
          A=A, noun=noun, x=y, y=x)  # fmt: skip
    t.feel(A, t.pick(("surprised", "worried", "ashamed")), f"{A} took the {y} of {B} by mistake")
    t.act("take", B, x, say=())
    if t.chance(0.5):
        t.go(A, meet)
    else:
        t.act("go", B, p=t.homes[A], say=("At that moment {A} [knocked at the door|came running] with {x.the}.",), x=x)
        t.world.events[-1] = t.world.events[-1]._replace(thing="")
    t.act("return", A, y, B)
    t.act("return", B, x, A, say=("{A} laughed and gave {x.the} to {B.o}.", "And {A} gave {B.o} {x.the}.",
                                  '"And this is yours," said {A.n}, and gave {B.o} {x.the}.'))  # fmt: skip
    t.say('"Next time we should look twice," said {B.n}.', "They laughed until their sides hurt.",
          '"[Yours|Mine] is {y.color}, [remember|and do not forget it]!" said {B.n}.'.replace("Yours|", "Yours|") if False else
          "Both of them were glad.", B=B, A=A, y=y)  # fmt: skip
    t.finish(t.pick(("it is good to look twice", "anyone can make a mistake", "a mistake can be put right")))


def mended(t: Teller) -> None:
    """A thing breaks; the right tool is somewhere else; together it is mended."""
    A = t.begin()
    x = t.thing(t.pick(words.BREAKABLE), holder=A)
    _treasured(t, A, x)
    kind = words.KINDS[t.world.things[x].noun]
    t.act("break", A, x, damage=kind.damage, say=(
        "But {A} [tripped|stumbled|slipped] and {x.the} {damage}.", "Then, [crack|oh no|suddenly], {x.the} {damage}!",
        "A moment later, {A} bumped into a [wall|post|fence], and {x.the} {damage}."))  # fmt: skip
    t.feel(A, t.pick(("sad", "worried", "sad", "angry")), f"the {x} broke")
    t.paragraph()
    helper = t.child() if t.chance(0.5) else t.adult()
    grown = bool(t.world.people[helper].role)
    tool = t.thing(kind.tool, holder=helper if t.chance(0.4) else t.adult())
    t.reach(A, t.at(helper))
    t.act("meet", A, B=helper)
    t.act("tell", A, x, helper, detail="broken", say=(
        '"Look, my {x.c} is broken," {A} said. "[Can it be mended|Can you help me]?"',
        "{A} showed {B.o} {x.the}.", '"[Please help me|What can we do]," {A} said, and held up {x.the}.'))  # fmt: skip
    t.voice.say('"[I can mend that|That is not so bad|Nothing is lost yet]," said {B.n}. "[All we need is|We only need] {y.a}."',
                {"B": helper, "y": tool})  # fmt: skip
    if t.world.holder[tool] == helper:
        t.say("{B.n} had one in [a drawer|{B.his} pocket].", B=helper) if tool != "glue" else t.say(
            "{B.n} had some [in a drawer|in a pot].", B=helper)
    else:
        back = t.at(helper)
        t.fetch(A, tool)
        t.go(A, back)
        t.act("lend", A, tool, helper, say=())
    from wren.stories import phrases

    t.act("mend", helper, x, tool, y=tool, say=phrases.MEND[tool])
    t.feel(A, "happy", f"the {x} is whole again")
    t.thank(A, helper)
    t.finish(t.pick(("many broken things can be mended", "two can do more than one", "help is closer than you think" if grown else
                     "a friend can make things whole again")))  # fmt: skip


def noble_finder(t: Teller) -> None:
    """A finds a thing that is not A's and looks for the one who lost it."""
    A = t.begin()
    place = t.place(outdoors=True)
    owner = t.adult() if t.chance(0.5) else t.child()
    x = t.thing(t.fresh(words.PLAYTHINGS + words.PRECIOUS), owner=owner, place=place)
    t.go(A, place)
    t.act("find", A, x, detail=t.world.lies[x][1])
    t.act("take", A, x)
    t.say('"[Whose|Who lost] {x.a}?" {A} [wondered|asked aloud].'.replace("[Whose|Who lost] {x.a}", "Who lost this {x.n}"),
          "It was a lovely thing, and {A} [wanted to keep it|wished it were {A.his} own]. But it was not.".replace("{A.his} own", "a gift"),
          "Nobody was near. {A} could have kept it, but that would not be right.", A=A, x=x)  # fmt: skip
    t.paragraph()
    for _ in range(1 if t.chance(0.6) else 2):
        other = t.adult() if t.chance(0.5) else t.child(t.place())
        t.reach(A, t.at(other))
        t.act("ask", A, x, other, detail="is it yours", say=(
            '"Is this {x.n} yours?" {A} asked {B.o}. "No," said {B.n}, "[mine is at home|I have never seen it|but it is very nice]."',
            "{A} showed {x.the} to {B.o}, who shook {B.his} head."))  # fmt: skip
        if t.chance(0.7):
            t.say('"[Ask|Try|Go and ask] {C.n}," said {B.n}.', '"I think I saw {C.n} with one like that," {B} said.',
                  B=other, C=owner)  # fmt: skip
            break
    t.reach(A, t.at(owner))
    t.act("ask", A, x, owner, detail="is it yours", say=(
        '"Did you lose {x.a}?" {A} asked {B.o}. "Yes!" cried {B.n}. "[I looked for it everywhere|I have missed it so]!"',
        '{B} was [looking for something|searching every corner]. "Is it this?" asked {A.n}.'))  # fmt: skip
    t.act("return", A, x, owner)
    t.feel(owner, t.pick(("happy", "grateful", "surprised")), f"the {x} came back")
    if t.chance(0.6):
        _reward(t, A, owner)
    else:
        t.thank(owner, A)
    t.finish(t.pick(("giving back feels better than keeping", "what is not yours wants to go home", "honest people sleep well")))
