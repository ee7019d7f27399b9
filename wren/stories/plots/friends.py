"""Stories about people: birthdays, quarrels, newcomers, truths, surprises, things lent."""

from wren.stories import phrases, words
from wren.stories.plots.things import mend_with, treasured, use
from wren.stories.teller import Teller

_PANTRY = ("baker", "cook", "farmer", "miller")  # trades that have food to give


def birthday(t: Teller) -> None:
    """A gets a gift for B's birthday: buys it, swaps for it or finds it; and gives it."""
    A = t.begin(time="morning")
    B = t.child()
    t.say("It was {B.s} birthday. {A} wanted to give {B.him} [something special|a present|a fine gift].",
          "{B.s} birthday was that day, and {A} had no [present|gift] yet.",
          '"Today is {B.s} birthday," {A} thought, "and I have nothing to give."', A=A, B=B)  # fmt: skip
    if t.chance(0.4):
        t.feel(A, t.pick(("excited", "worried")), f"the birthday of {B}")
    seller = t.adult()
    turn = t.rand()
    wares = [noun for noun in words.ROLES[t.world.people[seller].role].wares if noun in words.PLAIN_GIFTS]
    gift = t.thing(t.pick(wares or words.nouns("toy")), holder=seller)
    t.say("{A} remembered that {B.n} [had always wanted|had often talked about|wished for] {x}.", A=A, B=B, x=gift)
    t.go(A, t.at(seller))
    t.act("meet", A, B=seller)
    if turn < 0.4:
        coin = t.thing("coin", holder=A)
        t.say("{A} had saved {x} for months.", "In {A.s} pocket was {x}.", A=A, x=coin)
        t.act("buy", A, gift, seller, detail=coin, y=coin)
    else:
        t.act("ask", A, gift, seller, detail="to have it", say=(
            '"I have no money," said {A.n}, "but may I work for {x.the}?"',
            "{A} had no coins, so {A.he} asked {B.o} if {A.he} could work for {x.the}."))  # fmt: skip
        t.say("{A} [swept the floor|carried sacks|washed the windows|stacked crates|fed the chickens] [until "
              "noon|for two hours] and did it well.",
              "All morning {A} [scrubbed pots|cleaned shelves|swept the yard|chopped wood], and {A.he} did not "
              "complain.", A=A)  # fmt: skip
        t.act("give", seller, gift, A, why="work")
    t.say("{A} wrapped {x.the} in [paper|a cloth] and tied a [bow|string] around it.",
          "{A} hid {x.the} behind {A.his} back.", "{A} carried {x.the} very carefully.", A=A, x=gift)  # fmt: skip
    t.paragraph()
    t.reach(A, t.at(B))
    t.say('"Happy birthday, {B.n}!" {A} [said|cried|sang].', A=A, B=B)
    t.act("give", A, gift, B, why="birthday")
    t.feel(B, t.pick(("happy", "surprised", "happy")), f"the {gift}")
    use(t, B, gift)
    t.thank(B, A)
    cake = t.thing(t.pick(("cake", "pie", "muffin")), holder=B)
    t.act("share", B, cake, A)
    t.finish("giving is as good as getting", "a good gift needs a little work", "friends know what makes us glad")


