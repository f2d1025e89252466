"""Random outlines of the object classes and of distractors (clutter).

An outline is a list of closed contours, float64 (n, 2), inside the unit circle. Overlapping
contours follow the even-odd rule: the second contour of a ring is its hole. Every call draws new
proportions, so a class is a family of figures, not one figure.
"""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

Outline = list[np.ndarray]
Family = Callable[[Generator], Outline]
"""A function that draws one random figure of a class."""


def _arc(start: float, stop: float, radius: float = 1.0, points: int = 64) -> np.ndarray:
    angles = np.linspace(start, stop, points)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _polygon(corners: int, radius: float = 1.0) -> np.ndarray:
    return _arc(0, 2 * np.pi, radius, corners + 1)[:-1]


def _disc(radius: float = 1.0) -> np.ndarray:
    return _polygon(64, radius)


def _box(width: float, height: float) -> np.ndarray:
    """Return a rectangle of these proportions, with its corners on the unit circle."""
    corners = np.array([[-width, -height], [width, -height], [width, height], [-width, height]])
    return corners / np.hypot(width, height)


def _crescent(rng: Generator) -> Outline:
    # The inner edge is an arc of another circle through the same two tips.
    tip = rng.uniform(0.75, 0.9) * np.pi / 2
    sagitta = rng.uniform(0.15, 0.35)
    chord = np.sin(tip)
    outer = _arc(tip, 2 * np.pi - tip)
    radius = (chord**2 + sagitta**2) / (2 * sagitta)
    half = np.arcsin(min(1.0, chord / radius))
    inner = _arc(np.pi + half, np.pi - half, radius) + [radius - sagitta + outer[0, 0], 0]
    inner[:, 1] *= -1
    return [np.concatenate([outer, inner[::-1]])]


def _star(points: int, radius: float) -> Outline:
    """Return a star with its inner corners on a circle of this radius."""
    star = _polygon(2 * points)
    star[1::2] *= radius
    return [star]


def _cross(rng: Generator) -> Outline:
    arm = rng.uniform(0.26, 0.4)
    quarter = np.array([[1, -arm], [1, arm], [arm, arm]])
    turns = [quarter @ _rotation(k * np.pi / 2).T for k in range(4)]
    return [np.concatenate(turns) / np.hypot(1, arm)]


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


SHAPES: dict[str, Family] = {
    "circle": lambda rng: [_disc()],
    "ellipse": lambda rng: [_disc() * [1, rng.uniform(0.45, 0.72)]],
    "ring": lambda rng: [_disc(), _disc(rng.uniform(0.5, 0.68))],
    "half_disc": lambda rng: [_arc(0, np.pi, points=33) - [0, rng.uniform(0.38, 0.48)]],
    "crescent": _crescent,
    "triangle": lambda rng: [_polygon(3) * [1, rng.uniform(0.7, 1.0)]],
    "square": lambda rng: [_box(1, 1)],
    "rectangle": lambda rng: [_box(1, rng.uniform(0.35, 0.62))],
    "rhombus": lambda rng: [_polygon(4) * [1, rng.uniform(0.45, 0.68)]],
    "pentagon": lambda rng: [_polygon(5)],
    "hexagon": lambda rng: [_polygon(6)],
    "star5": lambda rng: _star(5, rng.uniform(0.38, 0.5)),
    "star6": lambda rng: _star(6, rng.uniform(0.5, 0.6)),
    "cross": _cross,
}


def _blob(rng: Generator) -> Outline:
    angles = np.linspace(0, 2 * np.pi, 65)[:-1]
    radius = np.ones(64)
    for harmonic in range(2, 6):
        radius += rng.uniform(0.1, 0.3) * np.cos(harmonic * angles + rng.uniform(0, 2 * np.pi))
    blob = radius[:, None] * _disc()
    return [blob / np.abs(blob).max()]


def _bow(rng: Generator) -> Outline:
    """Return a stroke along a third to two thirds of a circle."""
    span = rng.uniform(0.7, 1.3) * np.pi
    width = rng.uniform(0.08, 0.25)
    return [np.concatenate([_arc(0, span), _arc(span, 0, 1 - width)])]


def _line(rng: Generator) -> Outline:
    return [_box(1, rng.uniform(0.02, 0.07))]


def _partial_outline(rng: Generator) -> Outline:
    """Return a stroke along part of the outline of an object class."""
    name = rng.choice(["circle", "square", "rhombus", "triangle", "hexagon", "star5"])
    contour = SHAPES[str(name)](rng)[0]
    closed = np.concatenate([contour, contour[:1]])
    steps = np.linspace(0, len(contour), 97)
    dense = np.stack([np.interp(steps, np.arange(len(closed)), closed[:, k]) for k in (0, 1)], 1)
    stroke = np.roll(dense[:-1], int(rng.integers(96)), axis=0)[: int(rng.integers(35, 70))]
    width = rng.uniform(0.08, 0.2)
    return [np.concatenate([stroke, stroke[::-1] * (1 - width)])]


def _sector(rng: Generator) -> Outline:
    """Return about three quarters of a disc."""
    return [np.concatenate([_arc(0, rng.uniform(1.35, 1.65) * np.pi), np.zeros((1, 2))])]


def _angle(rng: Generator) -> Outline:
    """Return the letter L."""
    arm = rng.uniform(0.3, 0.5)
    corners = np.array([[-1, -1], [1, -1], [1, arm - 1], [arm - 1, arm - 1], [arm - 1, 1], [-1, 1]])
    return [corners * 0.7]


CLUTTER: tuple[Family, ...] = (_blob, _bow, _line, _partial_outline, _sector, _angle)


def place(outline: Outline, center: np.ndarray, diameter: float, angle: float) -> Outline:
    """Rotate, scale and move an outline: map the unit circle to a circle in pixels.

    Args:
        outline: contours (n, 2) inside the unit circle.
        center: (2,) x and y of the circle in pixels.
        diameter: diameter of the circle in pixels.
        angle: rotation in radians, from x towards y.

    Returns:
        Contours (n, 2) in pixels.
    """
    rotation = _rotation(angle).T * (diameter / 2)
    return [contour @ rotation + center for contour in outline]


def area(outline: Outline) -> float:
    """Return the area of an outline (shoelace formula): the first contour minus its holes.

    Args:
        outline: contours (n, 2); all but the first are holes.
    """
    first, *holes = (
        abs(np.sum(c[:, 0] * np.roll(c[:, 1], -1) - c[:, 1] * np.roll(c[:, 0], -1))) / 2
        for c in outline
    )
    return float(first - sum(holes))
