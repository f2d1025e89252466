"""Synthetic shapes data set, generated on first use: `python -m ranking_det.data.shapes --help`."""

from ranking_det.data.shapes.generate import CATEGORIES, VARIANTS, Settings
from ranking_det.data.shapes.store import prepare_shapes, shapes_folder

__all__ = ["CATEGORIES", "VARIANTS", "Settings", "prepare_shapes", "shapes_folder"]
