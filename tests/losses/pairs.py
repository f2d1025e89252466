"""Reference for RankDetNet's losses: all pairs, with autograd."""

import torch
from torch.nn import functional

DISTANCES = {"exp": torch.exp, "sigmoid": torch.sigmoid, "logistic": functional.softplus}


def by_pair_matrix(foreground, background, distance="exp", reweight=True):
    """Compute equations 2 and 3 with the full matrix of pairs and autograd."""
    losses = DISTANCES[distance](background[None, :] - foreground[:, None])
    weights = losses.detach() / losses.detach().sum() if reweight else 1 / losses.numel()
    return (weights * losses).sum()


def iou_guided_by_loop(scores, ious, groups, alpha, iou_gradient, reduction="sum"):
    """Compute equation 6, one pair at a time."""
    means = []
    for g in groups.unique():
        members = torch.nonzero(groups == g).squeeze(1).tolist()
        losses = []
        for k, i in enumerate(members):
            for j in members[k + 1 :]:
                a, b = (i, j) if scores[i] >= scores[j] else (j, i)
                s_a = ious[a].detach() if iou_gradient == "none" else ious[a]
                s_b = ious[b] if iou_gradient == "both" else ious[b].detach()
                losses.append(torch.exp(-alpha * (scores[a] - scores[b]) * (s_a - s_b)))
        if losses:
            means.append(torch.stack(losses).mean())
    if not means:
        return 0 * scores.sum()
    return torch.stack(means).sum() if reduction == "sum" else torch.stack(means).mean()


def mined_by_loop(scores, negatives, groups, count):
    """Mine negatives: the means of equal-width groups, or the ``count`` highest."""
    if negatives == "ohem" or not len(scores):
        return scores.sort(descending=True).values[:count]
    low, high = scores.min().item(), scores.max().item()
    members = [[] for _ in range(groups)]
    for score in scores:
        position = (score.item() - low) / (high - low) * groups if high > low else 0
        members[min(int(position), groups - 1)].append(score)
    return torch.stack([torch.stack(group).mean() for group in members if group])
