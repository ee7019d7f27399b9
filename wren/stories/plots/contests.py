"""Stories about many hands: a contest, a shared meal, something made for somebody."""

from wren.stories import words
from wren.stories.plots.things import use
from wren.stories.teller import Teller

# what is counted, where, and how one gets it
_GAMES = (
    ("fish", "lake", "caught", "who could catch the most fish"),
    ("shells", "beach", "found", "who could find the most shells"),
    ("apples", "orchard", "picked", "who could pick the most apples"),
    ("mushrooms", "forest", "gathered", "who could gather the most mushrooms"),
    ("flowers", "meadow", "picked", "who could pick the most flowers"),
    ("jumps", "playground", "made", "who could make the most jumps on one leg"),
    ("stones", "river", "stacked", "who could stack the most stones"),
    ("nuts", "forest", "collected", "who could collect the most nuts"),
    ("eggs", "barn", "carried", "who could carry the most eggs on spoons"),
    ("words", "school", "spelled", "who could spell the most hard words"),
    ("rings", "square", "threw", "who could throw the most rings over a post"),
    ("songs", "bridge", "remembered", "who could remember the most songs"),
)
_MEALS = ("soup", "stew", "supper")
# material, what is made of it, how
_CRAFTS = (
    ("wool", ("scarf", "cap", "blanket"), "knitted"),
    ("wood", ("boat", "flute", "sled", "top"), "carved and painted"),
    ("clay", ("cup", "vase", "plate", "whistle"), "shaped and painted"),
    ("paper", ("kite", "hat", "lantern"), "folded"),
)  # fmt: skip


def contest(t: Teller) -> None:
    """Three compete; the numbers decide; the winner takes the prize."""
    plural, place, verb, game = t.pick(_GAMES)
    judge = ""
    A = t.begin(("sunny", "cloudy", "windy"))
    B, C = t.child(place), t.child(place)
    if t.chance(0.6):
        judge = t.adult()
    prize = t.thing(t.fresh((*words.nouns("treasure", "toy"), "pie", "cake", "pumpkin")), holder=judge or B)
    t.say("It was the day of the [great|yearly] contest: {g}.", "Everyone wanted to know {g}.",
          "There was going to be a contest to see {g}.", g=game)  # fmt: skip
    t.go(A, place)
    t.act(
        "meet",
        A,
        B=B,
        C=C,
        say=("{B.i} and {C.i} were there, too.", "{A} met {B.i} and {C.i}.", "{B.i} and {C.i} were waiting."),
    )
    if judge:
        if t.at(judge) != place:
            t.act("go", judge, p=place, say=())
        t.say("{A} was the judge.", "The judge was {A.i}.", A=judge)
    t.say("The prize was {x}.", "The winner would get {x}.", x=prize)
    t.feel(A, t.pick(("excited", "worried")), "the contest")
    t.say('"[Ready, steady, go|One, two, three, go|You may begin]!" [cried|called] {D.n}.', D=judge or B)
    t.paragraph()
    players = [A, B, C] if t.chance(0.5) else [B, C, A]
    scores = _count(t, players, plural, verb, game)
    winner = players[scores.index(max(scores))]
    if judge or winner != B:
        t.act("give", judge or B, prize, winner, why="the prize")
    t.feel(winner, t.pick(("proud", "happy", "surprised")), "won the contest")
    if winner == A:
        loser = B if scores[players.index(B)] < scores[players.index(C)] else C
    else:
        loser = A
    _congratulate(t, A, winner, loser, prize)
    t.finish(
        "winning is nice, but friends are nicer", "it is fun to try your best", "a true friend claps for the winner"
    )


def _count(t: Teller, players: list[str], plural: str, verb: str, game: str) -> list[int]:
    """Each plays in turn; the one with the most wins. Returns the numbers, all different."""
    scores: list[int] = []
    while len(scores) < 3:
        number = 4 + int(t.rand() * 13)
        if number not in scores:
            scores.append(number)
    for index, player in enumerate(players):
        number = words.NUMBERS[scores[index]]
        last = "At last, " if index == 2 else ""
        t.act("score", player, detail=str(scores[index]), why=game, n=number, k=plural, v=verb, last=last, say=(
            "{last}{A.i} {v} {n} {k}.", "{last}{A.i} [worked hard|did not rush|was quick] and {v} "
                                        "{n} {k}."))  # fmt: skip
        if index == 0 and t.chance(0.4):
            t.say('"Can you beat that?" {A} said.', "It was [a good start|not bad at all].", A=player)
    t.say("They counted everything twice.", "Who had the most?", "Everybody [counted|was quiet].")
    best = max(scores)
    winner = players[scores.index(best)]
    t.act("win", winner, why=game, n=words.NUMBERS[best], k=plural, say=(
        "{A.i} had won with {n} {k}!", "With {n} {k}, {A.i} was the winner!", '"{A.n} is the winner!" [they all '
                                                                              'cried|said the others].'))  # fmt: skip
    return scores


def _congratulate(t: Teller, A: str, winner: str, loser: str, prize: str) -> None:
    """The lead comforts or claps, then winner and loser eat or play together."""
    if winner == A:
        t.say("{A} saw that {B.n} was sad.", "{B} looked at the ground.", A=A, B=loser)
    else:
        t.say('{A} [shook {B.s} hand|clapped]. "[Well done|You were better]," {A.he} said.',
            "{A} was a little sad, but {A.he} clapped for {B.o}.",
              A=A, B=winner)  # fmt: skip
    if words.KINDS[t.world.things[prize].noun].group == "food":
        t.act("share", winner, prize, loser)
    else:
        t.act("play", winner, B=loser)


