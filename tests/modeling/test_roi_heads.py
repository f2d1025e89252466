import os
import subprocess
import sys

import pytest
import torch
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers, fast_rcnn_inference
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_loss
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from ranking_det import criteria as L
from ranking_det.assigners import ATSS, PAA, MaxIoU
from ranking_det.labels import BACKGROUND
from ranking_det.losses import dice_errors
from ranking_det.modeling import NegativeCap, RandomSampler, RankingROIHeads
from ranking_det.modeling.rcnn.mask_head import crop_masks
from ranking_det.modeling.rcnn.proposals import match_proposals
from ranking_det.modeling.threshold_watch import watch_scores
from tests.modeling.cases import load, make_instances

SIZE = 128


def build(config="quick/faster_rs.py", **changes):
    cfg = load(config).model.roi_heads
    for key, value in changes.items():
        node, _, leaf = key.rpartition("__")
        (cfg[node] if node else cfg)[leaf] = value
    torch.manual_seed(0)
    return instantiate(cfg)


def make_features(num_images, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        f"p{level}": torch.randn(num_images, 64, side, side, generator=generator)
        for level, side in ((2, 32), (3, 16), (4, 8), (5, 4))
    }


def make_targets(counts, num_classes=12):
    return [make_instances(n, SIZE, SIZE, num_classes, seed=i) for i, n in enumerate(counts)]


def make_proposals(num_images, count=40):
    """Make random proposals; some overlap objects or each other."""
    proposals = []
    for i in range(num_images):
        boxes = make_instances(count, SIZE, SIZE, 1, seed=100 + i).gt_boxes
        logits = torch.linspace(3, -3, count)
        instances = Instances((SIZE, SIZE), proposal_boxes=boxes, objectness_logits=logits)
        proposals.append(instances)
    return proposals


def step(heads, targets, count=40):
    arguments = make_features(len(targets)), make_proposals(len(targets), count), targets
    return heads(None, *arguments)[1]


def criterion_with_masks(kind=L.Criterion, masks=None, **options):
    """Make a criterion with a box loss and a mask loss."""
    return kind(localization=[L.GIoU(), masks or L.MaskDice()], **options)


CRITERIA = {
    "rs": lambda: criterion_with_masks(classification=L.RankSort()),
    "rs_image": lambda: criterion_with_masks(classification=L.RankSort(), rank_scope="image"),
    "rs_magnitude": lambda: criterion_with_masks(
        classification=L.RankSort(), balance=L.MagnitudeBalance()
    ),
    "ap": lambda: criterion_with_masks(classification=L.AveragePrecision()),
    "alrp": lambda: criterion_with_masks(L.ALRPCriterion, balance=L.HistoryBalance(period=5)),
    "focal": lambda: criterion_with_masks(classification=L.Focal(), normalizer=L.PositiveCount()),
    "ce": lambda: criterion_with_masks(
        classification=L.CrossEntropy(), normalizer=L.CandidateCount()
    ),
}


@pytest.mark.parametrize(
    ("criterion", "counts"),
    [(name, counts) for name in CRITERIA for counts in ((3, 5), (0, 0))]
    + [("rs", (0, 4)), ("rs", (1,))],
)
def test_a_step_of_any_criterion_trains_every_parameter(criterion, counts):
    softmax = criterion == "ce"
    heads = build(
        "quick/mask_rs.py", criterion=CRITERIA[criterion](), box_predictor__softmax=softmax
    )
    losses = step(heads, make_targets(counts))
    assert "loss_mask" in losses and all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in heads.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    if sum(counts):
        for layer in (heads.box_predictor.cls_score, heads.box_predictor.bbox_pred):
            assert layer.weight.grad.any()
        assert heads.mask_head.predictor.weight.grad.any()


@pytest.mark.parametrize("agnostic", [False, True])
def test_a_model_of_one_class_gets_finite_gradients(agnostic):
    heads = build("quick/mask_rs.py", num_classes=1, box_predictor__cls_agnostic_bbox_reg=agnostic)
    losses = step(heads, make_targets((3, 2), num_classes=1))
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in heads.parameters())


@pytest.mark.parametrize("wrong", [-1, 12])
def test_a_class_out_of_range_raises_value_error(wrong):
    targets = make_targets((3, 2))
    targets[1].gt_classes[1] = wrong
    message = rf"targets\[1\].gt_classes: expected class indices from 0 to 11, got {wrong}$"
    with pytest.raises(ValueError, match=message):
        step(build(), targets)


