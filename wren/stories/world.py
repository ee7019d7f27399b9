"""The little world: who is where, who holds what, and the rules that refuse what cannot happen.

The file is long so that the table of event kinds and the rule of each kind stand together.

A world is nothing but the replay of its events: it starts empty, and `World.do` checks an event against the state,
raises `Impossible` if the rule of its kind forbids it, else applies it and appends it to `World.events`.

    kind       what the fields mean (`place` is where it happens, `why` may always hold a reason)
    person     actor enters: detail = girl, boy, man, woman or a pet's species; thing = trade; other = the pet's owner;
               why = she or he
    thing      thing comes to be: detail = colour or ""; other = owner or ""
    hold, lie  setup: actor holds thing (why = owner: and owns it); thing lies at place, detail = spot;
               only for a thing that is nowhere yet
    inside     setup: thing is in the container `other`, which lies or is held somewhere
    lock       setup: thing (a container) or place is locked, and the key `other` opens it
    know       setup: actor has the skill `detail`
    weather    detail = the weather now.    time: detail = the time now
    go         actor goes to place, with `other` if named (a companion, or a pet)
    blocked    actor finds place locked.    unlock: actor opens thing or place with the key `other`
    take       actor picks up thing.        find: actor sees thing where it lies (detail = the spot)
    look       actor looks for thing (or for the being `other`) at place, and it is not there
    put, lose  actor lays thing down, or leaves it behind without noticing, at the spot `detail`
    stow       actor puts thing into the container `other`
    give       actor gives thing to other for good; lend: for a while; return: back to its owner `other`
    buy        actor pays with the coin `detail` and gets thing from other
    eat        actor eats thing.            share: actor and other eat thing together.   feed: other eats actor's thing
    hunger     actor gets hungry: must have eaten before the story ends
    make       actor makes thing (detail = colour) out of the thing `other`, which is used up
    break      thing, held by actor, breaks. mend: actor mends it with the tool `other`
    wear, doff actor puts on, or takes off, what he or she holds
    feel       actor feels `detail`
    try        actor tries the skill `detail` in vain.  learn: actor learns it from other, after a try
    quarrel    actor and other fall out.    peace: they make up
    befriend   actor and other, who were not friends, become friends
    stray      the pet `actor` runs off to place
    meet, tell, ask, thank, play   actor and other are at the same place (detail = what about)
    see        actor sees an animal or a sight, detail
    score      actor reaches the number `detail` in the contest `why`.  win: actor has more than all others
    plant      actor plants the seed `thing` at place.  water; grow: it becomes the thing `other` and lies there
    sleep      actor sleeps: only in the evening
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple


class Impossible(AssertionError):
    """An event that the state of the world does not allow: a mistake of a plot, never of a user."""


class Event(NamedTuple):
    kind: str
    actor: str = ""
    thing: str = ""
    other: str = ""
    place: str = ""
    detail: str = ""
    why: str = ""


class Person(NamedTuple):
    """A person or a pet."""

    name: str
    kind: str  # girl, boy, man, woman, or a species
    she: str  # "she" or "he"
    role: str  # a grown-up's trade, or ""
    owner: str  # of a pet, or ""


class Thing(NamedTuple):
    name: str  # unique in its world: "red kite", or the noun alone
    noun: str
    color: str


TIMES = ("morning", "noon", "afternoon", "evening")


class World:
    """The state after `events`. Dictionaries keep the order of the story, so nothing depends on hashes."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.people: dict[str, Person] = {}
        self.things: dict[str, Thing] = {}
        self.where: dict[str, str] = {}  # being -> place
        self.holder: dict[str, str] = {}  # thing -> being
        self.lies: dict[str, tuple[str, str]] = {}  # thing -> (place, spot)
        self.inside: dict[str, str] = {}  # thing -> container
        self.owner: dict[str, str] = {}
        self.locks: dict[str, str] = {}  # container or place -> key, while locked
        self.skills: dict[str, list[str]] = {}
        self.tries: dict[str, list[str]] = {}
        self.feeling: dict[str, str] = {}
        self.hungry: dict[str, bool] = {}
        self.broken: dict[str, bool] = {}
        self.worn: dict[str, str] = {}  # thing -> person
        self.quarrels: list[tuple[str, str]] = []
        self.friends: list[tuple[str, str]] = []
        self.scores: dict[str, int] = {}
        self.planted: dict[str, str] = {}  # seed -> place
        self.weather = "sunny"
        self.day = 1
        self.time = "morning"

    def do(self, event: Event) -> None:
        """Raises Impossible."""
        rule = RULES.get(event.kind)
        if rule is None:
            raise Impossible(f"no such kind of event: {event}")
        if event.actor and event.kind not in _ENTERING and self.where.get(event.actor) != event.place:
            raise Impossible(f"{event.actor} is at {self.where.get(event.actor)!r}: {event}")
        rule(self, event)
        self.events.append(event)

    def place_of(self, thing: str) -> str:
        """The place where a thing is now, through its holder or container; "" if it is used up."""
        while thing in self.inside:
            thing = self.inside[thing]
        if thing in self.holder:
            return self.where[self.holder[thing]]
        return self.lies[thing][0] if thing in self.lies else ""

    def holds(self, person: str) -> list[str]:
        return [thing for thing, holder in self.holder.items() if holder == person]

    def check_end(self) -> None:
        """Raises Impossible when the story leaves someone hungry, in a quarrel, or a pet astray."""
        if self.hungry or self.quarrels:
            raise Impossible(f"at the end still hungry: {list(self.hungry)}, still in a quarrel: {self.quarrels}")


