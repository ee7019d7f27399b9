"""Stories about doing: helping, learning, growing, competing, cooking, making."""

from wren.stories import words
from wren.stories.plots.things import reward
from wren.stories.teller import Teller

# places that may be locked -> who would work there
_LOCKABLE = {
    "barn": "farmer", "library": "librarian", "tower": "clockmaker", "school": "teacher", "workshop": "carpenter",
    "mill": "miller",
}  # fmt: skip


def helping(t: Teller) -> None:
    """A neighbour needs two or three things; A gets them one by one."""
    A = t.begin()
    B = t.adult()
    t.go(A, t.at(B))
    t.act("meet", A, B=B, say=("There sat {B.i}, who [looked sad|rubbed one knee|had a bandaged foot].",
                               "{B.i} was there, [sneezing and coughing|with a bandaged arm|looking very "
                               "tired]."))  # fmt: skip
    locked = t.fresh(tuple(_LOCKABLE)) if t.chance(0.35) else ""
    noun = t.fresh((*words.nouns("tool", "home", "paper"), "apple", "onion", "carrot"))
    needs = [t.thing(noun, place=locked or t.place(), owner=B)]
    if locked:
        _lock_up(t, locked)
    elif t.chance(0.5):
        needs.append(t.thing(t.fresh(words.nouns("tool", "home")), place=t.place(), owner=B))
    x, where = needs[0], t.world.place_of(needs[0])
    t.act("tell", B, x, A, detail="needs help", q=where, y=needs[-1], say=(
        '"[I cannot walk today|My leg hurts]," said {A.n}, "and I need my {x.n}. It is {q.in}."',
        '"I left my {x.n} {q.in}," said {A.n}, "and I am too [weak|tired|sick] to get it."'))  # fmt: skip
    t.say('"I will [get|bring] it for you," said {A.n}.', '"[Stay here|Rest a little]," said {A.n}. "I will go."', A=A)
    for index, need in enumerate(needs):
        if index:
            t.say(
                '"[One more thing|Could you go once more]," said {B.n}. "My {x.n} is {q.in}."',
                '"[Now|Next] I need my {x.n} from {q}," said {B.n}.',
                B=B,
                x=need,
                q=t.world.place_of(need),
            )
        t.fetch(A, need)
        t.go(A, t.at(B))
        t.act("return", A, need, B)
        t.paragraph()
    t.feel(B, t.pick(("grateful", "happy")), f"{A} helped")
    if t.chance(0.6):
        reward(t, A, B)
    else:
        t.thank(B, A)
    t.feel(A, t.pick(("proud", "tired")), f"{A} had helped {B}")
    t.finish("helping is its own reward", "small feet can do great things", "a neighbor is never far")


def _lock_up(t: Teller, place: str) -> None:
    """The place is closed, nobody works there today, and somebody else has the key."""
    t.used[_LOCKABLE[place]] = True
    keeper = t.adult()
    key = t.thing("key")
    t.keep(keeper, key)
    t.lock("", key, place)


def learning(t: Teller) -> None:
    """A tries, fails, is taught, tries again and can do it."""
    key = t.pick(tuple(words.SKILLS))
    skill = words.SKILLS[key]
    A = t.begin(weathers=("sunny",) if key in ("swim", "row", "fish") else ("sunny", "windy", "cloudy"))
    C = t.adult(skill.role)
    t.act("know", C, detail=key, say=())
    t.say(
        "{A} wanted to learn {k}.",
        "More than anything, {A} wished to learn {k}.",
        "{A} had seen others {b}, and {A.he} wanted to do it, too.",
        A=A,
        k="how to " + skill.base,
        b=skill.base,
    )
    t.go(A, skill.place)
    for _ in range(1 if t.chance(0.6) else 2):
        t.act("try", A, detail=key, say=(t.fresh(skill.fails),))
    t.feel(A, t.pick(("sad", "angry", "ashamed")), f"{skill.ing} was hard")
    if t.chance(0.4):
        B = t.child(skill.place)
        t.say('{B} [saw it and laughed|giggled]. "You will never learn it," {B.he} said.',
              '"[Do not give up|You can do it]," said {B}.', "{B} watched and said nothing.", B=B)  # fmt: skip
    t.paragraph()
    t.reach(A, t.at(C))
    t.act("meet", A, B=C)
    t.act("ask", A, "", C, detail=f"to teach {skill.ing}", b=skill.base, say=(
        '"[Can you show me how to|Will you teach me to] {b}?" {A} asked.',
        "{A} asked {B.o} how to {b}."))  # fmt: skip
    t.say(
        '"[{tip}|I will show you. {tip}]," said {C.n}.',
        '"[It is not hard|The trick is simple]," said {C.n}. "{tip}."',
        C=C,
        tip=skill.tip,
    )
    t.go(A, skill.place, C)
    days = t.pick(("two", "three", "four", "five"))
    turn = t.rand()
    if turn < 0.5:
        t.say(
            "They practiced [and practiced|all afternoon|for a long time|again and again].",
            "{A} tried [ten|twenty] more times.",
            A=A,
        )
    else:
        t.act(
            "try", A, detail=key, say=[fail for fail in skill.fails if fail not in t.used] or ("It went wrong again.",)
        )
        t.say(
            '"[Once more|Try again]," said {C.n}.',
            "{A} wanted to stop, but {C.n} [shook {C.his} head|said no].",
            A=A,
            C=C,
        )
        if turn > 0.75:
            t.say("For {n} days they met and practiced.", n=days)
    t.act(
        "learn",
        A,
        B=C,
        detail=key,
        d=skill.done,
        say=(
            "[At last|And then|Finally], {A} {d}!",
            "And then it happened: {A} {d}!",
            "Suddenly it was easy. {A} {d}.",
        ),
    )
    t.feel(A, "proud", f"{A} learned {skill.ing}")
    t.thank(A, C)
    t.finish("practice makes things easy", "nobody learns without mistakes", "you should never give up too soon")