def record_candidates(heads):
    """Record the candidates of the next steps."""
    all_candidates = []
    original = heads.criterion.forward
    heads.criterion.forward = lambda candidates: (
        all_candidates.append(candidates) or original(candidates)
    )
    return all_candidates


def test_all_proposals_and_all_ground_truth_boxes_are_ranked():
    heads, targets = build(), make_targets((3, 0, 4))
    all_candidates = record_candidates(heads)
    step(heads, targets)
    candidates, labels = all_candidates[0], all_candidates[0].labels
    assert candidates.logits.shape == (3 * 40 + 7, 12)
    assert torch.bincount(candidates.image).tolist() == [43, 40, 44]
    assert (labels[43:83] == BACKGROUND).all()
    # Ground-truth boxes follow the proposals of their image and are matched to themselves.
    assert labels[40:43].tolist() == targets[0].gt_classes.tolist()
    assert labels[-4:].tolist() == targets[2].gt_classes.tolist()
    rows = torch.nonzero(labels >= 0).squeeze(1)
    assert torch.equal(candidates.positives, rows)
    index_of_row = {int(row): i for i, row in enumerate(rows)}
    expected = torch.cat([targets[0].gt_boxes.tensor, targets[2].gt_boxes.tensor])
    indices = torch.tensor([index_of_row[row] for row in [40, 41, 42, 123, 124, 125, 126]])
    torch.testing.assert_close(candidates.boxes.gt_boxes[indices], expected)
    torch.testing.assert_close(candidates.boxes.anchors[indices], expected)


def make_proposal(boxes):
    logits = torch.zeros(len(boxes))
    return Instances((SIZE, SIZE), proposal_boxes=Boxes(boxes), objectness_logits=logits)


def test_proposals_are_assigned_before_the_ground_truth_is_appended():
    """The best proposal of the second object overlaps the first object more."""
    objects = Instances((SIZE, SIZE))
    objects.gt_boxes = Boxes([[0.0, 0.0, 100.0, 100.0], [0.0, 0.0, 100.0, 60.0]])
    objects.gt_classes = torch.tensor([3, 7])
    boxes = torch.tensor([[0.0, 0.0, 100.0, 95.0], [0.0, 0.0, 100.0, 90.0]])
    for low_quality, labels in (("object", [3, 7]), ("anchor", [3, 3]), (None, [3, 3])):
        assigner = MaxIoU(0.5, 0.5, low_quality, low_quality_iou=0.5)
        proposals, assignment = match_proposals([make_proposal(boxes)], [objects], assigner)
        assert assignment.labels.tolist() == [*labels, 3, 7]
        assert assignment.gt_index.tolist() == [int(label == 7) for label in assignment.labels]
        assert proposals[0].is_object.tolist() == [False, False, True, True]
        torch.testing.assert_close(
            proposals[0].proposal_boxes.tensor, torch.cat([boxes, objects.gt_boxes.tensor])
        )


def test_ground_truth_boxes_are_matched_to_their_own_objects_even_if_two_are_equal():
    objects = Instances((SIZE, SIZE))
    objects.gt_boxes = Boxes([[8.0, 8.0, 40.0, 40.0], [8.0, 8.0, 40.0, 40.0]])
    objects.gt_classes = torch.tensor([3, 7])
    empty = make_proposal(torch.zeros(0, 4))
    _, assignment = match_proposals([empty], [objects], MaxIoU(0.5, 0.5, None))
    assert (assignment.labels.tolist(), assignment.gt_index.tolist()) == ([3, 7], [0, 1])


def test_ground_truth_boxes_are_not_appended_without_proposal_append_gt():
    heads = build(proposal_append_gt=False)
    all_candidates = record_candidates(heads)
    step(heads, make_targets((3, 0, 4)))
    assert len(all_candidates[0].labels) == 120


def test_a_negative_cap_keeps_all_positives_and_a_random_sample_has_the_given_size():
    targets = make_targets((3, 0, 4))
    counts = {}
    for name, sampler in (("all", None), ("cap", NegativeCap(5)), ("random", RandomSampler(8))):
        heads = build(sampler=sampler)
        all_candidates = record_candidates(heads)
        step(heads, targets)
        candidates = all_candidates[0]
        positive = torch.bincount(candidates.image[candidates.labels >= 0], minlength=3)
        counts[name] = positive.tolist(), torch.bincount(candidates.image).tolist()
    positive = counts["all"][0]
    assert counts["cap"] == (positive, [n + 5 for n in positive])
    assert counts["random"][1] == [8, 8, 8]


