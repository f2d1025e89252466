"""Check that every loss, criterion, assigner, backbone and data set satisfies its contract.

Add a new component to the lists here.
"""

import pytest
import torch
from detectron2.config import instantiate
from torch.nn import functional

from ranking_det import assigners
from ranking_det.criteria import Classification, Criterion, Focal, PositiveCount
from ranking_det.data.catalog import register_shapes
from ranking_det.data.shapes import prepare_shapes
from ranking_det.labels import BACKGROUND
from ranking_det.losses import alrp_loss, ap_loss, ape_loss, rank_sort_loss
from tests import contracts
from tests.criteria.cases import CRITERIA
from tests.modeling.cases import load

# Functions of logits, positives and quality.
LOSSES = {
    "rank_sort": rank_sort_loss,
    "ap": lambda logits, positives, quality: ap_loss(logits, positives),
    "alrp": lambda logits, positives, quality: alrp_loss(logits, positives, 1 - quality),
    "ape": ape_loss,
}
ASSIGNERS = {
    "atss": assigners.ATSS,
    "center_region": lambda: assigners.CenterRegion([(1, 40), (20, 60), (40, 96)]),
    "fcos": lambda: assigners.FCOS(size_ranges=(16, 32)),
    "max_iou": assigners.MaxIoU,
    "paa": assigners.PAA,
    "paa_star": assigners.NormalizedPAA,
}
# Configs whose models have these backbones.
BACKBONES = {
    "FPN": "quick/retinanet_atss_rs.py",
    "CARAFE FPN": "quick/faster_plus_rs.py",
    "bilinear FPN": "quick/yolact_rs.py",
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_ranking_loss_satisfies_the_contract(name):
    contracts.check_ranking_loss(LOSSES[name])


@pytest.mark.parametrize("name", CRITERIA)
def test_a_criterion_satisfies_the_contract(name):
    contracts.check_criterion(CRITERIA[name])


@pytest.mark.parametrize("name", ASSIGNERS)
def test_an_assigner_satisfies_the_contract(name):
    contracts.check_assigner(ASSIGNERS[name]())


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_satisfies_the_contract(name):
    contracts.check_backbone(instantiate(load(BACKBONES[name]).model.backbone))


def test_a_data_set_satisfies_the_contract(tmp_path):
    register_shapes(prepare_shapes(tmp_path, train=8, val=2, size=48).parent)
    try:
        contracts.check_data_set("shapes_train")
    finally:
        register_shapes()


class SumOfAll(Classification):
    """Sum over all logits, including ignored rows."""

    def forward(self, candidates):
        return {"loss_cls": candidates.logits.float().square().sum() / 100}


def hinge_to_all(logits, positives, quality):
    """Hinge to the mean of the top 100, in which positives are -inf instead of being left out."""
    hardest = logits.scatter(0, positives, -torch.inf).float().topk(min(100, len(logits))).values
    return (1 + hardest.mean() - logits[positives].float()).clamp(min=0).sum()


def hinge_to_negatives(logits, positives, quality):
    """Hinge to the mean of the top 100 negatives, including ignored entries of -inf."""
    is_negative = torch.ones_like(logits, dtype=torch.bool).scatter(0, positives, False)
    hardest = logits[is_negative].float()
    if not len(hardest):
        return logits[positives].float().sum() * 0
    hardest = hardest.topk(min(100, len(hardest))).values
    return (1 + hardest.mean() - logits[positives].float()).clamp(min=0).sum()


def softplus_to_negatives(logits, positives, quality):
    """Rank above the log-sum-exp of the negatives, whose gradient is NaN if all are -inf."""
    if len(positives) == 0:
        return logits[:0].float().sum()
    negatives = logits.float().scatter(0, positives, -torch.inf)
    return functional.softplus(negatives.logsumexp(0) - logits[positives].float()).mean()


def detached_zero(logits, positives, quality):
    """Return a zero without a graph if there is no positive."""
    return ap_loss(logits, positives) if len(positives) else torch.tensor(0.0)


class FirstObject(assigners.Assigner):
    """Assign all anchors to the first object, even in an image without objects."""

    def match(self, image):
        return torch.where(image.valid, 0, BACKGROUND)


class MatchPadding(assigners.Assigner):
    """Assign even the anchors in the padding to the first object."""

    def match(self, image):
        return torch.full_like(image.valid, 0 if len(image.gt_boxes) else -1, dtype=torch.int64)


@pytest.mark.parametrize(
    ("check", "component", "message"),
    [
        (contracts.check_ranking_loss, lambda x, p, q: x.sum(), "no positive: expected a loss of"),
        (
            contracts.check_ranking_loss,
            lambda x, p, q: x[p].float().square().sum() / len(p),
            "no positive: not finite",
        ),
        (contracts.check_ranking_loss, detached_zero, "the loss is not attached to the logits"),
        (
            contracts.check_ranking_loss,
            hinge_to_all,
            "all negatives above: no logit has a gradient",
        ),
        (
            contracts.check_ranking_loss,
            hinge_to_negatives,
            "one positive: logits of -inf change the loss",
        ),
        (
            contracts.check_ranking_loss,
            softplus_to_negatives,
            "one logit: with more logits of -inf, the gradient is NaN or infinite",
        ),
        (
            contracts.check_criterion,
            lambda: Criterion(classification=SumOfAll()),
            "loss_cls depends on logits of ignored rows",
        ),
        (contracts.check_assigner, FirstObject(), "a positive in an image without objects"),
        (contracts.check_assigner, MatchPadding(), "an anchor in the padding is matched"),
    ],
)
def test_the_error_says_how_a_component_breaks_its_contract(check, component, message):
    with pytest.raises(AssertionError, match=message):
        check(component)


def test_a_focal_loss_criterion_with_its_own_normalizer_satisfies_the_contract():
    contracts.check_criterion(lambda: Criterion(classification=Focal(), normalizer=PositiveCount()))