def replay(events: Iterable[Event]) -> World:
    """The world after `events`, each checked by its rule. Raises Impossible."""
    world = World()
    for event in events:
        world.do(event)
    return world


_ENTERING = ("person", "thing", "go", "stray")


def _need(true: bool, event: Event, what: str) -> None:
    if not true:
        raise Impossible(f"{what}: {event}")


def _together(w: World, e: Event) -> None:
    _need(e.other in w.where and e.other != e.actor, e, "nobody to meet")
    _need(w.where[e.actor] == w.where[e.other], e, "they are not at the same place")


def _holding(w: World, e: Event) -> None:
    _need(w.holder.get(e.thing) == e.actor, e, "the actor does not hold it")


def _use_up(w: World, thing: str) -> None:
    del w.holder[thing]
    w.owner.pop(thing, None)


def _pass(w: World, e: Event) -> None:
    _holding(w, e)
    _together(w, e)
    _need(e.thing not in w.worn, e, "it is being worn")
    w.holder[e.thing] = e.other


def _person(w: World, e: Event) -> None:
    _need(e.actor not in w.people and bool(e.place), e, "already there, or nowhere")
    w.people[e.actor] = Person(e.actor, e.detail, e.why, e.thing, e.other)
    w.where[e.actor] = e.place


def _thing(w: World, e: Event) -> None:
    _need(e.thing not in w.things, e, "there is one already")
    w.things[e.thing] = Thing(e.thing, e.thing.split()[-1], e.detail)
    if e.other:
        w.owner[e.thing] = e.other


def _nowhere(w: World, e: Event) -> None:
    _need(e.thing in w.things, e, "no such thing")
    _need(e.thing not in w.holder and e.thing not in w.lies and e.thing not in w.inside, e, "it is somewhere already")


def _hold(w: World, e: Event) -> None:
    _nowhere(w, e)
    w.holder[e.thing] = e.actor
    if e.why == "owner":
        w.owner[e.thing] = e.actor


def _lie(w: World, e: Event) -> None:
    _nowhere(w, e)
    w.lies[e.thing] = (e.place, e.detail)


def _inside(w: World, e: Event) -> None:
    _nowhere(w, e)
    _need(e.other in w.things and e.other != e.thing, e, "no such container")
    w.inside[e.thing] = e.other


def _lock(w: World, e: Event) -> None:
    _need(e.other in w.things, e, "no such key")
    w.locks[e.thing or e.place] = e.other


def _know(w: World, e: Event) -> None:
    w.skills.setdefault(e.actor, []).append(e.detail)


def _weather(w: World, e: Event) -> None:
    w.weather = e.detail


