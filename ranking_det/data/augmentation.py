"""SSD's data augmentation (Liu et al., ECCV 2016): photometric distortion, expansion, random crop.

The papers that train at 512 x 512 pixels use it, in this order: :class:`PhotometricDistortion`,
:class:`Expand`, :class:`MinIoURandomCrop`, then Detectron2's Resize and RandomFlip. All are
Detectron2 augmentations: images are (H, W, 3) in RGB or BGR, and boxes (G, 4) XYXY in pixels. They
draw from numpy's random generator, which Detectron2 seeds in every worker. From the first step on,
the image is float32 and is neither rounded nor clipped, as published. Detectron2's Resize then
interpolates linearly, without antialiasing.
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

    Contrast changes before or after saturation and hue, with equal probability. The result is
    float32, and its values may be outside 0..255 (SSD, section 2.2).

    Args:
        brightness: the largest shift of all values, >= 0.
        contrast: the range of the factor of all values, above 0.
        saturation: the range of the factor of the saturation, above 0.
        hue: the largest shift of the hue in degrees, >= 0.
        prob: the probability of each of the five steps, in [0, 1].

    Raises:
        ValueError: an argument is out of range.
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
        """Draw the steps for one image.

        Args:
            image: (H, W, 3), of any numeric type, values 0..255.

        Returns:
            The transform; its image is float32.
        """
        steps: list[T.Transform] = [T.ColorTransform(lambda pixels: pixels.astype(np.float32))]
        if self._draw_choice():
            shift = np.random.uniform(-self.brightness, self.brightness)
            steps.append(T.BlendTransform(src_image=shift, src_weight=1, dst_weight=1))
        contrast, colors = [], []
        if self._draw_choice():
            factor = np.random.uniform(*self.contrast)
            contrast.append(T.BlendTransform(src_image=0, src_weight=1, dst_weight=factor))
        saturation = np.random.uniform(*self.saturation) if self._draw_choice() else 1.0
        hue = np.random.uniform(-self.hue, self.hue) if self._draw_choice() else 0.0
        if saturation != 1 or hue != 0:
            colors.append(T.ColorTransform(partial(_change_colors, saturation=saturation, hue=hue)))
        steps += contrast + colors if np.random.randint(2) else colors + contrast
        if self._draw_choice():
            order = np.random.permutation(image.shape[2])
            steps.append(T.ColorTransform(partial(np.take, indices=order, axis=2)))
        return T.TransformList(steps)

    def _draw_choice(self) -> bool:
        return np.random.uniform() < self.prob


class Expand(T.Augmentation):
    """Expand (zoom out): place the image at random on a larger canvas, so objects shrink.

    This is SSD's "zoom out" (section 3.6).

    Args:
        fill: the color, a value per channel in the image's order; usually the data set's mean.
        ratio: the range of the canvas's sides over the image's sides, at least 1.
        prob: the probability of expanding, in [0, 1].

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, fill: Sequence[float], ratio: Range = (1.0, 4.0), prob: float = 0.5) -> None:
        super().__init__()
        self._init(locals())
        _check_range("ratio", ratio, low=1.0)
        _check_probability(prob)

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draw the size of the canvas and the position of the image.

        Args:
            image: (H, W, C), with as many channels as ``fill``.

        Returns:
            The padding, or no transform.
        """
        if np.random.uniform() >= self.prob:
            return T.NoOpTransform()
        height, width = image.shape[:2]
        ratio = np.random.uniform(*self.ratio)
        rows, columns = int(height * ratio) - height, int(width * ratio) - width
        top, left = np.random.randint(rows + 1), np.random.randint(columns + 1)
        return ColorPadTransform(left, top, columns - left, rows - top, self.fill)


class ColorPadTransform(T.PadTransform):
    """Pad an image with a color; fvcore's transform pads all channels with one value.

    Args:
        x0: pixels added on the left, >= 0.
        y0: pixels added at the top, >= 0.
        x1: pixels added on the right, >= 0.
        y1: pixels added at the bottom, >= 0.
        color: a value per channel.
    """

    def __init__(self, x0: int, y0: int, x1: int, y1: int, color: Sequence[float]) -> None:
        super().__init__(x0, y0, x1, y1)
        self.color = tuple(color)

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Pad an image.

        Args:
            img: (H, W, C).

        Returns:
            (y0 + H + y1, x0 + W + x1, C).

        Raises:
            ValueError: the image has another number of channels than the color.
        """
        channels = img.shape[2]
        if channels != len(self.color):
            raise ValueError(f"color: expected {channels} channels, got {self.color}")
        border = (self.y0, self.y1, self.x0, self.x1)
        return cv2.copyMakeBorder(img, *border, cv2.BORDER_CONSTANT, value=self.color)


