"""The three ranking losses of RankDetNet, and the mining of their negatives.

Equation numbers refer to "RankDetNet: Delving into Ranking Constraints for Object Detection"
(Liu et al., CVPR 2021). f is an object confidence: a probability, or a logit if you pass logits.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ranking_det.checks import (
    check_at_least,
    check_choice,
    check_entries,
    check_integer,
    check_labels,
    check_vector,
)
from ranking_det.labels import IGNORE
from ranking_det.losses.kernels import constants
from ranking_det.losses.kernels.gradients import (
    LossTerm,
    attach_gradients,
    exact_arithmetic,
    zero_loss,
)
from ranking_det.losses.kernels.ranked_groups import bin_negatives, rank_groups
from ranking_det.row_blocks import blocks

DISTANCES = ("exp", "sigmoid", "logistic")


def global_ranking_loss(
    foreground: Tensor, background: Tensor, *, distance: str = "exp", reweight: bool = True
) -> Tensor:
    """Rank every foreground sample above every background sample.

    The loss is the sum over all pairs of z l(f_n - f_p), where the weight z is l divided by the sum
    of l over all pairs, without gradient (eq. 2 and 3). The worst-ranked pairs therefore have the
    largest weights. O(P + N) time for "exp", otherwise O(P N) time in blocks of bounded memory.

    Args:
        foreground: (P,) float, f of each positive in its own class.
        background: (N,) float, f of each negative, its highest over the classes; -inf is ignored.
        distance: l, one of "exp" (e^x), "sigmoid" or "logistic" (softplus).
        reweight: True for the sum weighted by z, False for the mean over pairs.

    Returns:
        A scalar >= 0. A zero attached to the graph if there is no pair.

    Raises:
        ValueError: a shape, dtype, device or option is not as described.

    Example:
        >>> foreground, background = torch.tensor([0.7, 0.4]), torch.tensor([0.5, 0.2, 0.1])
        >>> print(f"{global_ranking_loss(foreground, background):.6f}")
        0.814852
    """
    check_vector("foreground", foreground)
    check_vector("background", background, reference=foreground)
    check_choice("distance", distance, DISTANCES)
    all_logits = torch.cat([foreground, background])
    if len(foreground) == 0 or len(background) == 0:
        return zero_loss(all_logits)
    with exact_arithmetic(all_logits):
        dtype = torch.promote_types(all_logits.dtype, torch.float32)
        low, high = background.detach().to(dtype), foreground.detach().to(dtype)
        group = torch.zeros_like(high, dtype=torch.int64)
        value, at_high, at_low = rank_groups(high, group, low[None], distance, reweight)
        term = LossTerm(value[0], torch.cat([at_high, at_low[0]]))
    return attach_gradients(all_logits, term)[0]


def class_specific_ranking_loss(
    scores: Tensor,
    labels: Tensor,
    positives: Tensor | None = None,
    image: Tensor | None = None,
    *,
    num_images: int = 1,
    negatives: str = "group",
    ratio: int = 3,
    groups: int = 3,
    distance: str = "exp",
    reweight: bool = True,
) -> Tensor:
    """Rank the positives of each class above all other rows, in the channel of that class.

    For each class c with a positive, this is the global ranking loss in channel c, between the
    positives of c and negatives mined from all other rows (eq. 4 and 5). Each image is ranked
    separately, and the loss is the sum over classes and images.

    O(R) time for each pair of an image and a class with a positive, without a loop over classes.
    O(R K) memory for the gradient, plus one block of scores. Host and GPU are synchronized once,
    regardless of the number of images and classes.

    Args:
        scores: (R, K) float, f of each candidate in each class. Negatives of -inf are ignored.
        labels: (R,) int64, a class 0..K-1, or BACKGROUND, or IGNORE for rows that do not count.
        positives: (P,) int64, the rows that have a class, ascending; None to find them in
            ``labels``.
        image: (R,) int64, ascending, the image 0..num_images-1 of each row; None for one image.
        num_images: number of images, >= 1.
        negatives: "group" (:func:`group_negatives`) or "ohem" (:func:`hardest_negatives`).
        ratio: with "ohem", the number of negatives for each positive, >= 1.
        groups: with "group", the number of groups, >= 1.
        distance: l, one of "exp", "sigmoid" or "logistic"; see :func:`global_ranking_loss`.
        reweight: True to weight pairs by z; see :func:`global_ranking_loss`.

    Returns:
        A scalar >= 0. A zero attached to the graph without positives.

    Raises:
        ValueError: a shape, dtype, device, option or value is not as described.

    Example:
        >>> scores = torch.tensor([[0.7], [0.4], [0.5], [0.2], [0.1]])
        >>> labels = torch.tensor([0, 0, -1, -1, -1])
        >>> print(f"{class_specific_ranking_loss(scores, labels, negatives='ohem'):.6f}")
        0.814852
    """
    check_labels("scores", scores, labels)
    check_choice("negatives", negatives, ("group", "ohem"))
    check_choice("distance", distance, DISTANCES)
    check_integer("ratio", ratio, 1)
    check_integer("groups", groups, 1)
    rows = torch.nonzero(labels >= 0).squeeze(1) if positives is None else positives
    image = torch.zeros_like(labels) if image is None else image
    check_entries("image", image, labels, "row", integer=True)
    flat = scores.reshape(-1)
    if len(rows) == 0:
        return zero_loss(flat)
    ranking = _Ranking(negatives, ratio, groups, distance, reweight)
    with exact_arithmetic(flat):
        layout = _lay_out(labels, rows, image, num_images, scores.shape[1])
        dtype = torch.promote_types(flat.dtype, torch.float32)
        gradient = torch.zeros_like(flat, dtype=dtype)
        value = gradient.new_zeros(())
        for pairs in blocks(len(layout.key), layout.longest, constants.ELEMENTS):
            value += _rank_pairs(scores.detach(), labels, layout, pairs, ranking, gradient)
    return attach_gradients(flat, LossTerm(value, gradient))[0]


def iou_guided_ranking_loss(
    scores: Tensor,
    ious: Tensor,
    groups: Tensor,
    *,
    alpha: float = 1.0,
    iou_gradient: str = "higher",
    reduction: str = "sum",
    image: Tensor | None = None,
    num_images: int = 1,
) -> Tensor:
    """Align the order of the positives' scores with the order of their IoUs.

    Each pair of positives of one group contributes exp(-alpha (f_a - f_b) (s_a - s_b)), where a has
    the higher score and b the lower. The loss is the mean over the pairs of a group, summed over
    the groups (eq. 6). O(P S) time with S positives in the largest group, in blocks of bounded
    memory. Host and GPU are synchronized once.

    Args:
        scores: (P,) float, f of each positive in its own class.
        ious: (P,) float, s, the IoU of each positive with its object; with gradient.
        groups: (P,) int64, the group of each positive. Only positives of the same group are
            compared; in the paper a group is one class on one level.
        alpha: sharpness, > 0.
        iou_gradient: which IoU of a pair has a gradient: the IoU of the "higher" score, "both" or
            "none".
        reduction: "sum" over the groups, or "mean" over the groups that have a pair.
        image: (P,) int64, the image of each positive, for a mean within each image and the sum over
            the images; all positives of a group are in one image. None for one image.
        num_images: number of images, with ``image``.

    Returns:
        A scalar >= 0. A zero attached to the graph if there is no pair.

    Raises:
        ValueError: a shape, dtype, device, option or value is not as described.

    Example:
        >>> scores, ious = torch.tensor([0.7, 0.4]), torch.tensor([0.5, 0.8])
        >>> print(f"{iou_guided_ranking_loss(scores, ious, torch.zeros(2, dtype=torch.int64)):.4f}")
        1.0942
    """
    check_vector("scores", scores)
    check_entries("ious", ious, scores, "score")
    check_entries("groups", groups, scores, "score", integer=True)
    check_at_least("alpha", alpha, 0.0, strictly=True)
    check_choice("iou_gradient", iou_gradient, ("higher", "both", "none"))
    check_choice("reduction", reduction, ("sum", "mean"))
    inputs = torch.cat([scores, ious])
    if len(scores) == 0:
        return zero_loss(inputs)
    with exact_arithmetic(inputs):
        dtype = torch.promote_types(inputs.dtype, torch.float32)
        groups, order = torch.sort(groups, stable=True)
        f, s = scores.detach().to(dtype)[order], ious.detach().to(dtype)[order]
        first = torch.searchsorted(groups, groups)
        last = torch.searchsorted(groups, groups, right=True)
        size = last - first
        pairs = (size * (size - 1) // 2).to(dtype)
        weights = (1 / pairs).masked_fill_(pairs == 0, 0)
        if reduction == "mean":
            starts = (first == torch.arange(len(f), device=f.device)) & (weights > 0)
            image = torch.zeros_like(groups) if image is None else image[order]
            counts = f.new_zeros(num_images).index_add_(0, image, starts.to(dtype))
            weights = weights / counts[image].clamp_min(1)
        value, *gradients = _visit_pairs(f, s, first, last, weights, alpha, iou_gradient)
        inverse_order = torch.argsort(order)
        term = LossTerm(value, torch.cat([gradient[inverse_order] for gradient in gradients]))
    return attach_gradients(inputs, term)[0]


class _Ranking(NamedTuple):
    """The options of :func:`class_specific_ranking_loss`."""

    negatives: str
    ratio: int
    groups: int
    distance: str
    reweight: bool


class _Layout(NamedTuple):
    """The rows and positives of G pairs (an image, a class with a positive in it).

    Attributes:
        bounds: (N + 1,) int64, the first row of each image, then the number of rows.
        longest: the number of rows of the largest image.
        positives: (P,) int64, the rows of the positives, in the order of the pairs.
        pair: (P,) int64, the pair of each positive, 0..G-1.
        key: (G,) int64, image times K plus class of each pair.
        starts: G + 1 integers on the host, the first positive of each pair, then P.
    """

    bounds: Tensor
    longest: int
    positives: Tensor
    pair: Tensor
    key: Tensor
    starts: list[int]


def _lay_out(
    labels: Tensor, rows: Tensor, image: Tensor, num_images: int, num_classes: int
) -> _Layout:
    """Sort the positives by image and class and find where each pair begins."""
    key, order = torch.sort(image[rows] * num_classes + labels[rows], stable=True)
    bounds = torch.searchsorted(image, torch.arange(num_images + 1, device=image.device))
    first = torch.searchsorted(key, key)
    # The only synchronization of host and device.
    on_host = torch.cat([bounds, first]).tolist()
    ends, starts = on_host[: num_images + 1], sorted(set(on_host[num_images + 1 :]))
    pair = (first == torch.arange(len(key), device=key.device)).cumsum(0) - 1
    return _Layout(
        bounds,
        max(end - start for start, end in zip(ends, ends[1:], strict=False)),
        rows[order],
        pair,
        key.new_empty(len(starts)).scatter_(0, pair, key),
        starts + [len(rows)],
    )


def _rank_pairs(
    scores: Tensor,
    labels: Tensor,
    layout: _Layout,
    pairs: slice,
    ranking: _Ranking,
    gradient: Tensor,
) -> Tensor:
    """Return the loss of some pairs, and add its gradient to ``gradient``, (R K,)."""
    num_rows, num_classes = scores.shape
    key, starts = layout.key[pairs], layout.starts[pairs.start : pairs.stop + 1]
    image, label = key // num_classes, (key % num_classes)[:, None]
    rows = layout.bounds[image, None] + torch.arange(layout.longest, device=key.device)
    excluded = rows >= layout.bounds[image + 1, None]
    rows.clamp_(max=num_rows - 1)
    row_labels = labels[rows]
    excluded |= (row_labels == label) | (row_labels == IGNORE)
    entries = rows.mul_(num_classes).add_(label)
    flat = scores.reshape(-1)
    low = flat[entries].to(gradient.dtype).masked_fill_(excluded, -torch.inf)

    positives = layout.positives[starts[0] : starts[-1]]
    group = layout.pair[starts[0] : starts[-1]] - pairs.start
    positive_entries = positives * num_classes + labels[positives]
    max_positives = max(end - start for start, end in zip(starts, starts[1:], strict=False))
    high = flat[positive_entries].to(gradient.dtype)
    value, at_high, at_low = _rank_mined(high, group, low, max_positives, ranking)
    # Add instead of assigning: padding rows, with a gradient of 0, are rows of other images.
    gradient.scatter_add_(0, entries.view(-1), at_low.view(-1))
    gradient.scatter_add_(0, positive_entries, at_high)
    return value


def _rank_mined(
    high: Tensor, group: Tensor, low: Tensor, max_positives: int, ranking: _Ranking
) -> tuple[Tensor, Tensor, Tensor]:
    """Mine negatives and rank the positives above them, for G rankings.

    ``max_positives`` is the number of positives of the largest ranking. Returns the sum of the
    values, and the gradients (P,) with respect to ``high`` and (G, N) with respect to ``low``.
    """
    if ranking.negatives == "group":
        bins = bin_negatives(low, ranking.groups)
        mined = bins.means
    else:
        mined, index = low.topk(min(ranking.ratio * max_positives, low.shape[1]), dim=1)
        positives = torch.zeros_like(index[:, 0]).index_add_(0, group, torch.ones_like(group))
        rank = torch.arange(mined.shape[1], device=mined.device)
        mined.masked_fill_(rank >= ranking.ratio * positives[:, None], -torch.inf)
    values, at_high, at_mined = rank_groups(high, group, mined, ranking.distance, ranking.reweight)
    if ranking.negatives == "group":
        at_low = bins.share(at_mined).masked_fill_(low == -torch.inf, 0)
    else:
        at_low = torch.zeros_like(low).scatter_(1, index, at_mined)
    return values.sum(), at_high, at_low


def _visit_pairs(
    f: Tensor,
    s: Tensor,
    first: Tensor,
    last: Tensor,
    weights: Tensor,
    alpha: float,
    iou_gradient: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the IoU-guided loss, the gradient at f and the gradient at s, in blocks of pairs.

    Each positive is compared with its group, the positives from ``first`` to ``last`` - 1.
    """
    value, at_f, at_s = f.new_zeros(()), torch.zeros_like(f), torch.zeros_like(s)
    # The only synchronization of host and device.
    largest = int((last - first).max())
    for rows in blocks(len(f), largest, constants.PAIRS):
        columns = first[rows, None] + torch.arange(largest, device=f.device)
        excluded = columns >= last[rows, None]
        columns.clamp_(max=len(f) - 1)
        df, ds = f[rows, None] - f[columns], s[rows, None] - s[columns]
        loss = (-alpha * df * ds).clamp_(max=constants.MAX_EXPONENT).exp_()
        loss.mul_(weights[rows, None]).masked_fill_(excluded, 0)
        # Each pair was visited in both orders, and each positive with itself, where l = 1.
        value += (loss.sum() - weights[rows].sum()) / 2
        at_f[rows] = -alpha * (loss * ds).sum(1)
        if iou_gradient == "higher":
            loss.masked_fill_(df < 0, 0)
        if iou_gradient != "none":
            at_s[rows] = -alpha * (loss * df).sum(1)
    return value, at_f, at_s


