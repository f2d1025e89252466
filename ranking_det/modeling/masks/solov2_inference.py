"""Inference of SOLOv2: points NMS, score threshold, masks, matrix NMS.

Shapes: R cells of all levels of one image, K classes, E channels of the mask features of h x w
pixels, k detections of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ranking_det.checks import check_at_least, check_choice, check_integer
from ranking_det.layers import matrix_nms, points_nms
from ranking_det.modeling.feature_maps import flatten_level
from ranking_det.modeling.threshold_watch import THRESHOLD_KEYS, count_boxes, count_detections
from ranking_det.row_blocks import blocks

__all__ = ["SOLOv2Inference"]

THRESHOLD = f"{THRESHOLD_KEYS[0]} (yaml: MODEL.INFERENCE.SCORE_THRESH)"


class MaskDetections(NamedTuple):
    """The detections of one image, by descending score."""

    masks: Tensor
    """(k, h, w) float32, the probability of each pixel."""
    scores: Tensor
    """(k,) float32 in [0, 1]."""
    classes: Tensor
    """(k,) int64 in [0, K)."""


class SOLOv2Inference(nn.Module):
    """Post-processing of SOLOv2: select cells by score, draw their masks, suppress duplicates.

    A cell is a candidate for a class if its score, sigmoid(logit), is a local maximum and above the
    threshold, and if its mask is large enough. Its score is then multiplied by the mean probability
    of the pixels of the mask (Wang et al., NeurIPS 2020).

    Args:
        score_thresh: score threshold in [0, 1] of the cells; .1 in the paper, .2 with Rank & Sort
            Loss. The scores of ranking losses have no fixed scale, so 0 is the safe value for short
            training runs.
        topk: candidates with the highest scores that matrix NMS gets, >= 1.
        kernel: "gaussian" or "linear"; see :func:`ranking_det.layers.matrix_nms`.
        sigma: width of the Gaussian, > 0.
        min_score: drop detections whose lowered score is below this, in [0, 1].
        mask_thresh: probability above which a pixel belongs to a mask, in [0, 1].
        min_area: a candidate needs more mask pixels than this times the stride of its level, >= 0;
            1 in the authors' code. A mask has a quarter of the sides of the image, so with 1 and a
            stride of 8 an object needs more than 128 pixels of the image: too many for small
            images.
        max_detections: detections kept per image, >= 1.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        score_thresh: float = 0.1,
        topk: int = 500,
        kernel: str = "gaussian",
        sigma: float = 2.0,
        min_score: float = 0.05,
        mask_thresh: float = 0.5,
        min_area: float = 1.0,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        thresholds = {"score_thresh": score_thresh, "min_score": min_score}
        for name, value in (thresholds | {"mask_thresh": mask_thresh}).items():
            check_at_least(name, value, 0.0)
            if value > 1:
                raise ValueError(f"{name}: expected a number of at most 1, got {value!r}")
        check_at_least("min_area", min_area, 0.0)
        check_integer("topk", topk, 1)
        check_choice("kernel", kernel, ("gaussian", "linear"))
        check_at_least("sigma", sigma, 0.0, strictly=True)
        check_integer("max_detections", max_detections, 1)
        self.score_thresh = score_thresh
        self.topk = topk
        self.kernel = kernel
        self.sigma = sigma
        self.min_score = min_score
        self.mask_thresh = mask_thresh
        self.min_area = min_area
        self.max_detections = max_detections

    def extra_repr(self) -> str:
        """Show the options in ``repr``."""
        options = {k: v for k, v in vars(self).items() if k[0] != "_" and k != "training"}
        return ", ".join(f"{name}={value!r}" for name, value in options.items())

    def forward(
        self, logits: Sequence[Tensor], kernels: Sequence[Tensor], features: Tensor, strides: Tensor
    ) -> MaskDetections:
        """Detect the objects of one image.

        Args:
            logits: one tensor (K, S, S) per level, raw class scores.
            kernels: one tensor (E, S, S) per level.
            features: (E, h, w), the mask features.
            strides: (R,), the stride of the level of each cell.

        Returns:
            At most ``max_detections`` detections.
        """
        # In float32, because sigmoids in float16 and bfloat16 make thousands of scores equal.
        maps = [level[None].float().sigmoid() for level in logits]
        rows = [flatten_level(points_nms(level), level.shape[1])[0] for level in maps]
        scores = torch.cat(rows)
        count_boxes(scores, self.score_thresh, THRESHOLD)
        cells, classes = (scores > self.score_thresh).nonzero(as_tuple=True)
        scores = scores[cells, classes]
        cell_kernels = torch.cat([level.flatten(1).T for level in kernels]).float()
        features = features.float()
        # A cell may be a candidate for several classes, with the same mask.
        drawn, index = cells.unique(return_inverse=True)
        areas, means = self._measure(cell_kernels[drawn], features)
        scores = scores * means[index]
        large = (areas > self.min_area * strides[drawn])[index].nonzero().squeeze(1)
        scores, best = scores[large].topk(min(self.topk, len(large)))
        cells, classes = cells[large[best]], classes[large[best]]
        masks = draw_masks(cell_kernels[cells], features).sigmoid()
        options = {"kernel": self.kernel, "sigma": self.sigma}
        scores = matrix_nms(masks > self.mask_thresh, scores, classes, **options)
        scores, best = scores.topk(min(self.max_detections, len(scores)))
        best = best[scores >= self.min_score]
        count_detections(len(best))
        return MaskDetections(masks[best], scores[: len(best)], classes[best])

    def _measure(self, kernels: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the area (n,) of masks in pixels, and the mean probability (n,) of their pixels.

        In blocks, because with a threshold of 0 most cells are candidates.
        """
        areas, sums = [kernels.new_zeros(0)], [kernels.new_zeros(0)]
        for block in blocks(len(kernels), features[0].numel()):
            probabilities = draw_masks(kernels[block], features).sigmoid().flatten(1)
            inside = probabilities > self.mask_thresh
            areas.append(inside.sum(dim=1).to(kernels.dtype))
            sums.append(torch.where(inside, probabilities, 0.0).sum(dim=1))
        area = torch.cat(areas)
        return area, torch.cat(sums) / area.clamp(min=1)


def draw_masks(kernels: Tensor, features: Tensor) -> Tensor:
    """Draw the masks of n cells of one image: a 1x1 convolution of the mask features.

    Args:
        kernels: (n, E), the weights of each cell.
        features: (E, h, w).

    Returns:
        (n, h, w) logits.
    """
    return (kernels @ features.flatten(1)).view(-1, *features.shape[1:])
