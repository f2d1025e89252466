"""Which of an image's candidates take part in the losses; without a sampler all of them do."""

from __future__ import annotations

import torch
from detectron2.modeling.sampling import subsample_labels
from torch import Tensor, nn

from ranking_det.checks import check_at_least, check_integer, check_that
from ranking_det.labels import BACKGROUND, IGNORE

__all__ = ["NegativeCap", "RandomSampler"]


class RandomSampler(nn.Module):
    """A random sample of fixed size, which cross entropy needs (Ren et al., NeurIPS 2015).

    Args:
        size: candidates of an image, >= 1; fewer if there are not so many.
        positive_fraction: at most this share of ``size`` is positive, in [0, 1].
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
        """Draw.

        Args:
            labels: (R,) int64 of one image, classes, BACKGROUND or IGNORE.

        Returns:
            (n,) int64, ascending rows; none is ignored.
        """
        # Detectron2's function knows 1, 0 and -1.
        kinds = (labels >= 0).long() - (labels == IGNORE).long()
        drawn = subsample_labels(kinds, self.size, self.positive_fraction, 0)
        return torch.cat(drawn).sort().values


class NegativeCap(nn.Module):
    """All positives, and at most so many random negatives, where memory is short.

    Args:
        max_negatives: of an image, >= 0.
    """

    def __init__(self, max_negatives: int) -> None:
        super().__init__()
        check_integer("max_negatives", max_negatives, 0)
        self.max_negatives = max_negatives

    def forward(self, labels: Tensor) -> Tensor:
        """Draw; see :meth:`RandomSampler.forward`."""
        negatives = torch.nonzero(labels == BACKGROUND).squeeze(1)
        order = torch.randperm(len(negatives), device=labels.device)
        drawn = negatives[order[: self.max_negatives]]
        return torch.cat([torch.nonzero(labels >= 0).squeeze(1), drawn]).sort().values