def _time(w: World, e: Event) -> None:
    _need(e.detail in TIMES, e, "no such time")
    if e.why == "next day":
        w.day += 1
    else:
        _need(TIMES.index(e.detail) > TIMES.index(w.time), e, "time runs forward")
    w.time = e.detail


def _go(w: World, e: Event) -> None:
    _need(e.actor in w.where and w.where[e.actor] != e.place, e, "already there")
    _need(e.place not in w.locks, e, "it is locked")
    _need(w.weather != "stormy" or e.why == "shelter", e, "nobody walks about in a storm")
    if e.other:
        _together(w, e)
        w.where[e.other] = e.place
    w.where[e.actor] = e.place


def _stray(w: World, e: Event) -> None:
    _need(bool(w.people[e.actor].owner) and w.where[e.actor] != e.place, e, "only a pet strays, and to elsewhere")
    w.where[e.actor] = e.place


def _blocked(w: World, e: Event) -> None:
    _need(e.detail in w.locks or e.thing in w.locks, e, "it is not locked")


def _unlock(w: World, e: Event) -> None:
    target = e.thing or e.detail
    _need(w.locks.get(target) == e.other and w.holder.get(e.other) == e.actor, e, "the key is not at hand")
    _need(not e.thing or w.place_of(e.thing) == e.place, e, "the container is elsewhere")
    del w.locks[target]


def _reachable(w: World, e: Event) -> None:
    container = w.inside.get(e.thing)
    if container:
        _need(container not in w.locks, e, "the container is locked")
    _need(e.thing not in w.holder and w.place_of(e.thing) == e.place, e, "it is not there")


def _take(w: World, e: Event) -> None:
    _reachable(w, e)
    w.lies.pop(e.thing, None)
    w.inside.pop(e.thing, None)
    w.holder[e.thing] = e.actor


def _find(w: World, e: Event) -> None:
    _reachable(w, e)
    if e.thing in w.lies:
        _need(w.lies[e.thing][1] == e.detail, e, "it lies at another spot")


def _look(w: World, e: Event) -> None:
    there = w.where[e.other] if e.other else w.place_of(e.thing)
    _need(there != e.place, e, "it is there")


def _put(w: World, e: Event) -> None:
    _holding(w, e)
    _need(e.thing not in w.worn, e, "it is being worn")
    del w.holder[e.thing]
    w.lies[e.thing] = (e.place, e.detail)


def _stow(w: World, e: Event) -> None:
    _holding(w, e)
    _need(e.other in w.things and e.other not in w.locks and w.place_of(e.other) == e.place, e, "no open container")
    del w.holder[e.thing]
    w.inside[e.thing] = e.other


def _give(w: World, e: Event) -> None:
    _need(w.owner.get(e.thing, e.actor) == e.actor, e, "it is not the actor's to give")
    _pass(w, e)
    w.owner[e.thing] = e.other


def _return(w: World, e: Event) -> None:
    _need(w.owner.get(e.thing) == e.other, e, "it does not belong to that one")
    _pass(w, e)


def _buy(w: World, e: Event) -> None:
    _together(w, e)
    _need(w.holder.get(e.detail) == e.actor and e.detail in w.things, e, "no money")
    _need(w.holder.get(e.thing) == e.other, e, "the seller does not have it")
    w.holder[e.detail] = w.owner[e.detail] = e.other
    w.holder[e.thing] = w.owner[e.thing] = e.actor


def _eat(w: World, e: Event) -> None:
    _holding(w, e)
    _use_up(w, e.thing)
    w.hungry.pop(e.actor, None)


def _share(w: World, e: Event) -> None:
    _together(w, e)
    _eat(w, e)
    w.hungry.pop(e.other, None)


def _feed(w: World, e: Event) -> None:
    _together(w, e)
    _holding(w, e)
    _use_up(w, e.thing)
    w.hungry.pop(e.other, None)


def _hunger(w: World, e: Event) -> None:
    w.hungry[e.actor] = True


def _make(w: World, e: Event) -> None:
    _need(w.holder.get(e.other) == e.actor, e, "no material")
    _use_up(w, e.other)
    _thing(w, e._replace(other=e.actor))
    w.holder[e.thing] = e.actor