def test_a_positive_trains_the_four_box_outputs_of_its_objects_class():
    heads = build()
    all_candidates = record_candidates(heads)
    loss = step(heads, make_targets((2, 1)))["loss_box"]
    classes = all_candidates[0].labels[all_candidates[0].labels >= 0].unique()
    loss.backward()
    trained = heads.box_predictor.bbox_pred.weight.grad.view(12, -1).any(dim=1)
    assert torch.nonzero(trained).squeeze(1).tolist() == classes.tolist()
    assert len(classes) < 12


def test_class_agnostic_boxes_have_four_outputs_for_all_classes():
    heads = build(box_predictor__cls_agnostic_bbox_reg=True)
    assert heads.box_predictor.bbox_pred.out_features == 4
    all_candidates = record_candidates(heads)
    step(heads, make_targets((2, 1)))["loss_box"].backward()
    assert all_candidates[0].boxes.boxes.shape == all_candidates[0].boxes.gt_boxes.shape
    assert heads.box_predictor.bbox_pred.weight.grad.any()


def test_the_predictor_has_no_background_logit_and_gives_detectron2s_detections():
    heads = build(box_predictor__test_score_thresh=0.3).eval()
    predictor = heads.box_predictor
    torch.nn.init.normal_(predictor.cls_score.weight, std=0.3)
    assert predictor.cls_score.out_features == 12 and not predictor.cls_score.bias.any()
    features, proposals = make_features(2), make_proposals(2)
    with torch.no_grad():
        detections, losses = heads(None, features, proposals)
        maps = [features[name] for name in heads.box_in_features]
        pooled = heads.box_pooler(maps, [image.proposal_boxes for image in proposals])
        predictions = predictor(heads.box_head(pooled))
        probs = predictor.predict_probs(predictions, proposals)
        boxes = predictor.predict_boxes(predictions, proposals)
    assert losses == {}
    assert probs[0].shape == (40, 13) and not probs[0][:, -1].any()
    torch.testing.assert_close(probs[1][:, :-1], predictions[0][40:].sigmoid())
    expected, _ = fast_rcnn_inference(boxes, probs, [(SIZE, SIZE)] * 2, 0.3, 0.5, 50)
    for image, reference in zip(detections, expected):
        torch.testing.assert_close(image.scores, reference.scores)
        torch.testing.assert_close(image.pred_boxes.tensor, reference.pred_boxes.tensor)
        assert len(image) > 1 and image.scores.min() > 0.3 and image.pred_classes.max() < 12


def test_prior_prob_is_the_initial_score():
    predictor = build(box_predictor__prior_prob=0.01).box_predictor
    logits, _ = predictor(torch.zeros(3, 256))
    torch.testing.assert_close(logits.sigmoid(), torch.full((3, 12), 0.01))
    with pytest.raises(ValueError, match=r"prior_prob: expected a number in \(0, 1\), got 1"):
        build(box_predictor__prior_prob=1.0)


@pytest.mark.parametrize(
    ("thresh", "message"), [(0.1, "which 100% of all boxes pass"), (0.99, "leaves only 0.00")]
)
def test_an_unsuitable_score_threshold_is_logged(thresh, message, caplog):
    heads = build(box_predictor__test_score_thresh=thresh).eval()
    with caplog.at_level("WARNING"), watch_scores(), torch.no_grad():
        heads(None, make_features(1), make_proposals(1))
    assert message in caplog.text and "test_score_thresh" in caplog.text


def test_metrics_are_logged_with_the_prefix_roi():
    with EventStorage(0) as storage:
        step(build(), make_targets((3, 3)))
    assert {"roi/num_positives", "roi/mean_iou", "roi/box_balance"} <= storage.latest().keys()


def test_the_mask_loss_is_balanced_against_the_task_loss_of_the_box_head():
    losses = step(build("quick/mask_rs.py"), make_targets((4, 4)))
    task = losses["loss_rank"] + losses["loss_sort"]
    torch.testing.assert_close(losses["loss_mask"], task)
    torch.testing.assert_close(losses["loss_box"], task)