def garden(t: Teller) -> None:
    """A seed is planted, cared for, and grows."""
    A = t.begin(weathers=("sunny", "cloudy", "windy"), place="garden")
    seed = t.thing("seed")
    giver = t.adult() if t.chance(0.6) else t.child("garden")
    t.keep(giver, seed)
    fruit_noun = t.pick(("pumpkin", "carrot", "cabbage", "potato", "onion"))
    t.reach(A, t.at(giver))
    t.act("meet", A, B=giver)
    t.act("give", giver, seed, A, why="to plant it")
    t.say(
        '"[It does not look like much|It is small], but [wait and see|be patient]," said {B.n}.',
        "{A} turned it over in {A.his} hand. It was so small!",
        A=A,
        B=giver,
    )
    t.go(A, "garden")
    t.act(
        "plant",
        A,
        seed,
        say=("{A} dug a hole and [planted|put in] {x.the}.", "{A} pressed {x.the} into the soft soil."),
    )
    t.act("water", A, seed, say=("{A} watered it from a can.", "Then {A} gave it some water."))
    t.paragraph()
    for _ in range(1 if t.chance(0.5) else 2):
        t.next_day(A, ("sunny", "cloudy", "rainy"))
        if t.at(A) != "garden":
            t.go(A, "garden")
        if t.world.weather == "rainy":
            t.say(
                "It rained, so {A} did not have to water {x.the}.",
                "Rain fell on the soil, and that was good for {x.the}.",
                A=A,
                x=seed,
            )
        else:
            t.act("water", A, seed, say=("{A} watered the soil. Nothing could be seen yet.",
                  "{A} [pulled out the weeds|chased away a crow|picked off the snails] and watered the soil.",
                  "A [tiny|thin] green leaf had come up! {A} watered it.") [: 2 if _ == 0 else 3])  # fmt: skip
        if t.chance(0.5):
            t.feel(A, t.pick(("worried", "excited", "sad")), "waiting for the plant")
    t.paragraph()
    fruit = t.thing(fruit_noun)
    t.act("grow", A, seed, fruit, detail="in the soft soil", y=fruit, say=(
        "[Many weeks passed|The summer went by|Weeks went by]. In the place of {x.the} there was now {y}!",
        "The plant grew and grew. When [autumn|fall|harvest time] came, there was {y}!"))  # fmt: skip
    t.feel(A, t.pick(("proud", "happy", "surprised")), f"the {fruit} grew")
    t.act(
        "take",
        A,
        fruit,
        say=("{A} pulled with all {A.his} might. Plop! Out it came.", "{A} picked it with both hands."),
    )
    t.reach(A, t.at(giver))
    if t.chance(0.5):
        t.act("give", A, fruit, giver, why="thanks for the seed")
        t.feel(giver, t.pick(("happy", "surprised")), f"the {fruit}")
    else:
        t.act(
            "tell",
            A,
            fruit,
            giver,
            detail="it grew",
            say=('"Look what I have grown!" {A} told {B.o}.', "{A} showed {B.o} {x.the}."),
        )
        t.act(
            "share",
            A,
            fruit,
            giver,
            say=("They cooked {x.the} and ate it together.", "They made a stew with {x.the} and had two bowls each."),
        )
    t.finish("good things take time", "a little care makes things grow", "great things start small")
