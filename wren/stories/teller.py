"""Acts in the world and tells it in the same breath: every told event has passed the world's rules.

A Teller also knows how to reach a goal: to be at a place, or to have a thing, it plans backwards through what stands
in the way (a lock, a key, an owner who wants something first) and tells each step. The file is long because acting,
planning and telling share one state: what the reader has been told.
"""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

from wren.stories import phrases, words
from wren.stories.language import Voice, article, the_place
from wren.stories.world import Event, Impossible, World

T = TypeVar("T")
_AGES = {
    "girl": ("she", words.GIRLS),
    "boy": ("he", words.BOYS),
    "woman": ("she", words.WOMEN),
    "man": ("he", words.MEN),
}


class Teller:
    """One story in the making."""

    def __init__(self, random: Random) -> None:
        self.rand = random.random  # random() alone is promised to be the same in every Python version
        self.world = World()
        self.voice = Voice(self.world, self.rand)
        self.homes: dict[str, str] = {}
        self.used: dict[str, bool] = {}  # nouns and places a plot has taken
        self.lead = ""
        self.sky = ""  # the adjective of the first day's weather
        self.told: dict[str, bool] = {}  # templates used
        self.depth = 0  # of plans inside plans

    # --- chance

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.rand() * len(options))]

    def chance(self, probability: float) -> bool:
        return self.rand() < probability

    def fresh(self, options: Sequence[str]) -> str:
        """One that this story has not used yet."""
        for _ in range(40):
            option = self.pick(options)
            if option not in self.used:
                self.used[option] = True
                return option
        for option in options:  # chance failed; there may still be one
            if option not in self.used:
                self.used[option] = True
                return option
        raise Impossible(f"none left of {options}")

    # --- telling

    def act(self, kind: str, A: str = "", x: str = "", B: str = "", p: str = "", *, detail: str = "", why: str = "",
            say: Sequence[str] | None = None, **slots: str) -> None:  # fmt: skip
        """Does the event, at A's place if `p` is not given, and says it with one of `say`, or the usual phrases."""
        world = self.world
        place = p or world.where.get(A, "")
        world.do(Event(kind, A, x, B, place, detail, why))
        templates = phrases.PHRASES[kind] if say is None else say
        if templates:
            slots.update(A=A, x=x, B=B if B in world.people else "", p=place, s=detail)
            self.voice.say(self.unsaid(templates), slots)

    def unsaid(self, templates: Sequence[str]) -> str:
        """One of the templates, if possible one that this story has not used."""
        template = self.pick(templates)
        for _ in range(3):
            if template not in self.told:
                break
            template = self.pick(templates)
        self.told[template] = True
        return template

    def say(self, *templates: str, **slots: str) -> None:
        """Says one of the templates: what is true already, or what somebody thinks."""
        self.voice.say(self.unsaid(templates), slots)

    def paragraph(self) -> None:
        self.voice.paragraph()

    def feel(self, A: str, feeling: str, why: str = "") -> None:
        self.act("feel", A, detail=feeling, why=why, say=phrases.FEEL[feeling])

    def thank(self, A: str, B: str) -> None:
        self.act("thank", A, B=B)
        if self.chance(0.4):
            self.say(*phrases.WELCOME, B=B)

    # --- casting

    def person(self, kind: str, place: str, intro: str = "", role: str = "") -> str:
        """A new person at `place`, or at home; `intro` is how the first mention goes, with "@" for the name."""
        she, names = _AGES[kind]
        name = self.fresh(names)
        home = self.homes[name] = f"{name}'s house"
        self.world.do(Event("person", name, role, "", place or home, kind, she))
        if intro:
            self.voice.intros[name] = intro.replace("@", name)
        return name

    def child(self, place: str = "", intro: str = "") -> str:
        """A child who is at home if no place is given, a friend of the lead if no intro is given."""
        kind = "girl" if self.chance(0.5) else "boy"
        return self.person(kind, place, intro or f"{self.his(self.lead)} friend @")

    def adult(self, role: str = "") -> str:
        """A grown-up at work; not yet met in this story."""
        role = role or self.fresh(tuple(words.ROLES))
        self.used[role] = True
        trade = words.ROLES[role]
        self.used[trade.place] = True
        return self.person(self.pick(trade.kinds), trade.place, f"@ the {role}", role)

    def pet(self, owner: str) -> str:
        species = self.pick(tuple(words.PETS))
        name = self.pick(words.PETS[species])
        she = self.pick(("she", "he")) if species not in ("hen", "dog") else "she" if species == "hen" else "he"
        self.world.do(Event("person", name, "", owner, self.world.where[owner], species, she))
        return name

    def thing(self, noun: str, *, holder: str = "", place: str = "", spot: str = "", inside: str = "", owner: str = "",
              color: str = "") -> str:  # fmt: skip
        """A new thing, held, lying or in a container; what is held belongs to the holder if no owner is named."""
        if words.KINDS[noun].color and not color:
            color = self.pick(words.COLORS)
        name = f"{color} {noun}" if color else noun
        self.used[noun] = True
        self.voice.nouns[noun] = self.voice.nouns.get(noun, 0) + 1
        world = self.world
        world.do(Event("thing", "", name, owner or holder, "", color))
        if holder:
            world.do(Event("hold", holder, name, "", world.where[holder]))
        elif inside:
            world.do(Event("inside", "", name, inside))
        elif place:
            world.do(Event("lie", "", name, "", place, spot or self.spot(place)))
        return name

    def lay(self, x: str, place: str) -> None:
        """Setup: x lies at place."""
        self.world.do(Event("lie", "", x, "", place, self.spot(place)))

    def keep(self, person: str, x: str) -> None:
        """Setup: person holds and owns x."""
        self.world.do(Event("hold", person, x, "", self.world.where[person], why="owner"))

    def lock(self, box: str, key: str, place: str = "") -> None:
        """Setup: box (or, if it is "", the place) is locked, and key opens it."""
        self.world.do(Event("lock", "", box, key, place))

    def an(self, noun: str) -> str:
        return article(noun)

    def spot(self, place: str) -> str:
        return self.pick(words.PLACES[place].spots if place in words.PLACES else words.HOME.spots)

    def place(self, outdoors: bool = False) -> str:
        return self.fresh(words.OUTDOORS if outdoors else tuple(words.PLACES))

    def his(self, name: str) -> str:
        return "her" if self.world.people[name].she == "she" else "his"

    def begin(self, weathers: Sequence[str] = (), place: str = "", time: str = "") -> str:
        """Sets the scene and returns the lead."""
        weather = self.pick(weathers or tuple(words.WEATHERS))
        self.world.do(Event("weather", detail=weather))
        time = time or self.pick(("morning", "afternoon"))
        if time != "morning":
            self.world.do(Event("time", detail=time))
        kind = "girl" if self.chance(0.5) else "boy"
        place = place or self.place()
        self.used[place] = True
        lead = self.lead = self.person(kind, place)
        trait, trait2 = self.pick(words.TRAITS), self.pick(words.TRAITS)
        while trait2 == trait:
            trait2 = self.pick(words.TRAITS)
        sky = self.sky = self.pick(words.WEATHERS[weather])
        self.voice.say(self.pick(phrases.OPENINGS), {"A": lead, "setting": self.pick(words.SETTINGS), "time": time,
                       "trait": trait, "trait2": trait2, "sky": sky, "p": place})  # fmt: skip
        if self.chance(0.4):
            self.say(self.fresh(phrases.SKY[weather] if self.outdoors(place) else words.PLACES[place].sights), A=lead)
        return lead

    def outdoors(self, place: str) -> bool:
        return place in words.PLACES and words.PLACES[place].outdoors

    # --- small steps

    def at(self, name: str) -> str:
        return self.world.where[name]

    def go(self, A: str, place: str, B: str = "", why: str = "") -> None:
        """Walks there, with B if named, and looks around a little."""
        if self.at(A) == place:
            return
        home = place == self.homes.get(A)
        say = phrases.GO_WITH if B else phrases.GO_HOME if home else phrases.GO
        self.act("go", A, B=B, p=place, why=why, say=say)
        if place in words.PLACES and self.chance(0.35):
            self.flavor(A, place)

    def flavor(self, A: str, place: str) -> None:
        """A glance around: a sight, an animal, the weather. Never after dark."""
        if self.world.time == "evening":
            return
        known = words.PLACES[place]
        turn = self.rand()
        sights = [sight for sight in known.sights if sight not in self.used]
        animals = [animal for animal in known.animals if animal not in self.used]
        wet = self.world.weather in ("snowy", "rainy")
        if animals and turn < 0.4 and not wet:
            animal, doing = self.fresh(animals).split("|")
            self.act("see", A, detail=animal, w=animal, d=doing)
        elif known.outdoors and (turn < 0.6 or wet):
            self.say(*phrases.SKY[self.world.weather], A=A)
        elif turn < 0.85 and sights:
            self.say(self.fresh(sights), A=A)
        elif self.lead == A:
            self.say(*phrases.IDLE, A=A)

    def next_day(self, A: str, weathers: Sequence[str] = ("sunny", "windy", "cloudy")) -> None:
        if self.world.time != "evening":
            self.world.do(Event("time", detail="evening"))
        self.act("time", detail="morning", why="next day", say=())
        self.act("weather", detail=self.pick(weathers), say=())
        self.paragraph()
        self.say(*phrases.NEXT_DAY, A=A)

    def evening(self) -> None:
        if self.world.time != "evening":
            self.act("time", detail="evening", say=phrases.TIME["evening"])

    def snack(self, A: str) -> None:
        """A gets hungry and eats."""
        food = self.thing(self.fresh(words.SNACKS), holder=A)
        self.act("hunger", A)
        self.say("{A} had {x} in {A.his} bag.", "Luckily, {A} had brought {x}.", A=A, x=food)
        self.act("eat", A, food)

    # --- plans

    def reach(self, A: str, place: str, B: str = "") -> None:
        """A comes to be at `place`: if it is locked, with the key, wherever that is."""
        if self.at(A) == place:
            return
        key = self.world.locks.get(place)
        if key and self.world.holder.get(key) != A:
            self.act("blocked", A, detail=place, say=phrases.BLOCKED_DOOR, t=the_place(place))
            keeper = self.world.holder.get(key)
            if keeper:
                self.say("A [note|sign] on it said that {C.i} had the key.", C=keeper)
            self.fetch(A, key)
        if not key:
            self.go(A, place, B)
            return
        self.act("unlock", A, B=key, detail=place, say=phrases.UNLOCK_DOOR, y=key, t=the_place(place))
        self.act("go", A, B=B, p=place, say=("{A} [went in|stepped inside|opened the door and looked in].",))

    def fetch(self, A: str, x: str) -> None:
        """A comes to hold x: from the one who has it, from a container, or from where it lies."""
        world = self.world
        holder = world.holder.get(x, "")
        if holder == A:
            return
        self.depth += 1
        if holder:
            self.reach(A, self.at(holder))
            self.ask_for(A, x, holder)
        elif x in world.inside:
            box = world.inside[x]
            self.reach(A, world.place_of(x))
            self.open(A, box)
            self.act("take", A, x)
        else:
            place, spot = world.lies[x]
            self.reach(A, place)
            self.act("find", A, x, detail=spot)
            self.act("take", A, x, say=phrases.TAKE if self.chance(0.5) else ())
        self.depth -= 1

    def open(self, A: str, box: str) -> None:
        """Unlocks a container, once A has its key."""
        key = self.world.locks.get(box)
        if not key:
            return
        place = self.at(A)
        self.act("blocked", A, box, t=f"the {box.split()[-1]}")
        self.fetch(A, key)
        self.reach(A, place)
        self.act("unlock", A, box, key, y=key, t=f"the {box.split()[-1]}")

    def ask_for(self, A: str, x: str, B: str) -> None:
        """A asks B, who lends it at once, or is hungry, or first wants to have something that lies about."""
        self.act("meet", A, B=B, say=phrases.MEET_WORK if self.world.people[B].role else phrases.MEET)
        self.act("ask", A, x, B, detail="to borrow it", say=(
            '"[Please|Excuse me], may I [borrow|use] your {x.n}?" {A} asked.',
            '"I need {x.a}," said {A.n}. "[May I borrow yours|Could you lend me yours]?"',
            "{A} asked {B.o} for {x.a}."))  # fmt: skip
        turn = self.rand()
        if self.depth <= 1 and turn < 0.3:
            self.favor_food(A, B)
        elif self.depth <= 1 and turn < 0.6:
            self.favor_lost(A, B)
        elif turn < 0.8:
            self.say('"[Of course|Gladly|With pleasure|Yes, you may]," said {B.n}.', "{B.n} nodded.", B=B)
        self.act("lend", B, x, A)

    def favor_food(self, A: str, B: str) -> None:
        self.act("hunger", B, say=(
            '"[Yes|All right], but I have not eaten all day," said {B.n}. "[Bring me|Please bring me] something '
            'to eat first."',
            '"I am too hungry to think," said {B.n}. "[Find|Get] me a bite to eat, then you may '
            'have it."'), B=B)  # fmt: skip
        back = self.at(A)
        place = self.place(outdoors=True)
        food = self.thing(self.fresh(("apple", "pear", "plum", "peach", "carrot")), place="")
        helper = self.child(place)
        self.voice.intros[helper] = f"a {self.world.people[helper].kind} named {helper}"
        self.keep(helper, food)
        self.go(A, place)
        self.act("meet", A, B=helper, y=food, say=("There {A} met {B.i}, who had {y}.", "{B.i} was there and had {y}."))
        self.act("give", helper, food, A, why="for a hungry friend", say=(
            '"Take {x.the}," said {A.n}, who was [kind|generous].', "{A.n} gladly gave {x} away."))  # fmt: skip
        self.go(A, back)
        self.act(
            "feed", A, food, B, say=("{A} gave {x} to {B.i}, who ate it at once.", "{B.n} ate {x.the} and smiled.")
        )

    def favor_lost(self, A: str, B: str) -> None:
        lost = self.thing(self.fresh(words.PRECIOUS), owner=B,
                          place=self.place(outdoors=True))  # fmt: skip
        where, spot = self.world.lies[lost]
        self.act("tell", B, lost, A, detail="lost", where=where, p=self.at(B), q=where, say=(
            '"[Yes|Gladly], but I lost my {x.c}," said {A.n}. "[Please look for it|I think I left it] {q.in}."',
            '"[Help me first|First help me]," said {A.n}. "I lost my {x.c} {q.in}."'))  # fmt: skip
        back = self.at(A)
        self.go(A, where)
        self.act("find", A, lost, detail=spot)
        self.act("take", A, lost, say=())
        self.go(A, back)
        self.act("return", A, lost, B)

    def finish(self, *morals: str) -> None:
        """The last sentence, with one of the morals or without."""
        moral = self.pick(morals)
        if self.chance(0.25) and self.world.time == "evening":
            self.act("sleep", self.lead)
        else:
            said = moral[0].upper() + moral[1:]
            self.say(*phrases.ENDINGS, A=self.lead, moral=moral, moral2=said, p=self.at(self.lead), sky=self.sky)
        self.world.check_end()
