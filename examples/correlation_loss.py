"""A loss in one file: AP Loss plus Correlation Loss.

Correlation Loss (Kahraman, Oksuz, Kalkan and Akbas, "Correlation Loss: Enforcing Correlation
between Classification and Localization", AAAI 2023) is added to the loss of a detector. It trains
the scores of the positives to correlate with the IoUs of their boxes. AP Loss alone ranks the
positives above the negatives, but does not sort the positives by IoU.

    python train_net.py --config-file examples/correlation_loss_shapes.py

trains RetinaNet with it. Copy the file and change :func:`correlation_loss`.

Shapes: M logits, which are R rows times K classes; P positives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ranking_det.checks import check_at_least, check_ranking
from ranking_det.criteria import Candidates, Classification
from ranking_det.losses import ap_loss

EPSILON = 1e-2
"""Smallest product of the two standard deviations. It bounds the gradient at the start of training,
when all logits are nearly equal."""


def correlation_loss(logits: Tensor, positives: Tensor, quality: Tensor) -> Tensor:
    """Make the scores of the positives correlate with their IoUs.

    The loss is 1 - rho, where rho = cov(score, IoU) / (std(score) std(IoU)) is Pearson's
    coefficient. Unlike the paper, the scores are logits and not probabilities: a ranking loss does
    not fix their scale, so all probabilities may be close to 0.

    Args:
        logits: (M,) float, raw.
        positives: (P,) int64, indices into ``logits``; P may be 0.
        quality: (P,) in [0, 1], the IoU of each positive with its object. No gradient.

    Returns:
        A scalar in [0, 2], at least float32. It is 0 and attached to the graph if P < 2, because
        one positive has no correlation.

    >>> logits = torch.tensor([0.0, 2.0, -1.0])
    >>> correlation_loss(logits, torch.tensor([0, 1]), torch.tensor([0.5, 0.9]))
    tensor(0.)
    """
    check_ranking(logits, positives, quality=quality)
    # Under autocast the logits may be float16, and squares would overflow.
    scores = logits[positives].to(torch.promote_types(logits.dtype, torch.float32))
    if len(positives) < 2:  # a shape, not a value: no GPU synchronization
        return scores[:0].sum()  # zero, and backward still works
    scores = scores - scores.mean()
    quality = quality.detach().to(scores.dtype)
    quality = quality - quality.mean()
    variances = scores.square().mean() * quality.square().mean()
    # Clamped before the root: its slope is infinite at 0.
    return 1 - (scores * quality).mean() / variances.clamp(min=EPSILON**2).sqrt()


class CorrelatedAP(Classification):
    """AP Loss plus ``weight`` times Correlation Loss, for ``Criterion(classification=...)``.

    Args:
        weight: the weight of Correlation Loss, >= 0.
        delta: half-width of AP Loss's step, in logits, >= 0.
    """

    # forward reads ``quality``. For losses that do not, R-CNN heads reject ``continuous_label``.
    uses_continuous_labels = True

    def __init__(self, weight: float = 0.2, delta: float = 1.0) -> None:
        check_at_least("weight", weight, 0.0)
        super().__init__(locals())  # sets the attributes, and calls forward once to check them

    def forward(self, candidates: Candidates) -> dict[str, Tensor]:
        """Compute both losses.

        Args:
            candidates: the candidates of one step.

        Returns:
            ``loss_cls`` and ``loss_corr``, scalars with gradient.
        """
        # The logits of ignored rows are -inf, which the losses ignore.
        logits, positives = candidates.entries()
        correlation = correlation_loss(logits, positives, candidates.quality)
        return {
            "loss_cls": ap_loss(logits, positives, delta=self.delta),
            "loss_corr": self.weight * correlation,
        }
