"""Stories on the road: a storm, a journey, a pet gone astray, a message."""

from wren.stories import phrases, words
from wren.stories.language import at_place
from wren.stories.plots.things import reward
from wren.stories.teller import Teller

_OBSTACLES = (
    ("a fallen tree lay across the road", "[climbed over it|crawled under it|walked around it]"),
    (
        "the road split in two",
        "[asked the way at a farmhouse|read the sign and turned left|remembered the map and turned right]",
    ),
    (
        "a stream crossed the path",
        "[jumped from stone to stone|took off both shoes and waded through|found a plank and walked across]",
    ),
    (
        "a flock of geese would not let anyone pass",
        "[waited until they had gone by|sang to them until they moved|threw them some crumbs]",
    ),
    ("the road was full of mud", "[walked along the edge|hopped from one dry spot to the next]"),
    ("a steep slope rose up ahead", "[climbed it step by step|rested twice and reached the top]"),
    ("a gate stood in the way", "[lifted the latch and closed it again|climbed over it with a jump]"),
)


def storm(t: Teller) -> None:
    """A storm comes; someone has to be brought in; all wait it out; the damage is mended."""
    place = t.place(outdoors=True)
    A = t.begin(("windy", "cloudy"), place=place, time="afternoon")
    B = t.child(t.place(outdoors=True)) if t.chance(0.5) else t.adult()
    pet = t.pet(A) if t.chance(0.5) else ""
    if pet:
        t.voice.intros[pet] = f"{t.his(A)} {t.world.people[pet].kind} {pet}"
        t.say("{B} was with {A.him}.", "{A} had brought {B.o} along.", A=A, B=pet)
    t.say("[Suddenly|All at once|Then] {A} [looked up|felt a drop]. Dark clouds were [rolling in|racing across the "
          "sky].",
          "A cold wind [rose|began to blow], and thunder grumbled far away.", "The sky turned black over the "
                                                                              "[hills|roofs].", A=A)  # fmt: skip
    t.feel(A, t.pick(("afraid", "worried")), "a storm was coming")
    t.say(
        '"[A storm is coming|It will storm soon]!" {A} said. "I must [warn|tell] {B.n}."',
        "{A} thought of {B.i}, who did not know about the storm.",
        A=A,
        B=B,
    )
    if pet and t.at(A) != t.at(B):
        t.act(
            "go", A, B=pet, p=t.at(B), say=("{A.i} and {B.i} ran to {p}.", '"Run, {B.n}!" {A} said. They ran to {p}.')
        )
    else:
        t.go(A, t.at(B))
    t.act(
        "tell",
        A,
        "",
        B,
        detail="a storm is coming",
        say=('"[Come inside|Hurry], {B.n}, a storm!" {A} [called|shouted].', "{A} told {B.o} about the storm."),
    )
    shelter = t.pick(("barn", "mill", "inn", "tower", t.homes[A]))
    if t.at(A) != shelter:
        if pet and t.at(pet) != shelter:
            t.act("go", pet, p=shelter, say=())
        t.act(
            "go",
            A,
            B=B,
            p=shelter,
            say=(
                "[Hand in hand|Side by side|As fast as they could], {A.i} and {B.i} ran to {p}.",
                "They ran to {p} together.",
            ),
        )
    t.act("weather", detail="stormy", say=())
    t.paragraph()
    t.say("[Lightning flashed and thunder rolled|The wind howled and shook the door|Rain poured down and hail "
          "drummed on the roof].",
          "[Boom|Crash]! The thunder was [so loud that the walls shook|right above them].", A=A)  # fmt: skip
    if pet:
        t.say("{B} [trembled|hid in a corner|crept close to {A.o}].", A=A, B=pet)
    turn = t.rand()
    if turn < 0.35:
        food = t.thing(t.fresh(words.SNACKS), holder=B)
        t.act("share", B, food, A)
    elif turn < 0.7:
        t.say(
            "{B} told {A.o} a story about [a giant|a whale|a clever fox|three bears], and the time passed quickly.",
            "They sang [songs|loudly] so that they would not hear the thunder.",
            "They counted the seconds from each flash to each boom.",
            A=A,
            B=B,
        )
    else:
        lamp = t.thing("lantern", holder=B)
        t.say("It was very dark, but {B} [had|lit] {x}.", B=B, x=lamp)
        t.say("In its glow they [made shadow animals on the wall|felt safe].")
    t.act(
        "weather",
        detail=t.pick(("sunny", "cloudy")),
        say=(
            "[At last|After an hour|Little by little] the storm [passed|moved on].",
            "Then it was over. The air was clean and still.",
        ),
    )
    t.say(
        "A rainbow [stood over the hills|shone in the sky].",
        "Everything [dripped|sparkled].",
        "Branches lay on the ground everywhere.",
    )
    if t.chance(0.5):
        t.go(A, place, B)
        t.say(
            "They [swept up leaves|picked up branches|put the fence up again|gathered loose boards] until all was in "
            "order."
        )
    t.thank(B, A)
    t.feel(A, t.pick(("happy", "proud")), f"{B} was safe")
    t.finish(
        "every storm comes to an end", "it is good to think of others", "no storm is so bad when you are not alone"
    )


