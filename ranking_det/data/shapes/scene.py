"""Lays out one image: background, clutter, objects that hide each other, and what is annotated.

Figures are painted from back to front. At four samples a pixel along each axis a map of owners
says which figure is on top, so that masks, boxes and areas are those of the visible part, and
a figure which would hide too much of an earlier one is put elsewhere: of every object at least
`LEAST_VISIBLE` stays in sight, what lies outside of the image counted as hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from ranking_det.data.shapes import mask_annotations, paint
from ranking_det.data.shapes.outlines import CLUTTER, SHAPES, Outline, area, place
from ranking_det.data.shapes.paint import STYLES, SUPERSAMPLING, Place

LEAST_VISIBLE = 0.4
# Diameters, as a share of the image's side; log-uniform. 20 to 200 px at 256.
DIAMETERS = (20 / 256, 200 / 256)
MOST_OBJECTS = 15
# Figures lean to either side by up to 15 degrees; upside down they would take far longer to learn.
MOST_TURNED = np.deg2rad(15)


@dataclass(frozen=True)
class Category:
    """A class: a shape, and for the long-tailed variant how it is filled."""

    name: str
    shape: str
    style: str | None = None


class _Scene:
    """The picture so far, and per owner how much of it is visible."""

    def __init__(self, rng: Generator, size: int) -> None:
        self.rng = rng
        self.size = size
        self.image = paint.background(rng, size)
        self.owner = np.zeros((size * SUPERSAMPLING,) * 2, np.uint8)
        self.full, self.visible = np.zeros((2, 256), np.int64)
        self.places: dict[int, Place] = {}

    def _window(self, where: Place) -> tuple[slice, slice]:
        x0, y0, x1, y1 = (v * SUPERSAMPLING for v in where)
        return slice(y0, y1), slice(x0, x1)

    def add(
        self,
        outline: Outline,
        owner: int,
        diameter: float,
        keep_visible: float,
        style: str | None = None,
        centre: np.ndarray | None = None,
    ) -> bool:
        """Paints a figure where it leaves `keep_visible` of all others in sight.

        Owner 0 is whatever is not annotated. Returns whether a place was found: one of a few
        random ones, or the given centre.
        """
        rng = self.rng
        angle = rng.uniform(-MOST_TURNED, MOST_TURNED)
        for _ in range(12 if centre is None else 1):
            # Up to a third of the diameter may lie outside of the image.
            margin = diameter / 6
            at = rng.uniform(margin, self.size - margin, 2) if centre is None else centre
            contours = place(outline, at, diameter, angle)
            drawn = paint.rasterise(contours, self.size)
            if drawn is None or not self._claim(owner, *drawn, area(contours), keep_visible):
                continue
            contrast = rng.uniform(40, 70) if rng.random() < 0.08 else rng.uniform(90, 150)
            # Most are plain: a texture hides the outline, which is what the class is.
            style = style or ("solid" if rng.random() < 0.6 else str(rng.choice(STYLES)))
            paint.fill(self.image, *drawn, rng, paint.Look(style, diameter, angle, contrast))
            return True
        return False

    def _claim(
        self, owner: int, mask: np.ndarray, where: Place, whole: float, keep_visible: float
    ) -> bool:
        """Gives the samples of a mask to an owner, unless too much would be out of sight.

        That is so if less than `LEAST_VISIBLE` of the figure, whose area is `whole` pixels, lies
        inside the image, or if less than `keep_visible` of one behind it would be left.
        """
        inside, owners = mask > 0, self.owner[self._window(where)]
        samples = int(inside.sum())
        whole *= SUPERSAMPLING**2
        hidden = np.bincount(owners[inside], minlength=256)
        repainted, hidden[[0, owner]] = int(hidden[owner]) if owner else 0, 0
        left = self.visible - hidden
        too_much = np.any(left < keep_visible * self.full * (hidden > 0))
        if too_much or (owner and samples < LEAST_VISIBLE * whole):
            return False
        owners[inside] = owner
        self.visible = left
        self.visible[owner] += samples - repainted
        self.full[owner] = max(self.visible[owner], int(whole))
        # The place of a crowd grows with each of its figures.
        before = self.places.get(owner, where)
        self.places[owner] = (*map(min, before[:2], where[:2]), *map(max, before[2:], where[2:]))
        return True

    def mask_of(self, owner: int) -> tuple[np.ndarray, Place]:
        """The cleaned visible mask of an owner and its place in whole pixels."""
        where = self.places[owner]
        return mask_annotations.without_crumbs(self.owner[self._window(where)] == owner), where


def _diameters(rng: Generator, count: int, size: int) -> np.ndarray:
    low, high = np.log(DIAMETERS)
    return np.exp(rng.uniform(low, high, count)) * size


def _add_clutter(scene: _Scene, count: int, keep_visible: float) -> None:
    for diameter in _diameters(scene.rng, count, scene.size):
        kind = CLUTTER[int(scene.rng.integers(len(CLUTTER)))]
        scene.add(kind(scene.rng), 0, diameter * 0.8, keep_visible)


def _add_crowd(scene: _Scene, category: Category, owner: int) -> None:
    """Many small objects of a class side by side, with one annotation for all."""
    rng, size = scene.rng, scene.size
    typical = size * rng.uniform(0.05, 0.09)
    middle = rng.uniform(0.2, 0.8, 2) * size
    for _ in range(int(rng.integers(10, 25))):
        outline = SHAPES[category.shape](rng)
        diameter = typical * rng.uniform(0.8, 1.2)
        centre = middle + rng.normal(size=2) * size * 0.08
        scene.add(outline, owner, diameter, 0.9, category.style, centre)


def _add_objects(scene: _Scene, categories: Sequence[Category], chosen: Sequence[int]) -> list[int]:
    """Paints one object of each chosen category, as far as there is room."""
    rng = scene.rng
    placed: list[int] = []
    # Mostly from large to small: a small object in front of a large one hides little of it.
    diameters = _diameters(rng, len(chosen), scene.size)
    diameters = diameters[np.argsort(-diameters * rng.uniform(0.5, 2.0, len(chosen)))]
    for index, diameter in zip(chosen, diameters, strict=True):
        category = categories[index]
        keep_visible = 0.9 if rng.random() < 0.8 else LEAST_VISIBLE
        outline = SHAPES[category.shape](rng)
        for shrink in (1.0, 0.6):
            size = max(diameter * shrink, DIAMETERS[0] * scene.size)
            if scene.add(outline, len(placed) + 1, size, keep_visible, category.style):
                placed.append(index)
                break
    return placed


def render(
    rng: Generator,
    size: int,
    categories: Sequence[Category],
    chosen: Sequence[int],
    crowd: int | None,
) -> tuple[np.ndarray, list[dict]]:
    """Draws an image with one object for each of the chosen categories.

    Args:
        rng: all that is random about the image.
        size: its side in pixels.
        categories: all classes.
        chosen: per object, its index into `categories`; may be empty. Later ones lie in front;
            one for which no room is found is left out.
        crowd: index of the category of which to add a crowd; None for no crowd.

    Returns:
        The image, uint8 (size, size, 3), and per object (the crowd last) a dict with
        COCO's "category_id" (1 + the index into `categories`), "iscrowd", "bbox", "area" and
        "segmentation".
    """
    scene = _Scene(rng, size)
    _add_clutter(scene, int(rng.integers(1, 5)), keep_visible=0.0)
    placed = _add_objects(scene, categories, chosen)
    if crowd is not None:
        _add_crowd(scene, categories[crowd], owner=255)
    _add_clutter(scene, int(rng.integers(0, 3)), keep_visible=0.7)
    objects = []
    for owner, index in enumerate(placed, start=1):
        annotation = mask_annotations.polygon_annotation(*scene.mask_of(owner))
        objects.append({"category_id": index + 1, "iscrowd": 0, **annotation})
    if crowd is not None and scene.visible[255] > 0:
        annotation = mask_annotations.crowd_annotation(*scene.mask_of(255), size)
        objects.append({"category_id": crowd + 1, "iscrowd": 1, **annotation})
    return paint.finish(scene.image, rng), objects
