"""Center region: assign grid cells to the objects in whose center they are, as in SOLOv2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ranking_det.assigners.assignment import Assigner, ImageInputs, unmatched
from ranking_det.checks import check_at_least, check_that
from ranking_det.labels import BACKGROUND
from ranking_det.row_blocks import blocks

SCALE_RANGES = ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))
"""The scale ranges of SOLO in pixels, for images with a short edge of 800 pixels."""


class CenterRegion(Assigner):
    """Assign the cells in the central region of an object (SOLO, Wang et al., ECCV 2020, sec. 3.3).

    The anchors of a level are the cells of a grid over the whole image: its first cell starts at
    (0, 0), and all its cells have the same size. An object is on every level whose range contains
    its scale, sqrt(width x height), so it may be on two levels. Its cells on a level are the cell
    that contains its center and those of the eight around it that touch its central region. The
    sides of the region are ``region`` times the object's. All other cells are background.

    The center of an object is the center of its box. SOLO uses the center of mass of its mask: a
    detector with masks gives boxes of the same size around this point.

    Args:
        scale_ranges: for each level the lowest and the highest scale in pixels, both included.
        region: sides of the central region relative to the object's, >= 0.
        shared: which object gets a cell in the regions of several. False: the first, as in Rank &
            Sort Loss (Oksuz et al., ICCV 2021). True: the last one determines the class, and
            :meth:`all_claims` gives all of them, because SOLO trains one mask for each.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        scale_ranges: Sequence[Sequence[float]] = SCALE_RANGES,
        region: float = 0.2,
        shared: bool = False,
    ) -> None:
        super().__init__()
        check_at_least("region", region, 0.0)
        ranges = [tuple(limits) for limits in scale_ranges]
        is_valid = all(len(limits) == 2 and 0 <= limits[0] <= limits[1] for limits in ranges)
        check_that(is_valid, "scale_ranges", "a pair 0 <= low <= high for each level", ranges)
        self.scale_ranges = ranges
        self.region = region
        self.shared = shared

    @property
    def num_levels(self) -> int:
        """The number of feature levels, one for each range."""
        return len(self.scale_ranges)

    def match(self, image: ImageInputs) -> Tensor:
        """Match the cells of one image.

        Args:
            image: its cells and objects.

        Returns:
            (R,) int64: the object 0..G-1 of each cell, or BACKGROUND.

        Raises:
            ValueError: the number of levels does not fit the ranges.
        """
        matched = unmatched(image.valid)
        for rows in blocks(len(image.gt_boxes), len(matched)):
            claims = self._claims(image.anchors, image.gt_boxes[rows]) & image.valid
            order = torch.arange(rows.start, rows.stop, device=claims.device)[:, None]
            if self.shared:
                last = torch.where(claims, order, BACKGROUND).amax(dim=0)
                matched = torch.maximum(matched, last)
            else:
                first = torch.where(claims, order, rows.stop).amin(dim=0)
                is_new = (first < rows.stop) & (matched == BACKGROUND)
                matched = torch.where(is_new, first, matched)
        return matched

    @torch.no_grad()
    def all_claims(self, anchors: Sequence[Tensor], gt_boxes: Sequence[Tensor]) -> Tensor:
        """List the cells of each object of a batch, including the cells of several objects.

        Args:
            anchors: for each level (R_l, 4) XYXY cells in pixels, the same for every image.
            gt_boxes: for each image (G_i, 4) XYXY boxes in pixels; G_i may be 0.

        Returns:
            (n, 2) int64: a row of the batch and an object as an index into the batch's concatenated
            ground truth, by row and then by object.

        Raises:
            ValueError: the number of levels does not fit the ranges.
        """
        pairs, first_row, first_object = [], 0, 0
        for boxes in gt_boxes:
            claims = self._claims(anchors, boxes)
            rows, objects = claims.T.nonzero(as_tuple=True)
            pairs.append(torch.stack([rows + first_row, objects + first_object], dim=1))
            first_row, first_object = first_row + claims.shape[1], first_object + len(boxes)
        return torch.cat(pairs)

    def _claims(self, anchors: Sequence[Tensor], gt_boxes: Tensor) -> Tensor:
        """Return which cells of an image are in the central region of each object: (G, R) bool."""
        expected = f"{self.num_levels} levels, one for each of scale_ranges"
        check_that(len(anchors) == self.num_levels, "anchors", expected, len(anchors))
        sides = gt_boxes[:, 2:] - gt_boxes[:, :2]
        centers, half = (gt_boxes[:, :2] + gt_boxes[:, 2:]) / 2, sides * (self.region / 2)
        scale = sides.prod(dim=1).sqrt()
        levels = []
        for cells, (low, high) in zip(anchors, self.scale_ranges, strict=True):
            if not len(cells):
                continue
            # From the extent of the grid, because the sides of a cell are rounded. A center on the
            # border of two cells is then in the same cell on every device.
            cell_sides, extent = cells[:, 2:] - cells[:, :2], cells[:, 2:].amax(dim=0)
            index = (cells[:, :2] / cell_sides).round()
            numbers = (extent / cell_sides[0]).round()
            middle, first, last = (
                (points * numbers / extent).floor()[:, None]
                for points in (centers, centers - half, centers + half)
            )
            is_near = index >= torch.maximum(first, middle - 1)
            is_near &= index <= torch.minimum(last, middle + 1)
            in_range = (scale >= low) & (scale <= high)
            levels.append(is_near.all(dim=2) & in_range[:, None])
        return torch.cat([gt_boxes.new_zeros(len(gt_boxes), 0, dtype=torch.bool), *levels], dim=1)
