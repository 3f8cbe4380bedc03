"""The shapes that the tests' steps draw again and again, drawn once.

Imported by the process that all steps are forked from, which then find them in memory.
"""

from functools import lru_cache

from images import shapes

draw = lru_cache(shapes.draw)
for split in ("train", "test"):
    draw(shapes.SIZES[split], 8, shapes.SEEDS[split])


def remember():
    """Shapes that were drawn once are not drawn again in this process."""
    shapes.draw = draw
