"""Render one image: background, clutter, objects that occlude each other, and its annotations.

Figures are painted from back to front. A map of owners, with four samples per pixel along each
axis, records which figure is on top. Masks, boxes and areas therefore describe the visible part. A
figure that would occlude too much of an earlier one is moved: at least `MIN_VISIBLE` of every
object stays visible. The part outside the image counts as hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from ranking_det.data.shapes import mask_annotations, paint
from ranking_det.data.shapes.outlines import CLUTTER, SHAPES, Outline, area, place
from ranking_det.data.shapes.paint import STYLES, SUPERSAMPLING, Window

MIN_VISIBLE = 0.4
# Diameters as a share of the image's side, log-uniform: 20 to 200 pixels at 256.
DIAMETERS = (20 / 256, 200 / 256)
MAX_OBJECTS = 15
# Figures are rotated by up to 15 degrees. Arbitrary rotations would take far longer to learn.
MAX_ROTATION = np.deg2rad(15)


@dataclass(frozen=True)
class Category:
    """An object class: a shape, and a filling in the long-tailed variant.

    Attributes:
        name: the name of the class.
        shape: a key of `SHAPES`.
        style: one of `STYLES`; None draws a random one for each object.
    """

    name: str
    shape: str
    style: str | None = None


class _Scene:
    """The image so far, and how much of each owner is visible."""

    def __init__(self, rng: Generator, size: int) -> None:
        self.rng = rng
        self.size = size
        self.image = paint.background(rng, size)
        self.owner = np.zeros((size * SUPERSAMPLING,) * 2, np.uint8)
        self.full, self.visible = np.zeros((2, 256), np.int64)
        self.windows: dict[int, Window] = {}

    def _window(self, window: Window) -> tuple[slice, slice]:
        x0, y0, x1, y1 = (v * SUPERSAMPLING for v in window)
        return slice(y0, y1), slice(x0, x1)

    def add(
        self,
        outline: Outline,
        owner: int,
        diameter: float,
        keep_visible: float,
        style: str | None = None,
        center: np.ndarray | None = None,
    ) -> bool:
        """Paint a figure where at least `keep_visible` of every other figure stays visible.

        Owner 0 is everything that is not annotated. The figure is tried at the given center, or at
        a few random places. Returns whether one fits.
        """
        rng = self.rng
        angle = rng.uniform(-MAX_ROTATION, MAX_ROTATION)
        for _ in range(12 if center is None else 1):
            # Up to a third of the diameter may lie outside the image.
            margin = diameter / 6
            position = rng.uniform(margin, self.size - margin, 2) if center is None else center
            contours = place(outline, position, diameter, angle)
            drawn = paint.rasterize(contours, self.size)
            if drawn is None or not self._claim(owner, *drawn, area(contours), keep_visible):
                continue
            contrast = rng.uniform(40, 70) if rng.random() < 0.08 else rng.uniform(90, 150)
            # Most figures are plain: the outline determines the class, and a texture would hide it.
            style = style or ("solid" if rng.random() < 0.6 else str(rng.choice(STYLES)))
            paint.fill(self.image, *drawn, rng, paint.Appearance(style, diameter, angle, contrast))
            return True
        return False

    def _claim(
        self, owner: int, mask: np.ndarray, window: Window, full_area: float, keep_visible: float
    ) -> bool:
        """Assign the samples of a mask to an owner; return False if it would hide too much.

        It hides too much if less than `MIN_VISIBLE` of the figure (`full_area`, in square pixels)
        is inside the image, or if less than `keep_visible` of a figure behind it stays visible.
        """
        inside, owners = mask > 0, self.owner[self._window(window)]
        samples = int(inside.sum())
        full_area *= SUPERSAMPLING**2
        hidden = np.bincount(owners[inside], minlength=256)
        repainted, hidden[[0, owner]] = int(hidden[owner]) if owner else 0, 0
        remaining = self.visible - hidden
        too_much = np.any(remaining < keep_visible * self.full * (hidden > 0))
        if too_much or (owner and samples < MIN_VISIBLE * full_area):
            return False
        owners[inside] = owner
        self.visible = remaining
        self.visible[owner] += samples - repainted
        self.full[owner] = max(self.visible[owner], int(full_area))
        # The window of a crowd grows with each of its figures.
        old_window = self.windows.get(owner, window)
        self.windows[owner] = (
            *map(min, old_window[:2], window[:2]),
            *map(max, old_window[2:], window[2:]),
        )
        return True

    def mask_of(self, owner: int) -> tuple[np.ndarray, Window]:
        """Return the cleaned visible mask of an owner and its window in whole pixels."""
        window = self.windows[owner]
        mask = self.owner[self._window(window)] == owner
        return mask_annotations.remove_small_pieces(mask), window


def _diameters(rng: Generator, count: int, size: int) -> np.ndarray:
    low, high = np.log(DIAMETERS)
    return np.exp(rng.uniform(low, high, count)) * size


def _add_clutter(scene: _Scene, count: int, keep_visible: float) -> None:
    for diameter in _diameters(scene.rng, count, scene.size):
        kind = CLUTTER[int(scene.rng.integers(len(CLUTTER)))]
        scene.add(kind(scene.rng), 0, diameter * 0.8, keep_visible)


def _add_crowd(scene: _Scene, category: Category, owner: int) -> None:
    """Paint many small objects of a class next to each other, with one annotation for all."""
    rng, size = scene.rng, scene.size
    typical = size * rng.uniform(0.05, 0.09)
    middle = rng.uniform(0.2, 0.8, 2) * size
    for _ in range(int(rng.integers(10, 25))):
        outline = SHAPES[category.shape](rng)
        diameter = typical * rng.uniform(0.8, 1.2)
        center = middle + rng.normal(size=2) * size * 0.08
        scene.add(outline, owner, diameter, 0.9, category.style, center)


def _add_objects(scene: _Scene, categories: Sequence[Category], chosen: Sequence[int]) -> list[int]:
    """Paint one object of each chosen category where there is room; return the painted ones."""
    rng = scene.rng
    placed: list[int] = []
    # Mostly from large to small: a small object in front of a large one hides little of it.
    diameters = _diameters(rng, len(chosen), scene.size)
    diameters = diameters[np.argsort(-diameters * rng.uniform(0.5, 2.0, len(chosen)))]
    for index, diameter in zip(chosen, diameters, strict=True):
        category = categories[index]
        keep_visible = 0.9 if rng.random() < 0.8 else MIN_VISIBLE
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
    """Render an image with one object for each chosen category.

    Args:
        rng: random generator of the whole image.
        size: side of the square image in pixels.
        categories: all classes.
        chosen: for each object, its index into `categories`; may be empty. Later objects are in
            front. An object that finds no room is left out.
        crowd: index of the category of the crowd to add; None for no crowd.

    Returns:
        The image, uint8 (size, size, 3), and a dict per object (the crowd last) with COCO's
        "category_id" (1 + the index into `categories`), "iscrowd", "bbox", "area" and
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
