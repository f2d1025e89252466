"""Paint textures, backgrounds and anti-aliased figures.

Images are float32 (height, width, 3) in 0..255. The order of the channels has no meaning, because
all colors are random. A texture is a field in 0..1 that blends two colors. Masks are uint8 (0 or
255) with `SUPERSAMPLING` samples per pixel along each axis.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

SUPERSAMPLING = 4
STYLES = ("solid", "shaded", "striped", "checkered", "dotted", "grained", "bordered")
_BACKGROUNDS = ("grained", "grained", "shaded", "striped", "checkered", "patchy")

Window = tuple[int, int, int, int]
"""A window of the image, XYXY in whole pixels."""


def rasterize(contours: list[np.ndarray], size: int) -> tuple[np.ndarray, Window] | None:
    """Rasterize contours to a supersampled mask by the even-odd rule.

    Args:
        contours: (n, 2) x and y in pixels each.
        size: side of the square image in pixels.

    Returns:
        The mask of the contours and its window in the image; None if they lie outside the image.
    """
    points = np.concatenate(contours)
    # One pixel of margin, so the window shows the distance to the outside.
    x0, y0 = np.clip(np.floor(points.min(0)).astype(int) - 1, 0, size)
    x1, y1 = np.clip(np.ceil(points.max(0)).astype(int) + 1, 0, size)
    if x1 <= x0 or y1 <= y0:
        return None
    mask = np.zeros(((y1 - y0) * SUPERSAMPLING, (x1 - x0) * SUPERSAMPLING), np.uint8)
    # OpenCV counts from the center of a sample; `shift` asks for fixed-point numbers of 4 bits.
    shifted = [((c - [x0, y0]) * SUPERSAMPLING - 0.5) * 16 for c in contours]
    cv2.fillPoly(mask, [np.round(c).astype(np.int32) for c in shifted], 255, shift=4)
    return mask, (int(x0), int(y0), int(x1), int(y1))


def _noise(rng: Generator, height: int, width: int, coarsest: float) -> np.ndarray:
    """Draw octaves of smooth noise in 0..1; `coarsest` is the cell of the first one in pixels."""
    field = np.zeros((height, width), np.float32)
    weight, cell = 1.0, coarsest
    while cell >= 2 and weight > 0.1:
        rows, columns = int(height / cell) + 2, int(width / cell) + 2
        grid = rng.random((rows, columns), dtype=np.float32)
        field += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        weight, cell = weight * 0.6, cell / 2
    low, high = float(field.min()), float(field.max())
    return (field - low) / max(high - low, 1e-6)


def texture(
    style: str, rng: Generator, frame: tuple[np.ndarray, np.ndarray], period: float
) -> np.ndarray:
    """Draw the texture of a style.

    Args:
        style: one of `STYLES`, or "patchy".
        rng: random generator of phases and noise.
        frame: the pixel coordinates along the two axes of the figure, (height, width) each.
        period: period of the texture in pixels, > 0.

    Returns:
        float32 (height, width) in 0..1.
    """
    along, across = frame
    height, width = along.shape
    phase = float(rng.random())
    # Clipped waves have soft edges, which need no anti-aliasing.
    if style == "striped":
        return np.clip(0.5 + 2 * np.sin(2 * np.pi * (along / period + phase)), 0, 1)
    if style == "checkered":
        waves = np.sin(np.pi * along / period + phase) * np.sin(np.pi * across / period)
        return np.clip(0.5 + 3 * waves, 0, 1)
    if style == "dotted":
        waves = np.cos(2 * np.pi * along / period) + np.cos(2 * np.pi * across / period)
        return np.clip(0.5 + 1.5 * (waves - 0.3), 0, 1)
    if style == "grained":
        return _noise(rng, height, width, max(period, 3.0))
    if style == "patchy":
        return np.round(_noise(rng, height, width, 2 * period) * 5) / 5
    if style == "shaded":
        return (along - along.min()) / (float(np.ptp(along)) or 1.0)
    return np.zeros((height, width), np.float32)


def _coordinates(window: Window, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates of a window's pixels along two rotated axes through its center."""
    x0, y0, x1, y1 = window
    x = np.arange(x0, x1, dtype=np.float32)[None] + np.float32(0.5 - (x0 + x1) / 2)
    y = np.arange(y0, y1, dtype=np.float32)[:, None] + np.float32(0.5 - (y0 + y1) / 2)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * x + sin * y, cos * y - sin * x