class MinIoURandomCrop(T.Augmentation):
    """Crop a random window that has a minimum IoU with every box and contains a box center.

    It draws one of these modes with equal probability (SSD, section 2.2): the whole image, a window
    without a minimum IoU, and one mode for each of ``min_ious``. The window's IoU with *all* boxes
    must reach that minimum. If none of 50 windows fits, it draws another mode.

    Like all transforms, it shifts boxes but neither clips nor drops them. The mapper does that, and
    it must pass the boxes to the augmentation: :class:`ranking_det.data.mapper.BoxMapper` does,
    Detectron2's DatasetMapper does not.

    Args:
        min_ious: the minimum IoUs, each in (0, 1].
        min_size: the smallest side of the window over the same side of the image, in (0, 1].
        aspect_ratio: the range of height / width of the window, above 0.

    Raises:
        ValueError: an argument is out of range.
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
                raise ValueError(f"{name}: expected a number in (0, 1], got {value!r}")
        _check_range("aspect_ratio", aspect_ratio)

    def get_transform(self, image: np.ndarray, boxes: np.ndarray | None) -> T.Transform:
        """Draw windows until one fits.

        Args:
            image: (H, W, C).
            boxes: (G, 4) XYXY in pixels of the image; G may be 0.

        Returns:
            The crop, or no transform.

        Raises:
            ValueError: the mapper does not pass the boxes.
        """
        if boxes is None:
            raise ValueError("boxes: expected an array (G, 4), as BoxMapper passes it, got None")
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
        """Draw a window XYXY in whole pixels; None if its shape does not fit."""
        rows = np.random.uniform(self.min_size * height, height)
        columns = np.random.uniform(self.min_size * width, width)
        if not self.aspect_ratio[0] <= rows / columns <= self.aspect_ratio[1]:
            return None
        left, top = np.random.uniform(0, width - columns), np.random.uniform(0, height - rows)
        x0, y0, x1, y1 = int(left), int(top), int(left + columns), int(top + rows)
        return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def centers_inside(boxes: np.ndarray, window: Sequence[float]) -> np.ndarray:
    """Find the boxes with their center inside a window, not on its edge.

    Args:
        boxes: (G, 4) XYXY.
        window: (4,) XYXY, in the same units.

    Returns:
        (G,) bool.
    """
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centers > window[:2]) & (centers < window[2:])).all(axis=1)


def _admits(window: tuple[int, int, int, int], boxes: np.ndarray, min_iou: float) -> bool:
    """Return whether a window has at least this IoU with every box and contains a box center."""
    if not len(boxes):
        return True
    corners = np.asarray(window, dtype=np.float64)
    shared = np.minimum(boxes[:, 2:], corners[2:]) - np.maximum(boxes[:, :2], corners[:2])
    overlap = shared.clip(min=0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (corners[2:] - corners[:2]).prod()
    ious = overlap / (areas - overlap)
    return bool(ious.min() >= min_iou and centers_inside(boxes, corners).any())


def _change_colors(image: np.ndarray, saturation: float, hue: float) -> np.ndarray:
    """Scale the saturation and shift the hue by degrees, for a float32 image of any range.

    It treats the image as RGB. For a BGR image the hue shifts in the opposite direction, which does
    not matter, because both directions are equally likely.
    """
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)  # for floats: H in 0..360, S in 0..1, V unscaled
    hsv[..., 0] = (hsv[..., 0] + hue) % 360
    hsv[..., 1] *= saturation
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _check_range(name: str, value: Range, low: float = 0.0) -> None:
    if len(value) != 2 or not low <= value[0] <= value[1] or value[0] <= 0:
        bound = f">= {low:g}" if low else "> 0"
        raise ValueError(f"{name}: expected two ascending numbers {bound}, got {tuple(value)}")


def _check_probability(prob: float) -> None:
    if not 0 <= prob <= 1:
        raise ValueError(f"prob: expected a number in [0, 1], got {prob!r}")