def _break(w: World, e: Event) -> None:
    _holding(w, e)
    _need(e.thing not in w.broken, e, "it is broken already")
    w.broken[e.thing] = True


def _mend(w: World, e: Event) -> None:
    _need(e.thing in w.broken and w.place_of(e.thing) == e.place, e, "nothing to mend here")
    _need(w.holder.get(e.other) == e.actor, e, "no tool")
    del w.broken[e.thing]


def _wear(w: World, e: Event) -> None:
    _holding(w, e)
    _need(e.thing not in w.worn and e.thing not in w.broken, e, "it cannot be put on")
    w.worn[e.thing] = e.actor


def _doff(w: World, e: Event) -> None:
    _need(w.worn.pop(e.thing, None) == e.actor, e, "it is not worn by the actor")


def _feel(w: World, e: Event) -> None:
    _need(bool(e.detail), e, "no feeling")
    w.feeling[e.actor] = e.detail


def _try(w: World, e: Event) -> None:
    _need(e.detail not in w.skills.get(e.actor, ()), e, "the actor can do it already")
    w.tries.setdefault(e.actor, []).append(e.detail)


def _learn(w: World, e: Event) -> None:
    _need(e.detail in w.skills.get(e.other, ()), e, "the teacher cannot do it")
    _need(e.detail in w.tries.get(e.actor, ()), e, "nothing is learned without a try")
    _know(w, e)


def _pair(e: Event) -> tuple[str, str]:
    return (e.actor, e.other) if e.actor < e.other else (e.other, e.actor)


def _quarrel(w: World, e: Event) -> None:
    _together(w, e)
    _need(_pair(e) not in w.quarrels, e, "they are in a quarrel already")
    w.quarrels.append(_pair(e))


def _peace(w: World, e: Event) -> None:
    _together(w, e)
    _need(_pair(e) in w.quarrels, e, "there is no quarrel")
    w.quarrels.remove(_pair(e))


def _befriend(w: World, e: Event) -> None:
    _together(w, e)
    _need(_pair(e) not in w.friends, e, "they are friends already")
    w.friends.append(_pair(e))


def _see(w: World, e: Event) -> None:
    _need(bool(e.detail), e, "nothing to see")


def _score(w: World, e: Event) -> None:
    w.scores[e.actor] = int(e.detail)


def _win(w: World, e: Event) -> None:
    best = w.scores.get(e.actor, -1)
    _need(all(score < best for name, score in w.scores.items() if name != e.actor), e, "another has as much")


def _plant(w: World, e: Event) -> None:
    _holding(w, e)
    _use_up(w, e.thing)
    w.planted[e.thing] = e.place


def _water(w: World, e: Event) -> None:
    _need(w.planted.get(e.thing) == e.place, e, "nothing is planted here")


def _grow(w: World, e: Event) -> None:
    _need(w.planted.pop(e.thing, None) == e.place and e.other in w.things, e, "no seed here")
    _lie(w, e._replace(thing=e.other))


def _sleep(w: World, e: Event) -> None:
    _need(w.time == "evening", e, "it is not bedtime")


RULES: dict[str, Callable[[World, Event], None]] = {
    "person": _person, "thing": _thing, "hold": _hold, "lie": _lie, "inside": _inside, "lock": _lock, "know": _know,
    "weather": _weather, "time": _time, "go": _go, "stray": _stray, "blocked": _blocked, "unlock": _unlock,
    "take": _take, "find": _find, "look": _look, "put": _put, "lose": _put, "stow": _stow, "give": _give,
    "lend": _pass, "return": _return, "buy": _buy, "eat": _eat, "share": _share, "feed": _feed, "hunger": _hunger,
    "make": _make, "break": _break, "mend": _mend, "wear": _wear, "doff": _doff, "feel": _feel, "try": _try,
    "learn": _learn, "quarrel": _quarrel, "peace": _peace, "befriend": _befriend, "meet": _together,
    "tell": _together, "ask": _together, "thank": _together, "play": _together, "see": _see, "score": _score,
    "win": _win, "plant": _plant, "water": _water, "grow": _grow, "sleep": _sleep,
}  # fmt: skip
