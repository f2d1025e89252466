"""Global and class-specific ranking losses of RankDetNet, and the choice of their negatives.

Equations are those of "RankDetNet: Delving into Ranking Constraints for Object Detection" (Liu et
al., CVPR 2021). f is an object confidence: a probability, or a logit if the caller passes logits.
"""

import torch
from torch import Tensor
from torch.nn import functional

from ranking_det.checks import check_choice, check_integer
from ranking_det.labels import IGNORE
from ranking_det.losses.carry import Part, attached_zero, carry, exact_arithmetic
from ranking_det.losses.validation import check_labels, check_vector

DISTANCES = ("exp", "sigmoid", "logistic")
# exp of more overflows single precision.
MAX_EXPONENT = 80.0
# Pairs at a time.
PAIRS = 1 << 18


def global_ranking_loss(
    foreground: Tensor, background: Tensor, *, distance: str = "exp", reweight: bool = True
) -> Tensor:
    """Rank every foreground sample above every background sample.

    The sum over pairs of z l(f_n - f_p), where z is l over its sum, a constant (eq. 2 and 3), so
    that the worst-ranked pairs weigh most. O(P + N) time for "exp", otherwise O(P N) time in
    blocks of bounded memory.

    Args:
        foreground: (P,) float, f of the positives in their own class.
        background: (N,) float, f of the negatives, their highest over the classes.
        distance: l, "exp" (e^x), "sigmoid" or "logistic" (softplus).
        reweight: False for the mean over pairs instead of the sum weighted by z.

    Returns:
        A scalar; zero, attached to the graph, if there is no pair.

    Raises:
        ValueError: if a shape, dtype, device or option is not as described.

    Example:
        >>> foreground, background = torch.tensor([0.7, 0.4]), torch.tensor([0.5, 0.2, 0.1])
        >>> print(f"{global_ranking_loss(foreground, background):.6f}")
        0.814852
    """
    check_vector("foreground", foreground)
    check_vector("background", background, like=foreground)
    check_choice("distance", distance, DISTANCES)
    both = torch.cat([foreground, background])
    if len(foreground) == 0 or len(background) == 0:
        return attached_zero(both)
    with exact_arithmetic(both):
        dtype = torch.promote_types(both.dtype, torch.float32)
        low, high = background.detach().to(dtype), foreground.detach().to(dtype)
        rank = _separable if distance == "exp" else _pairwise
        value, at_high, at_low = rank(high, low, distance, reweight)
        part = Part(value, torch.cat([at_high, at_low]))
    return carry(both, part)[0]


