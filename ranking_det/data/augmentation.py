"""The augmentation of SSD (Liu et al., ECCV 2016), which the papers train with at 512 x 512 pixels.

In this order: :class:`PhotometricDistortion`, :class:`Expand`, :class:`MinIoURandomCrop`, and
Detectron2's Resize and RandomFlip. They are Detectron2 augmentations: images are (H, W, 3) in RGB
or BGR, boxes (G, 4) XYXY in pixels, and the randomness is numpy's, which Detectron2 seeds in every
worker. From the first step on, the image is float32 and is neither rounded nor clipped, as
published; Detectron2's Resize then interpolates linearly, without antialiasing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import cv2
import detectron2.data.transforms as T
import numpy as np

from ranking_det.checks import check_at_least

Range = tuple[float, float]


class PhotometricDistortion(T.Augmentation):
    """Change brightness, contrast, saturation and hue, and permute the channels, each at random.

    Contrast changes before saturation and hue or after them, with even odds. The result is float32
    and may leave 0..255.

    Args:
        brightness: the largest shift of all values, >= 0.
        contrast: the range of the factor of all values, above 0.
        saturation: the range of the factor of the saturation, above 0.
        hue: the largest shift of the hue in degrees, >= 0.
        prob: of each of the five steps, in [0, 1].
    """

    def __init__(
        self,
        brightness: float = 32.0,
        contrast: Range = (0.5, 1.5),
        saturation: Range = (0.5, 1.5),
        hue: float = 18.0,
        prob: float = 0.5,
    ) -> None:
        super().__init__()
        self._init(locals())
        check_at_least("brightness", brightness, 0)
        check_at_least("hue", hue, 0)
        _check_range("contrast", contrast)
        _check_range("saturation", saturation)
        _check_probability(prob)

    def get_transform(self, image: np.ndarray) -> T.TransformList:
        """Draw the steps for one image."""
        steps: list[T.Transform] = [T.ColorTransform(lambda pixels: pixels.astype(np.float32))]
        if self._chosen():
            shift = np.random.uniform(-self.brightness, self.brightness)
            steps.append(T.BlendTransform(src_image=shift, src_weight=1, dst_weight=1))
        contrast, colors = [], []
        if self._chosen():
            factor = np.random.uniform(*self.contrast)
            contrast.append(T.BlendTransform(src_image=0, src_weight=1, dst_weight=factor))
        saturation = np.random.uniform(*self.saturation) if self._chosen() else 1.0
        hue = np.random.uniform(-self.hue, self.hue) if self._chosen() else 0.0
        if saturation != 1 or hue != 0:
            colors.append(T.ColorTransform(partial(_change_colors, saturation=saturation, hue=hue)))
        steps += contrast + colors if np.random.randint(2) else colors + contrast
        if self._chosen():
            order = np.random.permutation(image.shape[2])
            steps.append(T.ColorTransform(partial(np.take, indices=order, axis=2)))
        return T.TransformList(steps)

    def _chosen(self) -> bool:
        return np.random.uniform() < self.prob


class Expand(T.Augmentation):
    """Put the image at a random place of a larger canvas of one colour, so that objects shrink.

    Args:
        fill: the colour, per channel in the order of the image; the mean of the data set.
        ratio: the range of the canvas's sides over the image's, at least 1.
        prob: of expanding at all, in [0, 1].
    """

    def __init__(self, fill: Sequence[float], ratio: Range = (1.0, 4.0), prob: float = 0.5) -> None:
        super().__init__()
        self._init(locals())
        _check_range("ratio", ratio, low=1.0)
        _check_probability(prob)

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draw the size of the canvas and the place of the image."""
        if np.random.uniform() >= self.prob:
            return T.NoOpTransform()
        height, width = image.shape[:2]
        ratio = np.random.uniform(*self.ratio)
        rows, columns = int(height * ratio) - height, int(width * ratio) - width
        top, left = np.random.randint(rows + 1), np.random.randint(columns + 1)
        return ColorPadTransform(left, top, columns - left, rows - top, self.fill)


class ColorPadTransform(T.PadTransform):
    """Pads with a colour, where fvcore's transform pads all channels with one value.

    Args:
        x0: pixels added on the left.
        y0: pixels added at the top.
        x1: pixels added on the right.
        y1: pixels added at the bottom.
        color: per channel.
    """

    def __init__(self, x0: int, y0: int, x1: int, y1: int, color: Sequence[float]) -> None:
        super().__init__(x0, y0, x1, y1)
        self.color = tuple(color)

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """(H, W, C) to (y0 + H + y1, x0 + W + x1, C)."""
        channels = img.shape[2]
        if channels != len(self.color):
            raise ValueError(f"color must have {channels} channels, got {self.color}")
        border = (self.y0, self.y1, self.x0, self.x1)
        return cv2.copyMakeBorder(img, *border, cv2.BORDER_CONSTANT, value=self.color)