class Recorder(L.MaskDice):
    """A mask loss that records its inputs."""

    def instance_weights(self, candidates, weights):
        mask_weights = super().instance_weights(candidates, weights)
        self.inputs = candidates.masks.logits, candidates.masks.masks, mask_weights
        return mask_weights


class BoxIdentityWeight(nn.Module):
    """Weight each positive by a number that identifies its proposal."""

    def forward(self, candidates):
        return identify(candidates.boxes.anchors)


def identify(boxes):
    """Map boxes (n, 4) to numbers (n,) that identify them."""
    return boxes @ torch.tensor([1.0, 0.1, 0.01, 0.001])


@pytest.mark.parametrize("limit", [200, 37, 10_000])
def test_weights_and_masks_belong_to_their_boxes_when_positives_are_dropped(limit):
    """Four images, one without objects, have over 300 positives; weights identify the boxes."""
    recorder = Recorder()
    weight = BoxIdentityWeight()
    criterion = criterion_with_masks(
        classification=L.RankSort(), masks=recorder, instance_weight=weight
    )
    heads, boxes = build("quick/mask_rs.py", criterion=criterion, max_mask_rois=limit), []
    all_candidates = record_candidates(heads)
    pool = heads.mask_pooler.forward
    heads.mask_pooler.forward = lambda maps, lists: boxes.append(lists) or pool(maps, lists)
    targets = make_targets((100, 0, 150, 60))
    step(heads, targets)
    (lists,), total = boxes, len(all_candidates[0].positives)
    assert total > 300 and [len(rois) > 0 for rois in lists] == [True, False, True, True]
    _, masks, weights = recorder.inputs
    assert len(weights) == len(masks) == sum(map(len, lists)) == min(limit, total)
    torch.testing.assert_close(weights, identify(torch.cat([rois.tensor for rois in lists])))
    # Each mask belongs to the object that is matched to the box, in the same image.
    start = 0
    for rois, objects in zip(lists, targets):
        matched = heads.assigner(
            [rois.tensor], [objects.gt_boxes.tensor], [objects.gt_classes], rois.area() >= 0
        ).gt_index
        expected = objects.gt_masks[matched].crop_and_resize(rois.tensor, 14)
        assert torch.equal(masks[start : start + len(rois)], expected.float())
        start += len(rois)


def labels_of(continuous_label, limit=200, targets=None):
    """Return the continuous labels, the IoUs, and the Dice coefficients of the masks."""
    recorder = Recorder()
    heads = build(
        "quick/mask_rs.py",
        criterion=criterion_with_masks(classification=L.RankSort(), masks=recorder),
        max_mask_rois=limit,
        continuous_label=continuous_label,
    )
    all_candidates = record_candidates(heads)
    torch.manual_seed(1)
    losses = step(heads, targets or make_targets((5, 0, 7)))
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in heads.parameters())
    logits, masks, _ = recorder.inputs
    iou = all_candidates[0].boxes.overlap()
    return all_candidates[0].continuous_labels, iou, 1 - dice_errors(logits.detach(), masks)


def test_continuous_label_selects_the_label_that_positives_are_ranked_by():
    labels, iou, dice = labels_of("dice")
    torch.testing.assert_close(labels, dice)
    torch.testing.assert_close(labels_of("mean")[0], (iou + dice) / 2)
    assert labels_of("iou")[0] is None
    assert (labels_of("binary")[0] == 1).all()


def test_a_positive_without_a_mask_is_ranked_by_its_iou():
    targets = make_targets((100, 0, 150))
    labels, iou, dice = labels_of("dice", limit=37, targets=targets)
    assert len(iou) > 200 and len(dice) == 37
    by_mask = torch.nonzero(labels != iou).squeeze(1)
    torch.testing.assert_close(labels[by_mask], dice)


def test_the_sorting_loss_is_zero_with_binary_labels():
    heads = build(continuous_label="binary")
    assert step(heads, make_targets((5, 3)))["loss_sort"] == 0


def cross_entropy(**changes):
    criterion = L.Criterion(
        classification=L.CrossEntropy(),
        localization=[
            L.SmoothL1(beta=0.0, weights=(10.0, 10.0, 5.0, 5.0)),
            L.MaskCrossEntropy(weighted=False, balanced=False),
        ],
        instance_weight=L.UniformWeight(),
        balance=L.ConstantBalance(1.0),
        normalizer=L.CandidateCount(),
    )
    return build(
        "quick/mask_rs.py",
        criterion=criterion,
        sampler=RandomSampler(30, 0.25),
        box_predictor__softmax=True,
        **changes,
    )


