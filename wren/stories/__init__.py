"""Small English stories from a simulated little world, no two alike, with the log of what is true in each.

`stories(seed)` yields them without end; `texts(seed, num_bytes)` yields their texts. Plain Python, the same on every
machine: story k of a seed does not depend on how many are asked for, nor on the order of sets and hashes.
"""

from wren.stories.story import Story, stories, texts

__all__ = ["Story", "stories", "texts"]