def quarrel(t: Teller) -> None:
    """Two want the same thing, fall out, miss each other and make up."""
    place = t.place()
    A = t.begin(place=place)
    B = t.child(place)
    x = t.thing(t.fresh(words.nouns("toy", "music", "treasure")), place=place)
    t.voice.intros.pop(B)
    t.say("{A} had a best friend named {B.n}, who was there, too.", "{B.n}, the best friend of {A.n}, was there, too.",
          "{A} was with {A.his} best friend, {B.n}.", A=A, B=B)  # fmt: skip
    t.act("find", A, x, detail=t.world.lies[x][1])
    t.act("take", A, x, say=())
    t.act("quarrel", A, x, B, why=f"both wanted the {x}", say=(
        '"[I saw it first|It is mine]!" said {A.n}. "No, [I saw it first|give it to me]!" shouted {B.n}.',
        "{B} wanted it, too. Both of them pulled, and both of them [shouted|grew angry].",
        '"[Let me have it|Give it to me]!" said {B.n}. "Never!" said {A.n}.'))  # fmt: skip
    t.feel(B, "angry", f"the quarrel over the {x}")
    t.go(B, t.homes[B])
    t.paragraph()
    t.say(
        "Now {A} had {x.the} all to {A.self}, but it was no fun.",
        "{A} looked at {x.the}. It did not seem so [fine|nice|grand] anymore.",
        A=A,
        x=x,
    )
    t.feel(A, t.pick(("lonely", "sad", "ashamed")), "the quarrel")
    if t.chance(0.5):
        C = t.adult()
        t.reach(A, t.at(C))
        t.act(
            "tell",
            A,
            x,
            C,
            detail="the quarrel",
            say=('{B} asked, "Why such a long face?" {A} told the whole story.', "{A} told {B.o} about the quarrel."),
        )
        t.say('"[A thing is only a thing|Things come and go]," said {C.n}, "but a friend is [a friend|worth more '
              'than gold|hard to find]."',
              '"{x.a} cannot laugh with you," said {C.n}. "[Go and say sorry|A friend can]."', C=C, x=x)  # fmt: skip
    t.reach(A, t.at(B))
    turn = t.rand()
    t.act("peace", A, x, B, say=(
        '"I am sorry," said {A.n}. "I am sorry, too," said {B.n}.',
        '"[Please forgive me|I was wrong|Let us not fight]," said {A.n}. {B.n} [took {A.his} hand|nodded and smiled].',
        "{A} said that {A.he} was sorry, and {B.n} said so, too."))  # fmt: skip
    if turn < 0.4:
        t.act("give", A, x, B, why="to make up")
        t.act("play", A, B=B, say=('"[No, it is ours|We can share it]," said {B.n}, and they took turns.',
                                   "But {B.n} let {A.o} use it, too. They took turns."))  # fmt: skip
    elif turn < 0.7:
        t.say("They [agreed|decided] to take turns: {A.n} in the morning, {B.n} in the afternoon.",
              '"You can have it on Mondays, and I on Tuesdays," said {B.n}.', A=A, B=B)  # fmt: skip
        t.act("play", A, B=B)
    else:
        food = t.thing(t.fresh(words.SNACKS), holder=B)
        t.act("share", B, food, A)
    t.feel(A, "happy", "they are friends again")
    t.finish("a friend is worth more than a thing", "saying sorry is brave", "sharing is twice the fun")


def newcomer(t: Teller) -> None:
    """Somebody new and shy; a kindness; a friendship."""
    place = t.place(outdoors=True)
    A = t.begin(place=place if t.chance(0.5) else "")
    B = t.child(place)
    t.voice.intros[B] = f"a {t.world.people[B].kind} named {B}"
    x = t.thing(t.pick(words.nouns("toy", "music")), holder=A)
    t.say("{A} had {x} with {A.him}.", "{A} was carrying {x}.", A=A, x=x)
    t.go(A, place)
    t.act("meet", A, B=B, say=("There {A} saw {B.i}, who [sat|stood] all alone.",
                               "{B} was [standing|sitting] there, and nobody talked to {B.him}."))  # fmt: skip
    t.feel(B, t.pick(("lonely", "sad", "afraid")), "new in the village")
    t.say('"[Where are you from|Are you new here]?" asked {A.n}. There was no answer.',
          '"Hello, I am {A.n}," {A.n} said. "[Who are you|What is your name]?" "{B.n}," said {B.he} in a '
          '[small|tiny] voice.',
          "At first {B.n} was too shy to speak.", A=A, B=B)  # fmt: skip
    t.paragraph()
    turn = t.rand()
    if turn < 0.35:
        t.act("lend", A, x, B)
        use(t, B, x)
        t.act("return", B, x, A)
    elif turn < 0.7:
        food = t.thing(t.fresh(words.SNACKS), holder=A)
        t.act("share", A, food, B)
    else:
        spot = t.place(outdoors=True)
        t.say('"[Come|Come on], I will show you [my favorite place|a secret place]," said {A.n}.', A=A)
        t.go(A, spot, B)
        t.flavor(A, spot)
    t.act("play", A, B=B)
    t.say("{B} [began to smile|laughed for the first time that day|was not shy anymore].", B=B)
    t.act("befriend", A, B=B, say=('"[Will you come back tomorrow|Shall we be friends]?" asked {B.n}. "[Yes|Of '
                                   'course|Every day]!" said {A.n}.',
                                   "That is how {A.i} and {B.i} became friends.", '"Now you have a friend here," '
                                                                                  'said {A.n}.'))  # fmt: skip
    t.feel(t.pick((A, B)), "happy", "a new friend")
    t.finish("a stranger may be a friend", "one kind word can open a door", "it is good to speak first")