def journey(t: Teller) -> None:
    """A carries something far, over obstacles, to someone who waits for it."""
    A = t.begin(("sunny", "cloudy", "windy", "foggy"), time="morning")
    B = t.adult()
    x = t.thing(t.fresh(words.nouns("paper", "home", "food", "tool")), holder=A)
    t.say("{A} had to bring {x} to {B.i}, who lived far away.", "{B} lived far away and had asked for {x}. {A} "
                                                                "wanted to bring it.",
          '"Please take {x} to {B.n}," {A.s} {g} said. "It is a long way."',
          A=A, B=B, x=x, g=t.pick(("mother", "father", "grandmother", "uncle", "aunt")))  # fmt: skip
    if t.chance(0.5):
        t.say(
            "{A} packed [water and a blanket|a warm coat|a stick and some string] and [set out|started out|went on "
            "{A.his} way].",
            A=A,
        )
    friend = ""
    if t.chance(0.4):
        friend = t.child(t.at(A))
        t.say("{B} [came along|wanted to come, too].", B=friend)
    for index in range(2 if t.chance(0.5) else 3):
        t.go(A, t.place(outdoors=True), friend)
        turn = t.rand()
        if turn < 0.55:
            what, how = t.fresh([f"{a}|| {b}" for a, b in _OBSTACLES]).split("|| ")
            t.say("[There|Here|Then] " + what + ". {A} " + how + ".", A=A)
        elif turn < 0.75 and index:
            t.snack(A)
        else:
            t.flavor(A, t.at(A))
    t.paragraph()
    if t.chance(0.35):
        t.evening()
        t.act(
            "sleep",
            A,
            say=(
                "{A} slept [in a hayloft|under the stars|at a kind farmer's house].",
                "{A} found a dry place and slept until dawn.",
            ),
        )
        t.next_day(A)
    t.feel(A, "tired", "the long way")
    t.go(A, t.at(B), friend)
    t.act(
        "meet",
        A,
        B=B,
        say=(
            "{B} was [standing in the doorway|waiting outside|looking out of the window].",
            "{B} [came running|waved from afar].",
        ),
    )
    t.act("give", A, x, B, why=f"{B} had asked for it")
    t.feel(B, t.pick(("happy", "grateful", "surprised")), f"{A} brought the {x}")
    if t.chance(0.5):
        reward(t, A, B)
    else:
        t.thank(B, A)
    t.finish("a long road is made of small steps", "you are stronger than you think", "a promise is worth a long walk")


