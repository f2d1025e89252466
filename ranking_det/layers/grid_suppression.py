"""Suppression of duplicate masks on a grid: matrix NMS and points NMS, as in SOLOv2.

Shapes: n candidates of one image, masks of h x w pixels, N images, K classes, S x S cells.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ranking_det.checks import check_at_least, check_choice, check_entries, check_that


def matrix_nms(
    masks: Tensor, scores: Tensor, classes: Tensor, *, kernel: str = "gaussian", sigma: float = 2.0
) -> Tensor:
    """Lower the scores of masks that overlap higher-scored masks of their class, all at once.

    Matrix NMS (Wang et al., SOLOv2, NeurIPS 2020, section 3.3.3). The score of j is multiplied by
    the minimum over the higher-scored masks i of its class of f(IoU_ij) / f(c_i), where c_i is the
    highest IoU of i with a mask above it: a mask that is suppressed itself suppresses less. Masks
    with equal scores are in the order of their rows. An empty mask overlaps nothing.

    Args:
        masks: (n, h, w) bool.
        scores: (n,) float, >= 0.
        classes: (n,) int64.
        kernel: f. "gaussian": exp(-sigma IoU^2). "linear": 1 - IoU; a mask that is equal to one
            above it suppresses nothing then, because f(c_i) is 0 and the other one suppresses the
            same masks.
        sigma: width of the Gaussian, > 0; with a larger value, overlapping masks lose more.

    Returns:
        (n,) lowered scores, float32 or better, in the order of ``scores``.

    Raises:
        ValueError: an argument is not as described.

    >>> masks = torch.tensor([[[1, 1, 1, 0]], [[1, 1, 0, 0]], [[0, 0, 0, 1]]]).bool()
    >>> matrix_nms(masks, torch.tensor([.9, .6, .5]), torch.tensor([0, 0, 0]), kernel="linear")
    tensor([0.9000, 0.2000, 0.5000])
    """
    check_that(masks.dim() == 3 and masks.dtype == torch.bool, "masks", "bool (n, h, w)", masks)
    check_entries("scores", scores, masks, "mask")
    check_entries("classes", classes, masks, "mask", integer=True)
    check_choice("kernel", kernel, ("gaussian", "linear"))
    check_at_least("sigma", sigma, 0.0, strictly=True)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if not len(masks):
        return scores
    order = scores.argsort(descending=True, stable=True)
    flat = masks[order].flatten(1).to(torch.float32)  # exact for masks of up to 16 million pixels
    area, label = flat.sum(dim=1), classes[order]
    overlap = flat @ flat.T
    iou = overlap / (area[:, None] + area - overlap).clamp(min=1)
    # iou[i, j] is that of j with a mask i above it, or 0.
    is_above = (label[:, None] == label).triu(diagonal=1)
    iou = torch.where(is_above, iou, 0.0)
    highest = iou.amax(dim=0)[:, None]
    if kernel == "gaussian":
        factors = torch.exp(sigma * (highest.square() - iou.square()))
    else:
        factors = (1 - iou) / torch.where(highest < 1, 1 - highest, 1.0)
        factors = factors.masked_fill(highest >= 1, 1.0)
    factor = torch.where(is_above, factors, 1.0).amin(dim=0)
    return torch.empty_like(scores).scatter(0, order, scores[order] * factor)


def points_nms(scores: Tensor) -> Tensor:
    """Keep the scores of cells that are local maxima; set all others to 0.

    A cell is a local maximum of a class if the cells above it, to its left, and above and to the
    left have no higher score of the class: the 2 x 2 maximum of the authors' code of SOLOv2 (Wang
    et al., NeurIPS 2020).

    Args:
        scores: (N, K, S, S), >= 0.

    Returns:
        (N, K, S, S), the scores of local maxima, and 0.

    >>> points_nms(torch.tensor([[[[.3, .2], [.1, .4]]]]))
    tensor([[[[0.3000, 0.0000],
              [0.0000, 0.4000]]]])
    """
    highest = functional.max_pool2d(scores, kernel_size=2, stride=1, padding=1)[..., :-1, :-1]
    return torch.where(scores == highest, scores, 0.0)