def test_cross_entropy_gives_the_losses_and_detections_of_detectron2():
    heads, targets = cross_entropy(), make_targets((5, 0, 7))
    all_candidates, calls = record_candidates(heads), []
    predict = heads.box_predictor.forward
    heads.box_predictor.forward = lambda x: calls.append((x, predict(x))) or calls[-1][1]
    proposals = make_proposals(3)
    sampled, losses = heads(None, make_features(3), proposals, targets)
    features, (logits, deltas) = calls[0]
    reference = FastRCNNOutputLayers(
        ShapeSpec(channels=256),
        box2box_transform=heads.box_predictor.box2box_transform,
        num_classes=12,
        test_score_thresh=0.0,
        test_topk_per_image=50,
        loss_weight=1.0,
    )
    # The same logits relative to another background logit.
    shift = torch.randn(len(logits), 1, generator=torch.Generator().manual_seed(0))
    scores = torch.cat([logits + shift, shift], dim=1)
    labels, objects = all_candidates[0].labels, torch.zeros(len(all_candidates[0].labels), 4)
    objects[all_candidates[0].positives] = all_candidates[0].boxes.gt_boxes
    start = 0
    for image in sampled:
        part = slice(start, start + len(image))
        image.gt_classes = torch.where(labels[part] < 0, 12, labels[part])
        image.gt_boxes, start = Boxes(objects[part]), part.stop
    with EventStorage(0):
        expected = reference.losses((scores, deltas), sampled)
    for name, reference_name in (("loss_cls", "loss_cls"), ("loss_box", "loss_box_reg")):
        loss, reference_loss = losses[name], expected[reference_name]
        torch.testing.assert_close(loss, reference_loss)
        gradients = [
            torch.autograd.grad(value, features, retain_graph=True)[0]
            for value in (loss, reference_loss)
        ]
        torch.testing.assert_close(*gradients)
    expected, _ = reference.inference((scores, deltas), sampled)
    detections = heads.box_predictor.inference(calls[0][1], sampled)
    for image, expected_image in zip(detections, expected, strict=True):
        torch.testing.assert_close(image.scores, expected_image.scores)
        assert torch.equal(image.pred_classes, expected_image.pred_classes)


def test_mask_cross_entropy_gives_the_mask_loss_of_detectron2():
    heads, targets = cross_entropy(), make_targets((5, 0, 7))
    lists, masks = [], []
    pool, layers = heads.mask_pooler.forward, heads.mask_head.layers
    heads.mask_pooler.forward = lambda maps, boxes: lists.append(boxes) or pool(maps, boxes)
    heads.mask_head.layers = lambda x: masks.append(layers(x)) or masks[-1]
    loss = step(heads, targets)["loss_mask"]
    instances = []
    for rois, objects in zip(lists[0], targets):
        arguments = [rois.tensor], [objects.gt_boxes.tensor], [objects.gt_classes], rois.area() >= 0
        rows = heads.assigner(*arguments).gt_index
        part = Instances((SIZE, SIZE), proposal_boxes=rois, gt_classes=objects.gt_classes[rows])
        part.gt_masks = objects.gt_masks[rows] if len(rows) else objects.gt_masks
        instances.append(part)
    with EventStorage(0):
        torch.testing.assert_close(loss, mask_rcnn_loss(masks[0], instances))


def test_empty_masks_and_boxes_of_zero_width_give_finite_losses_and_gradients():
    heads, targets = build("quick/mask_rs.py"), make_targets((3, 2))
    targets[0].gt_masks = BitMasks(torch.zeros(3, SIZE, SIZE))
    targets[1].gt_boxes.tensor[0, 2] = targets[1].gt_boxes.tensor[0, 0]
    losses = step(heads, targets)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in heads.parameters())