def _per_pixel(samples: np.ndarray) -> np.ndarray:
    """Return the mean over the samples of each pixel."""
    height, width = (side // SUPERSAMPLING for side in samples.shape)
    return cv2.resize(samples, (width, height), interpolation=cv2.INTER_AREA)


def _color_away_from(rng: Generator, reference: np.ndarray, distance: float) -> np.ndarray:
    """Draw a color at least this far (Euclidean) from another, or the farthest of 20."""
    colors = rng.uniform(15, 240, (20, 3))
    gaps = np.linalg.norm(colors - reference, axis=1)
    is_distant = np.flatnonzero(gaps >= distance)
    return colors[is_distant[0] if len(is_distant) else gaps.argmax()].astype(np.float32)


def background(rng: Generator, size: int) -> np.ndarray:
    """Draw a textured background of two or three colors.

    Args:
        rng: random generator of the background.
        size: side of the square image in pixels.

    Returns:
        float32 (size, size, 3).
    """
    style = str(rng.choice(_BACKGROUNDS))
    frame = _coordinates((0, 0, size, size), rng.uniform(0, 2 * np.pi))
    field = texture(style, rng, frame, size * rng.uniform(0.04, 0.3))
    base = rng.uniform(40, 215, 3)
    amplitude = rng.normal(size=3)
    amplitude *= rng.uniform(15, 60) / np.linalg.norm(amplitude)
    grain = _noise(rng, size, size, size * rng.uniform(0.03, 0.15))
    grain = (grain - np.float32(0.5)) * np.float32(rng.uniform(10, 60))
    field = (field - np.float32(0.5)) * 2
    pairs = zip(amplitude, base, strict=True)
    return cv2.merge([field * np.float32(s) + (grain + np.float32(b)) for s, b in pairs])


class Appearance(NamedTuple):
    """Style, size, rotation and contrast of a painted figure.

    Attributes:
        style: one of `STYLES`.
        diameter: diameter of the figure in pixels; textures scale with it.
        angle: rotation of the figure in radians; textures turn with it.
        contrast: smallest distance in RGB between the mean colors of the figure and of the
            pixels behind it.
    """

    style: str
    diameter: float
    angle: float
    contrast: float


def fill(
    image: np.ndarray, mask: np.ndarray, window: Window, rng: Generator, appearance: Appearance
) -> None:
    """Paint a figure into the image, in place, with colors that differ from the background.

    Args:
        image: the image so far, float32 (size, size, 3); changed in place.
        mask: supersampled mask from `rasterize`.
        window: the window of the mask.
        rng: random generator of the colors and the texture.
        appearance: style, size, angle and contrast of the figure.
    """
    style, diameter, angle, contrast = appearance
    x0, y0, x1, y1 = window
    behind = image[y0:y1, x0:x1]
    alpha = _per_pixel(mask)[..., None].astype(np.float32) / 255
    mean_behind = (alpha * behind).sum((0, 1)) / max(float(alpha.sum()), 1e-6)
    first = _color_away_from(rng, mean_behind, contrast)
    second = _color_away_from(rng, first, 90)
    if np.linalg.norm((first + second) / 2 - mean_behind) < contrast:
        # Closer to the first color, so a fine texture stands out from the background.
        second = first + (second - first) * np.float32(0.5)
    period = max(diameter * rng.uniform(0.16, 0.3), 3.5)
    field = texture(style, rng, _coordinates(window, angle), period)
    if style == "bordered":
        width = max(1.2, diameter * rng.uniform(0.07, 0.11))
        depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3) / SUPERSAMPLING
        field = _per_pixel((depth < width).astype(np.float32))
    color = first + field[..., None] * (second - first)
    behind += alpha * (color - behind)


def finish(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Add uneven light, blur and sensor noise, and round to uint8.

    Args:
        image: float32 (size, size, 3).
        rng: random generator of the light, the blur and the noise.

    Returns:
        uint8 (size, size, 3).
    """
    size = image.shape[0]
    along, _ = _coordinates((0, 0, size, size), rng.uniform(0, 2 * np.pi))
    image = image * (1 + along * np.float32(rng.uniform(0, 0.35) / size))[..., None]
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, 0.7)))
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    noise *= np.float32(rng.uniform(1, 7))
    image += noise
    return np.clip(image + np.float32(0.5), 0, 255).astype(np.uint8)
