import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.structures import ImageList
from detectron2.utils.events import EventStorage

from ranking_det import criteria as L
from ranking_det.labels import IGNORE
from ranking_det.modeling import NegativeCap, RandomSampler, RankingRPN, RankingRPNHead
from tests.modeling.cases import load, make_instances

STRIDES = [8, 16, 32, 64]
ANCHORS_AT_128 = 3 * sum((128 // stride) ** 2 for stride in STRIDES)


def build(**changes):
    cfg = load("quick/faster_rs.py").model.proposal_generator
    for key, value in changes.items():
        cfg[key] = value
    torch.manual_seed(0)
    return instantiate(cfg)


def make_inputs(counts, sizes=((128, 128),), seed=0):
    """Make images, features and objects; the features cover the largest image."""
    sizes = [sizes[i % len(sizes)] for i in range(len(counts))]
    largest = [max(side) for side in zip(*sizes)]
    generator = torch.Generator().manual_seed(seed)
    features = {
        f"p{level}": torch.randn(
            len(counts), 64, *(-(-side // stride) for side in largest), generator=generator
        )
        for level, stride in enumerate(STRIDES, start=3)
    }
    images = ImageList(torch.zeros(len(counts), 3, *largest), sizes)
    objects = [
        make_instances(n, *size, num_classes=12, seed=i)
        for i, (n, size) in enumerate(zip(counts, sizes))
    ]
    return images, features, objects


def labels_of(rpn, arguments):
    """Return the labels that the criterion gets, per image."""
    all_labels = []
    original = rpn.criterion.forward
    rpn.criterion.forward = lambda candidates: (
        all_labels.append(candidates.labels) or original(candidates)
    )
    rpn(*arguments)
    return all_labels[0].view(len(arguments[2]), -1)


def detectron2_rpn(rpn):
    """Build Detectron2's RPN with the same weights, thresholds and limits, without sampling."""
    reference = RPN(
        in_features=rpn.in_features,
        head=rpn.rpn_head,
        anchor_generator=rpn.anchor_generator,
        anchor_matcher=Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=rpn.box2box_transform,
        batch_size_per_image=10**9,
        positive_fraction=1.0,
        pre_nms_topk=(500, 500),
        post_nms_topk=(64, 64),
        nms_thresh=0.7,
    )
    reference._subsample_labels = lambda label: label
    return reference


CRITERIA = {
    "rs": lambda: L.Criterion(classification=L.RankSort()),
    "ap": lambda: L.Criterion(classification=L.AveragePrecision()),
    "alrp": lambda: L.ALRPCriterion(balance=L.HistoryBalance(period=5), tau=0.7),
    "focal": lambda: L.Criterion(classification=L.Focal(), normalizer=L.PositiveCount()),
    "smooth_l1": lambda: L.Criterion(
        classification=L.Focal(),
        normalizer=L.PositiveCount(),
        localization=L.SmoothL1(weights=(10.0, 10.0, 5.0, 5.0)),
    ),
}


@pytest.mark.parametrize("counts", [(3, 5), (0, 4), (0, 0)])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_step_of_any_criterion_trains_every_parameter(criterion, counts):
    rpn = build(criterion=CRITERIA[criterion]())
    proposals, losses = rpn(*make_inputs(counts))
    assert all(name.startswith("loss_rpn_") for name in losses)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in rpn.parameters())
    assert not proposals[0].proposal_boxes.tensor.requires_grad


def test_all_anchors_are_ranked_with_the_labels_of_detectron2s_matcher():
    rpn, arguments = build(), make_inputs((6, 1, 0))
    rpn.assigner.low_quality = "anchor"
    labels = labels_of(rpn, arguments)
    assert labels.shape == (3, ANCHORS_AT_128)
    anchors = rpn.anchor_generator([arguments[1][name] for name in rpn.in_features])
    expected, _ = detectron2_rpn(rpn).label_and_sample_anchors(anchors, arguments[2])
    for image_labels, reference in zip(labels, expected):
        # Our labels are 0 for the single class, -1 for background and -2 for ignored.
        assert torch.equal(image_labels, torch.tensor([-1, 0, -2])[reference.long()])
    assert (labels >= 0).sum() > 5 and (labels == IGNORE).any()


def test_proposals_equal_those_of_detectron2s_rpn():
    rpn, (images, features, _) = build().eval(), make_inputs((1, 1))
    torch.nn.init.normal_(rpn.rpn_head.anchor_deltas.weight, std=0.3)
    with torch.no_grad():
        proposals, losses = rpn(images, features)
        expected, _ = detectron2_rpn(rpn).eval()(images, features)
    assert losses == {}
    for image, reference in zip(proposals, expected):
        torch.testing.assert_close(image.proposal_boxes.tensor, reference.proposal_boxes.tensor)
        torch.testing.assert_close(image.objectness_logits, reference.objectness_logits)
        assert 1 < len(image) <= 64 and (image.objectness_logits.diff() <= 0).all()


def test_the_number_of_proposals_differs_between_training_and_inference():
    rpn, (images, features, objects) = build(post_nms_topk=[7, 5]), make_inputs((1, 1))
    assert [len(image) for image in rpn(images, features, objects)[0]] == [7, 7]
    assert [len(image) for image in rpn.eval()(images, features)[0]] == [5, 5]


def test_the_state_dict_has_the_names_of_detectron2s_rpn():
    rpn = build()
    assert rpn.state_dict().keys() == detectron2_rpn(rpn).state_dict().keys()


def test_the_padding_of_a_small_image_is_ignored():
    labels = labels_of(build(), make_inputs((3, 3), sizes=((64, 64), (128, 160))))
    cells = sum(max(64 // stride, 1) ** 2 for stride in STRIDES)
    # Anchors between the two IoU thresholds are ignored in addition to the padding.
    assert (labels[0] != IGNORE).sum() <= 3 * cells < (labels[1] != IGNORE).sum()
    rpn = build()
    rpn.assigner.negative_iou = rpn.assigner.positive_iou
    labels = labels_of(rpn, make_inputs((3, 3), sizes=((64, 64), (128, 160))))
    assert (labels[0] != IGNORE).sum() == 3 * cells and (labels[1] != IGNORE).all()


def test_boundary_0_ignores_anchors_that_extend_beyond_the_image():
    rpn, arguments = build(boundary=0.0), make_inputs((3, 2))
    rpn.assigner.negative_iou = rpn.assigner.positive_iou
    maps = [arguments[1][name] for name in rpn.in_features]
    anchors = torch.cat([level.tensor for level in rpn.anchor_generator(maps)])
    inside = (anchors[:, :2] >= 0).all(dim=1) & (anchors[:, 2:] < 128).all(dim=1)
    labels = labels_of(rpn, arguments)
    assert torch.equal(labels != IGNORE, inside.expand(2, -1)) and not inside.all()


@pytest.mark.parametrize("sampler", [RandomSampler(64, 0.5), NegativeCap(20)])
def test_anchors_outside_the_sample_are_ignored(sampler):
    arguments = make_inputs((6, 0))
    all_labels = labels_of(build(), arguments)
    labels = labels_of(build(sampler=sampler), arguments)
    in_sample = labels != IGNORE
    assert torch.equal(labels[in_sample], all_labels[in_sample])
    positives = (all_labels >= 0).sum(dim=1)
    if isinstance(sampler, NegativeCap):
        assert in_sample.sum(dim=1).tolist() == (positives + 20).tolist()
    else:
        assert in_sample.sum(dim=1).tolist() == [64, 64]


def test_the_loss_weight_is_applied_after_the_balance():
    arguments = make_inputs((3, 5))
    unweighted = build(loss_weight=1.0)(*arguments)[1]
    weighted = build()(*arguments)[1]
    assert set(unweighted) == {"loss_rpn_rank", "loss_rpn_sort", "loss_rpn_box"}
    for name, loss in unweighted.items():
        torch.testing.assert_close(weighted[name], 0.2 * loss)
    torch.testing.assert_close(
        unweighted["loss_rpn_box"], unweighted["loss_rpn_rank"] + unweighted["loss_rpn_sort"]
    )


def test_a_diverged_head_gives_a_nan_loss_that_the_trainer_detects():
    rpn = build()
    rpn.rpn_head.conv.weight.data.fill_(torch.nan)
    proposals, losses = rpn(*make_inputs((2, 2)))
    assert [len(image) for image in proposals] == [0, 0]
    assert losses["loss_rpn_rank"].isnan()


def test_metrics_are_logged_with_the_prefix_rpn():
    with EventStorage(0) as storage:
        build()(*make_inputs((3, 3)))
    assert {"rpn/num_positives", "rpn/mean_iou", "rpn/box_balance"} <= storage.latest().keys()


def test_a_step_in_bfloat16_autocast_gives_finite_gradients_and_float32_proposals():
    rpn = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        proposals, losses = rpn(*make_inputs((3, 0)))
    sum(losses.values()).backward()
    assert proposals[0].proposal_boxes.tensor.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in rpn.parameters())


def test_incompatible_parts_raise_value_error():
    branch = L.BranchLoss(L.CenternessWeight())
    criterion = L.Criterion(classification=L.Focal(), normalizer=L.PositiveCount(), branch=branch)
    with pytest.raises(ValueError, match="criterion.branch: expected None .* have no branch"):
        build(criterion=criterion)
    encoded = L.Criterion(classification=L.RankSort(), localization=L.SmoothL1())
    with pytest.raises(ValueError, match="expected .*, got SmoothL1, which encodes boxes with"):
        build(criterion=encoded)
    with pytest.raises(ValueError, match="in_features: expected 4 levels, .*, got 2"):
        build(in_features=["p3", "p4"])
    with pytest.raises(ValueError, match=r"head.num_anchors: expected \[3\], .*, got 1"):
        build(head=StandardRPNHead(in_channels=64, num_anchors=1))
    with pytest.raises(
        ValueError, match="boundary: expected a finite number of at least 0, got -1"
    ):
        build(boundary=-1)
    with pytest.raises(ValueError, match="pre_nms_topk: expected two numbers, in training and"):
        build(pre_nms_topk=[500])
    with pytest.raises(ValueError, match="post_nms_topk: expected an integer of at least 1, got"):
        build(post_nms_topk=[100, -1])
    with pytest.raises(ValueError, match="gt_instances: expected the objects of each image"):
        build()(*make_inputs((1,))[:2])


def test_the_rpn_is_registered_in_detectron2():
    assert PROPOSAL_GENERATOR_REGISTRY.get("RankingRPN") is RankingRPN


def test_prior_prob_is_the_initial_score():
    head = RankingRPNHead(in_channels=8, num_anchors=3, prior_prob=0.01)
    (logits,), _ = head([torch.zeros(1, 8, 4, 4)])
    torch.testing.assert_close(logits.sigmoid(), torch.full((1, 3, 4, 4), 0.01))
    with pytest.raises(ValueError, match=r"prior_prob: expected a number in \(0, 1\), got 0"):
        RankingRPNHead(in_channels=8, num_anchors=3, prior_prob=0.0)