class MinIoURandomCrop(T.Augmentation):
    """Crop a random window that overlaps every box by a random minimum, and holds a centre.

    With even odds, the image stays whole, or the window's IoU with *all* boxes is at least one of
    ``min_ious``, or is free. If none of 50 windows will do, the minimum is drawn anew.

    Boxes are shifted but neither clipped nor dropped, as by all transforms; that is for the mapper,
    which must give the boxes (:class:`ranking_det.data.mapper.BoxMapper` does; Detectron2's own
    DatasetMapper does not).

    Args:
        min_ious: the minima, each in (0, 1].
        min_size: the smallest side of the window over that of the image, in (0, 1].
        aspect_ratio: the range of height / width of the window, above 0.
    """

    def __init__(
        self,
        min_ious: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
        min_size: float = 0.3,
        aspect_ratio: Range = (0.5, 2.0),
    ) -> None:
        super().__init__()
        self._init(locals())
        for name, value in (*(("min_ious", iou) for iou in min_ious), ("min_size", min_size)):
            if not 0 < value <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {value!r}")
        _check_range("aspect_ratio", aspect_ratio)

    def get_transform(self, image: np.ndarray, boxes: np.ndarray | None) -> T.Transform:
        """Draw windows until one will do."""
        if boxes is None:
            raise ValueError("boxes must be given to the augmentation, as BoxMapper does; got None")
        modes = (None, *self.min_ious, 0.0)
        while True:
            min_iou = modes[np.random.randint(len(modes))]
            if min_iou is None:
                return T.NoOpTransform()
            for _ in range(50):
                window = self._draw_window(*image.shape[:2])
                if window is not None and _admits(window, boxes, min_iou):
                    x0, y0, x1, y1 = window
                    return T.CropTransform(x0, y0, x1 - x0, y1 - y0)

    def _draw_window(self, height: int, width: int) -> tuple[int, int, int, int] | None:
        """XYXY in whole pixels; None if the shape is not to be used."""
        rows = np.random.uniform(self.min_size * height, height)
        columns = np.random.uniform(self.min_size * width, width)
        if not self.aspect_ratio[0] <= rows / columns <= self.aspect_ratio[1]:
            return None
        left, top = np.random.uniform(0, width - columns), np.random.uniform(0, height - rows)
        x0, y0, x1, y1 = int(left), int(top), int(left + columns), int(top + rows)
        return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def centers_inside(boxes: np.ndarray, window: Sequence[float]) -> np.ndarray:
    """Which of the boxes (G, 4) have their centre inside the window (4,), not on its edge; (G,)."""
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centers > window[:2]) & (centers < window[2:])).all(axis=1)


def _admits(window: tuple[int, int, int, int], boxes: np.ndarray, min_iou: float) -> bool:
    """Whether the window overlaps all boxes enough and has the centre of one, if there is one."""
    if not len(boxes):
        return True
    corners = np.asarray(window, dtype=np.float64)
    shared = np.minimum(boxes[:, 2:], corners[2:]) - np.maximum(boxes[:, :2], corners[:2])
    overlap = shared.clip(min=0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (corners[2:] - corners[:2]).prod()
    ious = overlap / (areas - overlap)
    return bool(ious.min() >= min_iou and centers_inside(boxes, corners).any())


def _change_colors(image: np.ndarray, saturation: float, hue: float) -> np.ndarray:
    """Scale the saturation and shift the hue by degrees, of a float32 image of any range.

    Taken as RGB: as BGR the hue would turn the other way, and both ways are as likely.
    """
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)  # of floats: H in 0..360, S in 0..1, V as it is
    hsv[..., 0] = (hsv[..., 0] + hue) % 360
    hsv[..., 1] *= saturation
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _check_range(name: str, value: Range, low: float = 0.0) -> None:
    if len(value) != 2 or not low <= value[0] <= value[1] or value[0] <= 0:
        least = f">= {low:g}" if low else "> 0"
        raise ValueError(f"{name} must be two ascending numbers {least}, got {tuple(value)}")


def _check_probability(prob: float) -> None:
    if not 0 <= prob <= 1:
        raise ValueError(f"prob must be in [0, 1], got {prob!r}")
