"""One training step of every model with every assigner and every criterion."""

import itertools

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import OmegaConf
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ranking_det import criteria
from ranking_det.assigners import ATSS, BACKGROUND, FCOS, PAA, Assignment, MaxIoU, NormalizedPAA
from ranking_det.modeling.part_checks import check_dense_parts
from tests.modeling.cases import Pyramid, load, make_batch

ASSIGNERS = {
    "max_iou": lambda: MaxIoU(),
    "fcos": lambda: FCOS(),
    "atss": lambda: ATSS(),
    "paa": lambda: PAA(),
    "paa_rs": lambda: PAA(single_candidate="none"),
    "paa_star": lambda: NormalizedPAA(),
    "paa_star_raw": lambda: NormalizedPAA(normalize=False, single_candidate="positive"),
    "paa_star_scores": lambda: NormalizedPAA(scores="classification"),
    "paa_star_boxes": lambda: NormalizedPAA(scores="localization"),
}


def rank(classification, **options):
    return criteria.Criterion(classification=classification, **options)


def baseline(classification, **options):
    return rank(classification, normalizer=criteria.PositiveCount(), **options)


CRITERIA = {
    "focal": lambda: baseline(criteria.Focal()),
    "focal_smooth_l1": lambda: baseline(
        criteria.Focal(), localization=criteria.SmoothL1(weights=(10.0, 10.0, 5.0, 5.0))
    ),
    "focal_branch": lambda: baseline(
        criteria.Focal(), branch=criteria.BranchLoss(criteria.CenternessWeight())
    ),
    "qfl": lambda: baseline(criteria.QualityFocal()),
    "vfl": lambda: baseline(criteria.Varifocal()),
    "rs": lambda: rank(criteria.RankSort()),
    "ap": lambda: rank(criteria.AveragePrecision()),
    "ap_sigmoid": lambda: rank(criteria.AveragePrecision(distance="sigmoid")),
    "ap_cross_entropy": lambda: rank(criteria.AveragePrecision(distance="cross_entropy")),
    "ap_negatives": lambda: rank(criteria.AveragePrecision(balance="negatives")),
    "alrp": lambda: criteria.ALRPCriterion(balance=criteria.HistoryBalance(period=5)),
    "ape": lambda: rank(criteria.APE()),
    "rankdet": lambda: rank(criteria.RankDet(), rank_scope="image"),
    "rankdet_ohem": lambda: rank(
        criteria.RankDet(negatives="ohem", distance="logistic", alpha=5.0)
    ),
    "rankdet_global": lambda: rank(
        criteria.RankDet(class_weight=0.0, iou_weight=0.0, reweight=False)
    ),
    "rankdet_merged": lambda: rank(criteria.RankDet(merge_levels=True, iou_gradient="none")),
    "rankdet_both": lambda: rank(criteria.RankDet(iou_gradient="both", distance="sigmoid")),
    "rankdet_branch": lambda: rank(
        criteria.RankDet(), branch=criteria.BranchLoss(criteria.CenternessWeight())
    ),
    "stages": lambda: criteria.CriterionSchedule(
        [baseline(criteria.Focal()), rank(criteria.RankSort())], [0.5, 0.5], 2
    ),
}


def with_masks(criterion):
    """Add a mask loss to a criterion and to its stages."""
    for part in criterion.criteria:
        part.localization.append(criteria.MaskDice())
    return criterion


INCOMPATIBLE = {
    ("retinanet", "fcos"): "anchor_generator: expected one anchor per cell for FCOS",
    ("fcos", "focal_smooth_l1"): "expected a loss on decoded boxes, got SmoothL1, which encodes",
    ("yolact", "fcos"): "anchor_generator: expected one anchor per cell for FCOS",
    ("yolact", "focal_branch"): "head.branch: expected True because the criterion trains a branch",
    (
        "yolact",
        "rankdet_branch",
    ): "head.branch: expected True because the criterion trains a branch",
}


def build(model, assigner, criterion):
    cfg = load(f"{model}_r18.py", "common/models").model
    cfg.num_classes = 12
    cfg.head.in_channels = 8
    cfg.head.num_convs = 1
    cfg.backbone = Pyramid()
    cfg.assigner, cfg.criterion = ASSIGNERS[assigner](), CRITERIA[criterion]()
    if model == "yolact":
        cfg.mask_branch.in_channels = 8
        cfg.criterion = with_masks(cfg.criterion)
    else:
        cfg.head.branch = cfg.criterion.branch is not None
    torch.manual_seed(0)
    return instantiate(cfg)


# The masks do not depend on the assigner.
CASES = [
    *itertools.product(("retinanet", "fcos"), ASSIGNERS, CRITERIA),
    *itertools.product(("yolact",), ["max_iou"], CRITERIA),
    *itertools.product(("yolact",), ASSIGNERS, ["rs"]),
]


@pytest.mark.parametrize(("model", "assigner", "criterion"), dict.fromkeys(CASES))
def test_a_step_trains_every_parameter_or_incompatible_parts_raise_value_error(
    model, assigner, criterion
):
    error = INCOMPATIBLE.get((model, assigner)) or INCOMPATIBLE.get((model, criterion))
    if error:
        with pytest.raises(ValueError, match=error):
            build(model, assigner, criterion)
        return
    detector = build(model, assigner, criterion)
    losses = detector(make_batch((4, 2), sizes=((64, 64),)))
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    # All towers get gradients; without a positive, only the class tower would.
    layers = [detector.head.cls_score, detector.head.bbox_pred]
    if model == "yolact":
        layers += [detector.head.mask_pred, detector.mask_branch.protonet[0]]
    for layer in layers:
        assert layer.weight.grad.abs().sum() > 0