def test_objects_with_masks_of_zero_area_do_not_train_the_mask_head():
    recorder = Recorder()
    criterion = criterion_with_masks(classification=L.RankSort(), masks=recorder)
    heads, targets = build("quick/mask_rs.py", criterion=criterion), make_targets((3, 2))
    step(heads, targets)
    count = len(recorder.inputs[2])
    targets[0].gt_masks = BitMasks(torch.zeros(3, SIZE, SIZE))
    step(heads, targets)
    _, masks, weights = recorder.inputs
    assert 0 < len(weights) < count and masks.flatten(1).any(dim=1).all()
    targets[1].gt_masks = BitMasks(torch.zeros(2, SIZE, SIZE))
    loss = step(heads, targets)["loss_mask"]
    assert loss == 0
    loss.backward()
    assert not heads.mask_head.predictor.weight.grad.any()


def test_objects_without_gt_masks_raise_value_error():
    targets = make_targets((2, 1))
    for objects in targets:
        objects.remove("gt_masks")
    with pytest.raises(ValueError, match="expected gt_masks, .*masks=True"):
        step(build("quick/mask_rs.py"), targets)


def test_an_evaluation_without_any_proposal_logs_a_warning(caplog):
    heads = build().eval()
    with caplog.at_level("WARNING"), watch_scores(), torch.no_grad():
        heads(None, make_features(1), make_proposals(1, count=0))
    assert "leaves only 0.00 detections per image" in caplog.text


def test_a_class_agnostic_mask_head_trains_and_predicts_masks():
    heads = build("quick/mask_rs.py", mask_head__num_classes=1)
    losses = step(heads, make_targets((3, 2)))
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in heads.parameters())
    assert heads.mask_head.predictor.out_channels == 1
    with torch.no_grad():
        (detections,), _ = heads.eval()(None, make_features(1), make_proposals(1))
    assert detections.pred_masks.shape == (len(detections), 1, 14, 14)


def test_images_without_proposals_train_on_the_ground_truth_and_give_no_detection():
    heads = build("quick/mask_rs.py")
    losses = step(heads, make_targets((3, 0)), count=0)
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in heads.parameters())
    with torch.no_grad():
        detections, _ = heads.eval()(None, make_features(2), make_proposals(2, count=0))
    assert [len(image) for image in detections] == [0, 0]


def test_a_diverged_model_gives_a_nan_loss_that_the_trainer_detects():
    heads = build("quick/mask_rs.py")
    heads.box_head.fc1.weight.data.fill_(torch.nan)
    assert step(heads, make_targets((3, 0)))["loss_rank"].isnan()


def test_a_step_in_bfloat16_autocast_gives_finite_losses_and_gradients():
    heads = build("quick/mask_rs.py")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = step(heads, make_targets((3, 0)))
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in heads.parameters())