def hardest_negatives(scores: Tensor, count: int) -> Tensor:
    """Select the highest-scored negatives (OHEM, online hard example mining).

    Args:
        scores: (N,) float, f of the negatives.
        count: number of negatives to select, >= 0.

    Returns:
        (min(count, N),) float in descending order, with gradient. -inf comes last; the losses
        ignore it.

    Raises:
        ValueError: a shape, dtype or value is not as described.

    Example:
        >>> hardest_negatives(torch.tensor([0.1, 0.9, 0.5]), 2)
        tensor([0.9000, 0.5000])
    """
    check_vector("scores", scores)
    check_integer("count", count, 0)
    return torch.topk(scores, min(count, len(scores))).values


def group_negatives(scores: Tensor, groups: int, *, equal_count: bool = False) -> Tensor:
    """Replace the negatives by group means: sort their scores, cut them into groups, average each.

    Args:
        scores: (N,) float, f of the negatives; -inf is ignored.
        groups: number of groups, >= 1. RankDetNet uses 15 over all classes and 3 within one class.
        equal_count: True for groups of equally many scores, False for bins of equal width.

    Returns:
        (at most ``groups``,) float in ascending order, without empty groups, with gradient.

    Raises:
        ValueError: a shape, dtype or value is not as described.

    Example:
        >>> group_negatives(torch.tensor([0.0, 0.2, 0.4, 1.0]), 2)
        tensor([0.2000, 1.0000])
    """
    check_vector("scores", scores)
    check_integer("groups", groups, 1)
    if len(scores) == 0:
        return scores
    # In half precision a sum of many scores would stop growing.
    values = scores.to(torch.promote_types(scores.dtype, torch.float32))
    bins = bin_negatives(values[None], groups, equal_count)
    return bins.means[bins.counts > 0]
