"""Names that moved to images/folders.py; this file goes once morph_images.py and predict.py import
them from there."""

from images.folders import list_images, shown  # noqa: F401
