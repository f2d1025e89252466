"""FCOS: assign locations to the objects that contain them (Tian et al., ICCV 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ranking_det.assigners.assignment import Assigner, ImageInputs, unmatched
from ranking_det.checks import check_at_least, check_that
from ranking_det.row_blocks import blocks


class FCOS(Assigner):
    """Assign locations near the center of an object, on the feature level of the object's size.

    A location is the center of an anchor of 8 strides. It is positive for an object if it meets
    three conditions (Tian et al., FCOS, ICCV 2019, section 3):

    - It is strictly inside the object's box.
    - It is strictly inside the square of ``center_radius`` strides around the object's center
      (center sampling).
    - The largest of its four distances to the sides of the box is in the range of its level.

    A location that is positive for several objects is assigned to the smallest one by area; ties
    go to the first. All other locations are background.

    Unlike the paper, a distance on the border of two ranges belongs to the lower level only.

    Args:
        center_radius: half the side of the square in strides, >= 0; 0 for the whole box, without
            center sampling, as in the first version of the paper.
        size_ranges: the largest distance in pixels of each level except the last, > 0 and
            ascending; the last level has no limit.

    Raises:
        ValueError: an argument is out of range.
    """

    one_per_location = True
    STRIDES_PER_SIDE = 8

    def __init__(
        self, center_radius: float = 1.5, size_ranges: Sequence[float] = (64, 128, 256, 512)
    ) -> None:
        super().__init__()
        check_at_least("center_radius", center_radius, 0)
        limits = [0.0, *size_ranges]
        ascending = all(low < high for low, high in zip(limits, limits[1:], strict=False))
        check_that(ascending, "size_ranges", "ascending numbers above 0", size_ranges)
        self.center_radius = center_radius
        self.size_ranges = tuple(size_ranges)

    @property
    def num_levels(self) -> int:
        """The number of feature levels, one more than there are ranges."""
        return len(self.size_ranges) + 1

    def match(self, image: ImageInputs) -> Tensor:
        """Match the locations of one image.

        Args:
            image: the candidates and objects of the image.

        Returns:
            (R,) int64: the index 0..G-1 of the object, BACKGROUND or IGNORE.

        Raises:
            ValueError: the number of levels does not fit the ranges, or anchors are not square
                (checked on the CPU only: on a GPU it would force a synchronization).
        """
        anchors, gt_boxes, valid = image.anchors, image.gt_boxes, image.valid
        self._check_anchors(anchors)
        matched = unmatched(valid)
        boxes = torch.cat(list(anchors))
        points = (boxes[:, :2] + boxes[:, 2:]) / 2
        radius = (boxes[:, 2] - boxes[:, 0]) * (self.center_radius / self.STRIDES_PER_SIDE)
        limits = (0.0, *self.size_ranges, torch.inf)
        low, high = (
            torch.cat([torch.full_like(a[:, 0], b) for a, b in zip(anchors, bounds, strict=True)])
            for bounds in (limits[:-1], limits[1:])
        )
        smallest = torch.full_like(radius, torch.inf)
        for rows in blocks(len(gt_boxes), len(boxes)):
            inside, largest = self._distances(points, radius, gt_boxes[rows])
            is_positive = inside & (largest > low) & (largest <= high) & valid
            sides = gt_boxes[rows, 2:] - gt_boxes[rows, :2]
            area = sides.prod(dim=1, keepdim=True).to(radius.dtype)
            value, row = torch.where(is_positive, area, torch.inf).min(dim=0)
            smaller = value < smallest
            smallest = torch.where(smaller, value, smallest)
            matched = torch.where(smaller, row + rows.start, matched)
        return matched

    def _distances(self, points: Tensor, radius: Tensor, gt_boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return whether each point (R, 2) is inside each object, and its largest distance.

        Both are (G, R). The distance is the largest of the four to the sides of the object's box.
        """
        x, y = points.unbind(dim=1)
        x1, y1, x2, y2 = gt_boxes[:, :, None].unbind(dim=1)
        nearest = x - x1
        largest = nearest
        for distance in (y - y1, x2 - x, y2 - y):
            nearest = torch.minimum(nearest, distance)
            largest = torch.maximum(largest, distance)
        inside = nearest > 0
        if self.center_radius:
            inside &= (x - (x1 + x2) / 2).abs_() < radius
            inside &= (y - (y1 + y2) / 2).abs_() < radius
        return inside, largest

    def _check_anchors(self, anchors: Sequence[Tensor]) -> None:
        expected = f"{self.num_levels} levels, one more than size_ranges {self.size_ranges}"
        check_that(len(anchors) == self.num_levels, "anchors", expected, len(anchors))
        for i, boxes in enumerate(anchors):
            width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(dim=1)
            if boxes.device.type == "cpu" and bool(((width - height).abs() > 1e-3 * width).any()):
                worst = int((width - height).abs().argmax())
                raise ValueError(
                    f"anchors[{i}]: expected square anchors of 8 strides, one per cell, got one of "
                    f"{float(width[worst]):g} x {float(height[worst]):g}"
                )