@pytest.mark.parametrize("part", ["box_pooler", "mask_pooler"])
def test_boxes_are_not_rounded_by_pooling_in_mixed_precision(part):
    pooler = getattr(build("quick/mask_rs.py"), part)
    # Features are column indices. At 1,000 px, bfloat16 represents only multiples of 4.
    columns = [torch.arange(320 // 2**i).expand(1, 64, 8, -1).bfloat16() for i in range(4)]
    boxes = [Boxes([[1001.0, 2, 1041, 30], [1003.0, 4, 1023, 30]])]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = pooler(columns, boxes)
    assert torch.equal(pooled.float(), pooler([features.float() for features in columns], boxes))


def test_cropped_masks_equal_those_of_detectron2():
    targets = make_targets((3, 2))
    rois, indices, expected, first = [], [], [], 0
    for objects, count in zip(targets, (5, 4), strict=True):
        index = torch.arange(count) % len(objects)
        boxes = objects.gt_boxes.tensor[index] + torch.arange(float(count))[:, None]
        expected.append(objects.gt_masks[index].crop_and_resize(boxes, 14))
        rois.append(boxes)
        indices.append(index + first)
        first += len(objects)
    masks = crop_masks(rois, indices, targets, 14)
    assert masks.any() and torch.equal(masks, torch.cat(expected).float())


def test_incompatible_parts_raise_value_error():
    branch = L.BranchLoss(L.CenternessWeight())
    criterion = L.Criterion(classification=L.Focal(), normalizer=L.PositiveCount(), branch=branch)
    with pytest.raises(ValueError, match="criterion.branch: expected None .* have no branch"):
        build(criterion=criterion)
    for assigner in (PAA(), ATSS()):
        with pytest.raises(ValueError, match="expected one for proposals.*MaxIoU, got (PAA|ATSS)"):
            build(assigner=assigner)
    message = "box_predictor.num_classes: expected the model's 12, got 5"
    with pytest.raises(ValueError, match=message):
        build(box_predictor__num_classes=5)
    with pytest.raises(
        ValueError, match="softmax: expected False because the criterion .* got True"
    ):
        build(box_predictor__softmax=True)
    softmax = L.Criterion(classification=L.CrossEntropy(), normalizer=L.CandidateCount())
    with pytest.raises(
        ValueError, match="softmax: expected True because the criterion .* got False"
    ):
        build(criterion=softmax)
    with pytest.raises(ValueError, match="continuous_label: expected 'iou' or .* got 'dice'"):
        build(continuous_label="dice")
    ap = L.Criterion(classification=L.AveragePrecision())
    message = "continuous_label: expected 'iou' because AveragePrecision has no .* got 'dice'"
    with pytest.raises(ValueError, match=message):
        build("quick/mask_rs.py", continuous_label="dice", criterion=ap)
    with pytest.raises(ValueError, match="box_predictor: expected a RankingBoxPredictor, got Lin"):
        build(box_predictor=torch.nn.Linear(256, 13))
    with pytest.raises(ValueError, match="continuous_label: expected one of iou, dice, mean, bin"):
        build(continuous_label="giou")
    with pytest.raises(ValueError, match="mask_head.num_classes: expected the model's 12, got 5"):
        build("quick/mask_rs.py", mask_head__num_classes=5)
    with pytest.raises(ValueError, match="mask_pooler: expected a pooler, got None"):
        build("quick/mask_rs.py", mask_pooler=None)
    with pytest.raises(ValueError, match="max_mask_rois: expected an integer of at least 1"):
        build(max_mask_rois=0)
    with pytest.raises(ValueError, match="targets: expected the objects of each image, got None"):
        build()(None, make_features(1), make_proposals(1))
    proposals = make_proposals(1)
    proposals[0].remove("objectness_logits")
    with pytest.raises(
        ValueError, match="proposals: expected objectness_logits, which an RPN sets"
    ):
        build()(None, make_features(1), proposals, make_targets((2,)))


def test_the_roi_heads_are_registered_in_detectron2():
    assert ROI_HEADS_REGISTRY.get("RankingROIHeads") is RankingROIHeads


MEMORY_PROGRAM = """
import torch
from ranking_det.criteria import BoxTargets, Candidates, Criterion, RankSort
from ranking_det.labels import BACKGROUND

def peak():
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

def run(rows, classes, positives, scope):
    logits = torch.empty(rows, classes).uniform_(-6, 0).requires_grad_()
    labels = torch.full((rows,), BACKGROUND)
    labels[:: rows // positives] = torch.randint(0, classes, (positives,))
    boxes = torch.rand(positives, 2) * 100
    boxes = torch.cat([boxes, boxes + 20 + torch.rand(positives, 2) * 50], dim=1)
    outputs = torch.zeros(positives, 4, requires_grad=True)
    image = torch.arange(4).repeat_interleave(rows // 4)
    candidates = Candidates(
        logits=logits, labels=labels, positives=torch.nonzero(labels >= 0).squeeze(1),
        image=image, level=0 * image, num_images=4,
        boxes=BoxTargets(outputs, boxes + outputs, boxes, boxes + 3),
    )
    before = peak()
    criterion = Criterion(classification=RankSort(), rank_scope=scope)
    sum(criterion(candidates).losses.values()).backward()
    return (peak() - before) / logits.nbytes

run(100, 100, 10, {scope!r})
print(run(4000, 1203, 500, {scope!r}))
"""


@pytest.mark.parametrize("scope", ["gpu", "image"])
def test_a_step_of_4000_proposals_and_1203_classes_takes_less_than_3_times_the_memory_of_its_logits(
    scope,
):
    code = MEMORY_PROGRAM.replace("{scope!r}", repr(scope))
    # Large tensors get their own pages, so freed memory in the heap does not count.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    program = [sys.executable, "-c", code]
    process = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
    assert float(process.stdout) < 3


def test_the_assigner_gets_one_image_at_a_time():
    heads, calls = build(), []
    original = heads.assigner.forward
    heads.assigner.forward = lambda *args: calls.append(args) or original(*args)
    step(heads, make_targets((3, 0)))
    # Ground-truth boxes are appended after the assignment.
    assert [len(args[0][0]) for args in calls] == [40, 40]
    assert [len(args[1]) for args in calls] == [1, 1]
