"""The plots: each a function that acts one kind of story through a Teller. `PLOTS` lists them all."""

from wren.stories.plots import contests, friends, roads, things, work

PLOTS = (
    things.lost_and_found, things.trade, things.locked_box, things.mixed_up, things.mended, things.honest_finder,
    friends.birthday, friends.quarrel, friends.newcomer, friends.truth, friends.surprise, friends.lending,
    work.helping, work.learning, work.garden, contests.contest, contests.shared_meal, contests.making,
    roads.storm, roads.journey, roads.pet_astray, roads.message,
)  # fmt: skip
