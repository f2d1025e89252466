"""Samplers: choose the anchors or proposals to train on; without a sampler, all are used."""

from __future__ import annotations

import torch
from detectron2.modeling.sampling import subsample_labels
from torch import Tensor, nn

from ranking_det.checks import check_at_least, check_integer, check_that
from ranking_det.labels import BACKGROUND, IGNORE

__all__ = ["NegativeCap", "RandomSampler"]


class RandomSampler(nn.Module):
    """Random sampling of a fixed number of candidates (Faster R-CNN, Ren et al., NeurIPS 2015).

    Cross entropy needs it because negatives far outnumber positives; ranking losses do not.

    Args:
        size: candidates per image, >= 1; all if there are fewer.
        positive_fraction: largest share of positives in the sample, in [0, 1].

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, size: int = 256, positive_fraction: float = 0.5) -> None:
        super().__init__()
        check_integer("size", size, 1)
        check_at_least("positive_fraction", positive_fraction, 0.0)
        share = "a number of at most 1"
        check_that(positive_fraction <= 1, "positive_fraction", share, positive_fraction)
        self.size = size
        self.positive_fraction = positive_fraction

    def forward(self, labels: Tensor) -> Tensor:
        """Draw a sample of one image's candidates.

        Args:
            labels: (r,) int64, labels of the image's candidates: classes, BACKGROUND or IGNORE.

        Returns:
            (n,) int64, rows of the sample in ascending order, none of them ignored.
        """
        # Detectron2's labels are 1 for positive, 0 for negative and -1 for ignored.
        kinds = (labels >= 0).long() - (labels == IGNORE).long()
        sample = subsample_labels(kinds, self.size, self.positive_fraction, 0)
        return torch.cat(sample).sort().values


class NegativeCap(nn.Module):
    """Keep all positives and a limited number of random negatives, to save memory.

    Args:
        max_negatives: largest number of negatives per image, >= 0.

    Raises:
        ValueError: ``max_negatives`` is out of range.
    """

    def __init__(self, max_negatives: int) -> None:
        super().__init__()
        check_integer("max_negatives", max_negatives, 0)
        self.max_negatives = max_negatives

    def forward(self, labels: Tensor) -> Tensor:
        """Draw a sample of one image's candidates; see :meth:`RandomSampler.forward`."""
        negatives = torch.nonzero(labels == BACKGROUND).squeeze(1)
        order = torch.randperm(len(negatives), device=labels.device)
        sample = negatives[order[: self.max_negatives]]
        return torch.cat([torch.nonzero(labels >= 0).squeeze(1), sample]).sort().values
