"""The shapes that the tests' steps draw again and again, drawn once.

Imported by the process that all steps are forked from, which then find them in memory.
"""

from functools import lru_cache

from images import shapes

draw = lru_cache(shapes.draw)
draw(shapes.SIZES["train"], 8, seed=len("train"))
draw(shapes.SIZES["test"], 8, seed=len("test"))


def remember():
    """Shapes that were drawn once are not drawn again in this process."""
    shapes.draw = draw
