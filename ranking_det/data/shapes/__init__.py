"""Synthetic shapes data set, generated on first use: `python -m ranking_det.data.shapes --help`."""

from ranking_det.data.shapes.generate import VARIANTS, Settings, categories_of
from ranking_det.data.shapes.store import prepare_shapes, shapes_folder

__all__ = ["VARIANTS", "Settings", "categories_of", "prepare_shapes", "shapes_folder"]