def _separable(
    high: Tensor, low: Tensor, distance: str, reweight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The value and both gradients for l = e^x, which is a product of two factors."""
    order = 2 if reweight else 1
    factors, logs = [], []
    for x in (-high, low):
        # The weighted mean of e^x with weights proportional to e^x, or its plain mean.
        log_terms = order * x - (torch.logsumexp(x, 0) if reweight else x.new_tensor(len(x)).log())
        logs.append(log_terms)
        factors.append(torch.logsumexp(log_terms, 0))
    value, at_high, at_low = (
        exponent.clamp(max=MAX_EXPONENT).exp()
        for exponent in (factors[0] + factors[1], logs[0] + factors[1], logs[1] + factors[0])
    )
    return value, -at_high, at_low


def _pairwise(
    high: Tensor, low: Tensor, distance: str, reweight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The value and both gradients, block by block of the pairs."""
    total, squares = high.new_zeros(()), high.new_zeros(())
    at_high, at_low = torch.zeros_like(high), torch.zeros_like(low)
    rows = max(1, PAIRS // len(low))
    for start in range(0, len(high), rows):
        block = slice(start, start + rows)
        x = low[None, :] - high[block, None]
        sigmoid = torch.sigmoid(x)
        if distance == "sigmoid":
            loss, slope = sigmoid, sigmoid * (1 - sigmoid)
        else:
            loss, slope = -functional.logsigmoid(-x), sigmoid
        total += loss.sum()
        squares += (loss * loss).sum()
        pull = loss * slope if reweight else slope
        at_high[block] = -pull.sum(1)
        at_low += pull.sum(0)
    if not reweight:
        count = len(high) * len(low)
        return total / count, at_high / count, at_low / count
    # All losses may have underflowed to 0; so have their gradients then.
    total = total.clamp_min(torch.finfo(total.dtype).tiny)
    return squares / total, at_high / total, at_low / total


def class_specific_ranking_loss(
    scores: Tensor,
    labels: Tensor,
    *,
    negatives: str = "group",
    ratio: int = 3,
    groups: int = 3,
    distance: str = "exp",
    reweight: bool = True,
) -> Tensor:
    """Rank within each class its positives above all that is not of the class.

    The sum over the classes c that have a positive of the global ranking loss in channel c, between
    the positives of c and negatives mined from all other rows (eq. 4 and 5). O(R) time for each
    class with a positive.

    Args:
        scores: (R, K) float, f of each candidate in each class.
        labels: (R,) int64, a class 0..K-1 or BACKGROUND or IGNORE.
        negatives: "group" (:func:`group_negatives`) or "ohem" (:func:`hardest_negatives`).
        ratio: with "ohem", how many negatives for each positive, >= 1.
        groups: with "group", the number of groups, >= 1.
        distance: see :func:`global_ranking_loss`.
        reweight: see :func:`global_ranking_loss`.

    Returns:
        A scalar; zero, attached to the graph, without positives.

    Raises:
        ValueError: if a shape, dtype, device, option or value is not as described.

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
    total = attached_zero(scores.flatten())
    for label in torch.unique(labels[labels >= 0]).tolist():
        channel, own = scores[:, label], labels == label
        others = channel[~own & (labels != IGNORE)]
        if negatives == "group":
            mined = group_negatives(others, groups)
        else:
            mined = hardest_negatives(others, ratio * int(own.sum()))
        total = total + global_ranking_loss(
            channel[own], mined, distance=distance, reweight=reweight
        )
    return total


def hardest_negatives(scores: Tensor, count: int) -> Tensor:
    """The highest scores (online hard example mining).

    Args:
        scores: (N,) float.
        count: how many, >= 0.

    Returns:
        (min(count, N),), with gradient.

    Example:
        >>> hardest_negatives(torch.tensor([0.1, 0.9, 0.5]), 2)
        tensor([0.9000, 0.5000])
    """
    check_vector("scores", scores)
    check_integer("count", count, 0)
    return torch.topk(scores, min(count, len(scores))).values


def group_negatives(scores: Tensor, groups: int, *, equal_count: bool = False) -> Tensor:
    """Stand-ins for all negatives: sort them, cut them into groups, and take each group's mean.

    Args:
        scores: (N,) float, finite.
        groups: how many, >= 1; RankDetNet has 15 over all classes and 3 within one.
        equal_count: groups of equally many scores instead of bins of equal width.

    Returns:
        (at most ``groups``,) in ascending order, empty bins left out, with gradient.

    Example:
        >>> group_negatives(torch.tensor([0.0, 0.2, 0.4, 1.0]), 2)
        tensor([0.2000, 1.0000])
    """
    check_vector("scores", scores)
    check_integer("groups", groups, 1)
    if len(scores) == 0:
        return scores
    # Sums of many in half precision would stop growing.
    values = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if equal_count:
        rank = torch.argsort(torch.argsort(values.detach()))
        member = rank * groups // len(values)
    else:
        fixed = values.detach()
        low, high = torch.aminmax(fixed)
        width = (high - low).clamp_min(torch.finfo(fixed.dtype).tiny)
        member = ((fixed - low) / width * groups).long().clamp_(0, groups - 1)
    counts = torch.bincount(member, minlength=groups)
    sums = values.new_zeros(groups).index_add(0, member, values)
    return sums[counts > 0] / counts[counts > 0]