SOLOV2_ERRORS = {
    "focal_branch": "criterion.branch: expected None because the head has no branch",
    "rankdet_branch": "criterion.branch: expected None because the head has no branch",
}


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_step_of_solov2_trains_every_parameter_with_every_criterion_on_masks(criterion):
    node = load("quick/solov2_rs.py").model
    node.backbone, node.criterion = Pyramid(2), CRITERIA[criterion]()
    node.head.update({"num_convs": 1, "channels": 32, "kernel_channels": 32, "mask_channels": 64})
    node.head.in_channels = 8
    for part in node.criterion.criteria:
        part.localization = nn.ModuleList([criteria.MaskDice()])
        if isinstance(part, criteria.ALRPCriterion):
            part.classification.localization = part.localization[0]
    torch.manual_seed(0)
    if criterion in SOLOV2_ERRORS:
        with pytest.raises(ValueError, match=SOLOV2_ERRORS[criterion]):
            instantiate(node)
        return
    detector = instantiate(node)
    losses = detector(make_batch((4, 2), sizes=((64, 64),)))
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    for layer in (detector.head.category, detector.head.kernel, detector.head.mask_output[0]):
        assert layer.weight.grad.abs().sum() > 0


class MaskSearchRecorder(TorchDispatchMode):
    """Record the boolean masks that are searched for true entries."""

    def __init__(self):
        super().__init__()
        self.masks = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        aten = torch.ops.aten
        if function is aten.nonzero.default:
            self.masks.append(args[0].clone())
        elif function in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
            self.masks += [x.clone() for x in args[1] if x is not None and x.dtype == torch.bool]
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("criterion", ["rs", "focal", "qfl", "alrp", "ape", "rankdet", "stages"])
def test_a_step_searches_for_the_rows_of_the_positives_only_once(criterion):
    detector, all_labels = build("retinanet", "atss", criterion), []
    original = detector.criterion.forward
    detector.criterion.forward = lambda x: all_labels.append(x.labels) or original(x)
    with MaskSearchRecorder() as searches:
        losses = detector(make_batch((4, 2), sizes=((64, 64),)))
        sum(losses.values()).backward()
    positive = all_labels[0] >= 0
    assert positive.any()
    assert sum(torch.equal(mask, positive) for mask in searches.masks) == 1


@pytest.mark.parametrize(
    ("model", "key", "value", "message"),
    [
        (
            "retinanet",
            "head.num_anchors",
            9,
            r"num_anchors: expected \[3\], as in the anchor generator, got 9",
        ),
        ("retinanet", "head.num_classes", 80, "head.num_classes: expected the model's 12, got 80"),
        (
            "retinanet",
            "head.branch",
            True,
            "head.branch: expected False because the criterion has no loss for a branch, got True",
        ),
        ("fcos", "head.num_scales", 2, "head.num_scales: expected 5, one per level, or 0, got 2"),
        (
            "fcos",
            "assigner.size_ranges",
            [64, 128],
            "assigner: expected one for 5 levels, got FCOS for 3",
        ),
        (
            "retinanet",
            "box2box_transform.weights",
            [1.0, 1.0, 1.0, 1.0],
            r"expected the box coder's weights \(1.0, 1.0, 1.0, 1.0\), got SmoothL1, which encodes "
            r"boxes with the weights \(10.0, 10.0, 5.0, 5.0\)",
        ),
    ],
)
def test_incompatible_parts_raise_value_error(model, key, value, message):
    cfg = load(f"{model}_r18.py", "common/models").model
    cfg.num_classes = 12
    if "weights" in key:
        cfg.criterion = CRITERIA["focal_smooth_l1"]()
    OmegaConf.update(cfg, key, value)
    with pytest.raises(ValueError, match=message):
        instantiate(cfg)


@pytest.mark.parametrize(("size", "ratio"), [(4, 1.0), (8, 2.0)])
def test_the_fcos_assigner_rejects_anchors_that_are_not_squares_of_8_strides(size, ratio):
    cfg = load("retinanet_r18.py", "common/models").model
    cfg.assigner, cfg.head.num_anchors = FCOS(), 1
    cfg.anchor_generator.sizes = [[size * stride] for stride in cfg.anchor_generator.strides]
    cfg.anchor_generator.aspect_ratios = [ratio]
    with pytest.raises(ValueError, match="expected squares of 8 strides for FCOS"):
        instantiate(cfg)


def test_a_loss_for_a_branch_needs_a_head_with_a_branch():
    cfg = load("retinanet_r18.py", "common/models").model
    cfg.criterion = CRITERIA["focal_branch"]()
    message = "head.branch: expected True because the criterion trains a branch, got False"
    with pytest.raises(ValueError, match=message):
        instantiate(cfg)


def test_a_custom_assigner_need_not_derive_from_the_base_class():
    class NoPositives(nn.Module):
        def forward(self, anchors, gt_boxes, gt_classes, valid, predictions):
            assert predictions is None
            return Assignment(
                torch.full(valid.shape, BACKGROUND), torch.full(valid.shape, -1, dtype=torch.int64)
            )

    model = build("fcos", "atss", "rs")
    model.assigner = NoPositives()
    parts = model.assigner, model.criterion, model.head, model.anchor_generator
    check_dense_parts(*parts, model.box2box_transform, model.strides, model.num_classes)
    assert sum(model(make_batch((2,))).values()) == 0