def pet_astray(t: Teller) -> None:
    """A pet runs off; A asks, searches and lures it with its favourite food."""
    A = t.begin()
    D = t.pet(A)
    species = t.world.people[D].kind
    t.voice.intros[D] = f"a {species} named {D}"
    t.say("{A} had {B}.", "{A} was with {A.his} best friend, {B.i}.", A=A, B=D)
    t.say("{B} " + t.pick(words.PET_SOUNDS[species].split("|")) + ".", B=D)
    hide = t.place(outdoors=True)
    t.act("stray", D, p=hide, say=())
    t.say("[But then|One moment later|Suddenly] {A} [turned around|looked up], and {B} was gone!",
          "A loud [bang|crash] frightened {B.o}. {B.n} ran away as fast as {B.he} could.",
          "{A} left the gate open for a moment, and {B} slipped out.", A=A, B=D)  # fmt: skip
    t.feel(A, t.pick(("worried", "sad", "afraid")), f"{D} ran away")
    t.paragraph()
    for _ in range(1 if t.chance(0.6) else 2):
        stop = t.place(outdoors=True)
        t.go(A, stop)
        t.act("look", A, B=D, detail=t.spot(stop), say=phrases.LOOK_PET)
    witness = t.adult() if t.chance(0.6) else t.child(t.place())
    t.reach(A, t.at(witness))
    t.act("ask", A, "", witness, detail=f"where {D} is", k=species, C=D, say=(
        '"[Have you seen|Did you see] a little {k}?" {A} asked {B.o}.', '"I cannot find {C.n}," {A} said to '
                                                                        '{B.o}.'))  # fmt: skip
    t.act(
        "tell",
        witness,
        D,
        A,
        detail=f"{D} is {hide}",
        q=hide,
        k=species,
        say=(
            '"[Yes|I did]," said {A.n}. "A {k} [ran|came] this way. Look {q.in}."',
            '"I saw a {k} {q.in}," said {A.n}.',
        ),
    )
    treat_noun = t.pick(words.PET_TREATS[species])
    treat = t.thing(treat_noun, holder=witness)
    t.act(
        "give",
        witness,
        treat,
        A,
        why=f"to lure {D}",
        say=('"Take {x} with you," said {A.n}. "No {k} can say no to that."', "{A} gave {B.o} {x} to take along."),
        k=species,
    )
    t.go(A, hide)
    t.say(
        "There, {s}, [sat|was] {B.i}!",
        "{A} saw [two bright eyes|something move] {s}. It was {B.i}!",
        A=A,
        B=D,
        s=t.spot(hide),
    )
    t.act("feed", A, treat, D, say=("{A} held out {x.the}. {B} [came closer|sniffed] and then ate it from {A.his} "
                                    "hand.",
                                    '"Look what I have, {B.n}," {A} said, and {B.n} came close and ate '
                                    '{x.the}.'))  # fmt: skip
    t.feel(A, "happy", f"{D} was found")
    t.say("{B} " + t.pick(words.PET_SOUNDS[species].split("|")) + ".", B=D)
    t.go(A, t.homes[A], D)
    t.finish("a closed gate is a good gate", "friends with four feet need care" if species not in ("hen", "parrot") else
                     "small friends need care", "kind neighbors are a great help")  # fmt: skip


def message(t: Teller) -> None:
    """A message goes from one to the next, and comes back as an answer."""
    A = t.begin()
    B, C = t.adult(), t.adult()
    news, reply = t.pick(
        (
            ("there would be music {q} that night", "Then I will bring my fiddle"),
            ("the bridge was closed", "Then I will take the boat"),
            ("a new baby had been born", "What wonderful news"),
            ("the first ship of the year had come in", "Then there will be oranges"),
            ("there would be a feast {q}", "I shall bake all night"),
            ("the old bell would ring again", "I must hear that"),
            ("snow was coming from the north", "Then I must cut more firewood"),
            ("a circus was coming to town", "I have not seen an elephant for years"),
        )
    )
    news = news.replace("{q}", at_place(t.place()))
    t.reach(A, t.at(B))
    t.act("meet", A, B=B)
    t.act("ask", B, "", A, detail="to bring a message", C=C, say=(
        '"Will you [take a message|run] to {C.n} for me?" asked {A.n}.', '"I have news for {C.n}," said {A.n}, "but '
                                                                         'I cannot leave."'))  # fmt: skip
    t.act(
        "tell",
        B,
        "",
        A,
        detail=news,
        C=C,
        news=news,
        say=("The message was that {news}.", "{C} was to know that {news}."),
    )
    t.say(
        '"I will not forget it," said {A.n}.',
        "{A} said it over and over so that {A.he} would not forget.",
        "{A} repeated every word.",
        A=A,
    )
    gift = ""
    if t.chance(0.5):
        gift = t.thing(t.fresh(words.SNACKS), holder=B)
        t.act("give", B, gift, A, why="for the way")
    t.paragraph()
    stop = t.place(outdoors=True)
    t.go(A, stop)
    if t.chance(0.5):
        friend = t.child(stop)
        t.act("meet", A, B=friend)
        t.say(
            '"[Stay and play|Come and play] with me," said {B.n}. {A} [wanted to, but the message could not '
            "wait|shook {A.his} head].",
            A=A,
            B=friend,
        )
    if gift:
        t.act("hunger", A)
        t.act("eat", A, gift)
    t.reach(A, t.at(C))
    t.act("tell", A, "", C, detail=news, say=("{A} told {B.o} the news.", "{A} gave {B.o} the message, word for word."))
    t.feel(
        C,
        t.pick(("happy", "surprised", "excited")) if "bridge" not in news and "snow" not in news else "surprised",
        news,
    )
    t.say('"[{r}|Oh! {r}]," said {C.n}.', C=C, r=reply)
    t.reach(A, t.at(B))
    t.act(
        "tell",
        A,
        "",
        B,
        detail="the answer",
        C=C,
        say=("{A} brought the answer back to {B.o}.", '"{C.n} sends you greetings," {A} told {B.o}.'),
    )
    reward(t, A, B)
    t.feel(A, "proud", "the message was brought")
    t.finish("a good messenger does not stop to play", "words can travel on small feet", "it is good to be trusted")