def shared_meal(t: Teller) -> None:
    """Nobody has enough alone; everybody brings something; there is enough for all."""
    A = t.begin()
    meal = t.pick(_MEALS)
    home = t.homes[A]
    first = t.thing(t.fresh(words.SOUP), holder=A)
    t.act("hunger", A)
    t.say("{A} had only {x}.", "In {A.s} bag there was nothing but {x}.", A=A, x=first)
    t.say('"That is not enough for {m}," {A} thought.', "You cannot make {m} out of that.", A=A, m=_with_article(meal))
    friends = []
    foods = [first]
    for index in range(2 if t.chance(0.6) else 3):
        friend = t.adult() if t.chance(0.5) else t.child(t.place())
        food = t.thing(t.fresh(words.SOUP), holder=friend)
        t.go(A, t.at(friend))
        t.act("meet", A, B=friend)
        t.act("ask", A, food, friend, detail="to cook together", y=food, m=meal, say=(
            '"What do you have?" asked {A.n}. "Only {y}," said {B.n}. "[Come to my house|Bring it to my house], and '
            'we will cook," said {A.n}.',
            "{B} had {y}, but nothing else. {A} [told {B.him} to come along|invited {B.him} to supper].",
            '"[Let us cook together|Come and cook with me]," said {A.n}. {B} [laughed|agreed] and '
            'brought {y}.')[index % 3 :])  # fmt: skip
        friends.append(friend)
        foods.append(food)
    t.paragraph()
    t.go(A, home, friends[-1])
    for friend in friends[:-1]:
        t.act("go", friend, p=home, say=("{A} came, too.", "Soon {A} [knocked at the door|arrived]."))
    for food, friend in zip(foods[1:], friends, strict=True):
        t.act("give", friend, food, A, why="for the meal", say=())
    t.say(
        "They [washed|peeled|cut up] everything and put it in [a big pot|a kettle|a bowl]. {A} stirred.",
        "One [chopped|washed], one stirred, and one [sang|set the table].",
        "Into the pot it went, and soon it [smelled wonderful|bubbled].",
        A=A,
    )
    for food in foods[:-1]:
        t.act("eat", A, food, say=())
    t.act("share", A, foods[-1], friends[-1], m=meal, say=(
        "What a fine {m} it was! There was enough for all, and [some was left over|nobody stayed hungry].",
        "They ate the {m} until every plate was [clean|empty].", '"[This is the best {m} in the world|More, '
                                                                 'please]!" said {B.n}.'))  # fmt: skip
    t.feel(A, "happy", "the shared meal")
    t.finish("many little things make a feast", "food tastes best with friends", "together there is always enough")


def _with_article(meal: str) -> str:
    return f"a {meal}" if meal in ("soup", "stew") else meal


def making(t: Teller) -> None:
    """A gets a material, makes something for B, and B uses it."""
    material, results, verb = t.pick(_CRAFTS)
    A = t.begin()
    B = t.child() if t.chance(0.5) else t.adult()
    noun = t.fresh(results)
    t.say("{A} saw that {B} [had no|needed a new] {n}.",
    '"{B} needs a {n}," {A} thought.', "{A} wanted to make a {n} for {B.o}.",
          A=A, B=B, n=noun)  # fmt: skip
    stuff = t.thing(material)
    if t.chance(0.5):
        t.lay(stuff, t.place())
        t.say("For that {A.he} needed {x}.", '"First I need {x}," {A.he} said.', A=A, x=stuff)
    else:
        t.keep(t.adult(), stuff)
        t.say("For that {A.he} needed {x}, and {B.n} had [plenty|some].", A=A, x=stuff, B=t.world.holder[stuff])
    t.fetch(A, stuff)
    if t.world.owner.get(stuff, A) != A:
        owner = t.world.owner[stuff]
        t.act("return", A, stuff, owner, say=())
        t.act(
            "give",
            owner,
            stuff,
            A,
            why="no need of it",
            say=('"No, keep it," said {A.n}. "[I have more than enough|I do not need it]."',),
        )
    t.go(A, t.homes[A])
    t.paragraph()
    color = t.pick(words.COLORS) if words.KINDS[noun].color else ""
    result = f"{color} {noun}" if color else noun
    t.voice.nouns[noun] = t.voice.nouns.get(noun, 0) + 1
    t.act("make", A, result, stuff, detail=color, y=stuff, v=verb, say=(
        "{A} {v} {y.the} with [great care|nimble fingers|patience], and in the end {A.he} had {x}.",
        "{A} {v} all day. [The first try was crooked|It was not easy]. But at last there was {x}!",
        "Out of {y.the}, {A} {v} {x}."))  # fmt: skip
    t.feel(A, t.pick(("proud", "tired")), f"made the {result}")
    if t.chance(0.4):
        t.next_day(A)
    t.reach(A, t.at(B))
    t.act("give", A, result, B, why=f"{B} needed it")
    t.feel(B, t.pick(("happy", "surprised", "grateful")), f"the {result}")
    use(t, B, result)
    t.thank(B, A)
    t.finish("a gift made by hand is the best gift", "busy hands make happy hearts", "care can be seen")
