"""Random detections with many overlaps, and suppressions called on them."""

import torch
from torch import nn

from ranking_det.layers import ScoreVoting, SoftNMS, Survivors


def detections(n, num_classes=3, seed=0, dtype=torch.float64, extent=30.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator, dtype=torch.float64) * extent
    size = 5 + torch.rand(n, 2, generator=generator, dtype=torch.float64) * 15
    scores = torch.rand(n, generator=generator, dtype=torch.float64)
    classes = torch.randint(0, num_classes, (n,), generator=generator)
    return torch.cat([corner, corner + size], dim=1).to(dtype), scores.to(dtype), classes


def soft_nms(boxes, scores, classes, *, max_detections=100, min_score=0.0, **options):
    """Return the rows and lowered scores of the survivors."""
    return SoftNMS(min_score=min_score, **options)(boxes, scores, classes, max_detections)[:2]


class FixedSurvivors(nn.Module):
    """A suppression that returns given survivors."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def forward(self, boxes, scores, classes, limit):
        return Survivors(self.rows, scores[self.rows], boxes[self.rows])


def vote_boxes(rows, boxes, scores, classes, **options):
    """Return the boxes of given survivors after score voting by all detections."""
    return ScoreVoting(FixedSurvivors(rows), **options)(boxes, scores, classes, len(rows)).boxes