def truth(t: Teller) -> None:
    """A breaks what B lent, hides it, feels bad, tells the truth, and it is mended."""
    noun = t.pick(words.BREAKABLE)
    A = t.begin()
    B = t.child(t.at(A)) if t.chance(0.5) else t.child()
    x = t.thing(noun, holder=B)
    kind = words.KINDS[noun]
    t.go(A, t.at(B))
    t.act("meet", A, B=B)
    t.say("{B} had {x}.", "{B} showed {A.o} {x}.", A=A, B=B, x=x)
    t.act("lend", B, x, A)
    place = t.place()
    t.go(A, place)
    use(t, A, x)
    t.act("break", A, x, damage=kind.damage, say=phrases.BREAK)
    t.feel(A, t.pick(("worried", "afraid")), f"the {x} of {B} broke")
    hidden = t.chance(0.6)
    if hidden:
        t.act(
            "put",
            A,
            x,
            detail=t.spot(place),
            say=("{A} hid {x.the} {s}.", "Quickly, {A} pushed {x.the} out of sight, {s}."),
        )
        t.go(A, t.homes[A])
    t.paragraph()
    t.feel(A, "ashamed", f"{A} had not told {B} about the {x}")
    t.say('"I must tell {B.n}," {A} thought.', "{A} could not [eat|play|think of anything else]. {A.he} had to tell "
                                               "the truth.",
          "At last {A} [made up {A.his} mind|took a deep breath].", A=A, B=B)  # fmt: skip
    if hidden:
        t.go(A, place)
        t.act(
            "take",
            A,
            x,
            y=x,
            say=("{A} got {x.the} from where {A.he} had hidden it.", "{A} took {x.the} out of its hiding place."),
        )
    t.reach(A, t.at(B))
    t.act("tell", A, x, B, detail="the truth", say=(
        '"I broke your {x.n}," {A} said. "[I am so sorry|It was my fault|Please do not be angry]."',
        "{A} told {B.o} [everything|the truth] and said that {A.he} was sorry."))  # fmt: skip
    t.say('"[Thank you for telling me|I am glad that you told me]," said {B.n}.',
          '"It was brave to tell me," said {B.n}.',
          "{B} was sad for a moment, but not angry.", B=B)  # fmt: skip
    tool = t.thing(kind.tool, holder=t.adult() if t.chance(0.5) else A)
    if t.world.holder[tool] != A:
        t.say('"We can mend it," said {B.n}. "[All we need is|We only need] {y.a}."', B=B, y=tool)
        back = t.at(A)
        t.fetch(A, tool)
        t.go(A, back)
    mend_with(t, A, x, tool)
    t.act("return", A, x, B)
    t.finish("the truth makes the heart light", "it is brave to tell the truth", "hiding a mistake makes it bigger")


