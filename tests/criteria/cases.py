"""Candidates and criteria for tests."""

import dataclasses

import torch

from ranking_det.criteria import (
    APE,
    ALRPCriterion,
    AveragePrecision,
    BoxTargets,
    Candidates,
    CenternessWeight,
    ConstantBalance,
    Criterion,
    Focal,
    HistoryBalance,
    IoU,
    MagnitudeBalance,
    MaskTargets,
    PositiveCount,
    QualityFocal,
    RankDet,
    RankingWeight,
    RankSort,
    SmoothL1,
    UniformWeight,
    Varifocal,
)
from ranking_det.labels import BACKGROUND, IGNORE

CRITERIA = {
    "rank_sort": lambda: Criterion(classification=RankSort()),
    "ap": lambda: Criterion(classification=AveragePrecision()),
    "ap_sigmoid": lambda: Criterion(classification=AveragePrecision(distance="sigmoid")),
    "alrp": lambda: ALRPCriterion(balance=HistoryBalance(period=2)),
    "ape": lambda: Criterion(classification=APE(), balance=ConstantBalance(2.0)),
    "rankdet": lambda: Criterion(classification=RankDet(), instance_weight=UniformWeight()),
    "rankdet_ohem": lambda: Criterion(
        classification=RankDet(negatives="ohem", probabilities=False, merge_levels=True),
        balance=MagnitudeBalance(),
        rank_scope="image",
    ),
    "ranking_weight": lambda: Criterion(
        classification=RankSort(), instance_weight=RankingWeight(), localization=IoU()
    ),
    "centerness": lambda: Criterion(
        classification=RankSort(), instance_weight=CenternessWeight(), balance=MagnitudeBalance()
    ),
    "focal": lambda: Criterion(
        classification=Focal(),
        localization=SmoothL1(beta=0.1),
        instance_weight=UniformWeight(),
        balance=ConstantBalance(1.0),
        normalizer=PositiveCount(),
    ),
    "qfl": lambda: Criterion(classification=QualityFocal(), normalizer=PositiveCount()),
    "vfl": lambda: Criterion(classification=Varifocal(), normalizer=PositiveCount()),
}
LABELS = torch.tensor([0, BACKGROUND, 3, IGNORE, BACKGROUND, 1, IGNORE, 2])


def make_candidates(labels, num_classes=4, seed=0, dtype=torch.float32, num_images=2):
    """Make candidates with leaf logits and box outputs; a box is its anchor plus its outputs."""
    generator = torch.Generator().manual_seed(seed)
    rows = len(labels)
    positives = int((labels >= 0).sum())
    logits = torch.randn(rows, num_classes, generator=generator).to(dtype).requires_grad_()
    outputs = torch.randn(positives, 4, generator=generator).to(dtype).requires_grad_()
    corner = torch.rand(positives, 2, generator=generator) * 50
    anchors = torch.cat([corner, corner + 20], dim=1)
    return Candidates(
        logits=logits,
        labels=labels,
        positives=(labels >= 0).nonzero().squeeze(1),
        image=torch.arange(rows) * num_images // max(rows, 1),
        level=torch.zeros(rows, dtype=torch.int64),
        num_images=num_images,
        boxes=BoxTargets(
            outputs=outputs,
            boxes=anchors + outputs.float(),
            anchors=anchors,
            gt_boxes=anchors + 3 * torch.rand(positives, 4, generator=generator),
        ),
    )


def make_masks(index, size=4, seed=0):
    """Make mask targets with one mask per entry of ``index`` and leaf logits."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(index), size, size, generator=generator).requires_grad_()
    masks = (torch.rand(len(index), size, size, generator=generator) > 0.5).float()
    return MaskTargets(logits, masks, torch.tensor(index, dtype=torch.int64))


def replace_fields(candidates, **fields):
    """Copy candidates with some fields or box targets replaced (``decoded``: the decoded boxes)."""
    names = {"outputs": "outputs", "decoded": "boxes", "anchors": "anchors", "gt_boxes": "gt_boxes"}
    box_fields = {name: fields.pop(key) for key, name in names.items() if key in fields}
    if box_fields:
        fields["boxes"] = dataclasses.replace(candidates.boxes, **box_fields)
    return dataclasses.replace(candidates, **fields)


def gradients(criterion, candidates):
    """Return a criterion's output, and its gradients with respect to logits and box outputs."""
    output = criterion(candidates)
    sum(output.losses.values()).backward()
    return output, candidates.logits.grad, candidates.boxes.outputs.grad


def rank_sort(**options):
    return Criterion(classification=RankSort(), **options)