def surprise(t: Teller) -> None:
    """A and B plan a secret party for C; one gathers, the other keeps C away."""
    A = t.begin(time="morning")
    B = t.child(t.at(A))
    C = t.adult()
    den = t.place()
    t.act(
        "meet",
        A,
        B=B,
        say=("{A} was with {B.i}. They [had a secret|were making a plan].", "{B.i} was there, and they whispered."),
    )
    t.act("tell", A, "", B, detail=f"a surprise for {C}", C=C, q=den, say=(
        '"Let us surprise {C.n}," {A} said. "We will have a party {q.in}."',
        '"{C.n} [does so much for us|always helps us|never gets a present]," said {A.n}. "Let us make a party '
        '{q.in}!"'))  # fmt: skip
    t.say(
        '"[But it must be a secret|Not a word to anyone]," said {B.n}.',
        '"[What a good idea|Yes, yes, yes]!" said {B.n}.',
        B=B,
    )
    food = t.thing(t.pick(("cake", "pie", "bread", "soup", "cheese")), holder=t.adult(t.fresh(_PANTRY)))
    deco = t.thing(t.pick(("ribbon", "lantern", "bell", "drum", "picture", "flute")), place=t.place())
    t.paragraph()
    t.go(B, t.at(C))
    t.act("ask", B, "", C, detail="for a story", say=(
        "{A} asked {B.o} for [a long story|help with a riddle|a lesson in counting], to win time.",
        "{A} kept {B.o} busy with [one hundred questions|a game of chess|a very long song]."))  # fmt: skip
    t.say("[Meanwhile|At the same time], {A} needed {x.a} and {y.a}.", A=A, x=food, y=deco)
    t.reach(A, t.at(t.world.holder[food]))
    t.act("ask", A, food, t.world.holder[food], detail="for the party", say=(
        '"May I have {x} for a party?" {A} asked {B.o}.', "{A} told {B.o} about the secret party for "
                                                          "{C.n}."), C=C)  # fmt: skip
    t.act("give", t.world.holder[food], food, A, why="the party")
    t.fetch(A, deco)
    t.go(A, den)
    t.say(
        "{A} made everything [ready|pretty|neat].",
        "{A} [swept the floor|put up paper stars|hung up chains of flowers].",
        A=A,
    )
    t.paragraph()
    t.act(
        "go",
        B,
        B=C,
        p=den,
        say=('"Come with me," {A} said to {B.o}, and they went to {p}.', "At last {A} brought {B.o} to {p}."),
    )
    t.say('"Surprise!" cried {A.n} and {B.n}.', A=A, B=B)
    t.feel(C, t.pick(("surprised", "happy", "grateful")), "the party")
    t.act("give", A, deco, C, why="the party")
    t.act("share", A, food, C, say=("All three of them ate {x.the} [together|and sang|and told jokes].",
                                           "They shared {x.the}, and each got [a big piece|a fair part]."))  # fmt: skip
    t.finish("a secret can be a kind thing", "it is fun to make others glad", "the best parties are small")


def lending(t: Teller) -> None:
    """B needs what A has; A lends it; later it comes back with a kindness."""
    A = t.begin()
    B = t.child(t.place()) if t.chance(0.6) else t.adult()
    x = t.thing(t.pick((*words.nouns("tool", "music", "toy"), "book", "map", "pencil")), holder=A)
    treasured(t, A, x)
    t.go(A, t.at(B))
    t.act("meet", A, B=B)
    t.act("ask", B, x, A, detail="to borrow it", noun=t.an(t.world.things[x].noun), say=(
        '"What a [fine|handy|good] {x.n}," said {A.n}. "[May I borrow it until evening|Could you lend it to me]?"',
        '"I need {noun} today," said {A.n}. "May I use yours?"'))  # fmt: skip
    t.say(
        "{A} [was not sure|waited a moment|thought about it]. Then {A.he} nodded.",
        '"[Yes|Sure|All right]," said {A.n}.',
        A=A,
    )
    t.act("lend", A, x, B)
    t.paragraph()
    t.go(A, t.place())
    t.say(
        "All day {A} [wondered|asked {A.self}] if {x.the} would come back.",
        "{A} [missed|thought about] {x.the} a little.",
        A=A,
        x=x,
    )
    if t.chance(0.4):
        t.snack(A)
    t.go(A, t.homes[A])
    t.evening()
    t.act(
        "go",
        B,
        p=t.homes[A],
        say=("Then there was a knock at the door. It was {A.i}.", "Somebody knocked. {A} was at the door."),
    )
    t.act("return", B, x, A)
    if t.chance(0.5):
        food = t.thing(t.fresh(words.SNACKS), holder=B)
        t.act(
            "give",
            B,
            food,
            A,
            why="thanks",
            say=('"And this is for you," {A} said, and gave {B.o} {x}.', "{A} had brought {x} for {B.o}, too."),
        )
        t.act("share", A, food, B)
    else:
        t.thank(B, A)
    t.feel(A, "happy", f"the {x} came back")
    t.finish("trust makes friends", "what you lend can come back with a smile", "good friends keep their word")
