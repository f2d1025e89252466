import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.utils.events import EventStorage

from ranking_det.assigners import IGNORE, MaxIoU
from ranking_det.criteria import (
    ConstantBalance,
    Criterion,
    Focal,
    GIoU,
    MagnitudeBalance,
    PositiveCount,
    RankSort,
    SmoothL1,
    UniformWeight,
)
from ranking_det.modeling import DenseHead, RankingRetinaNet
from ranking_det.modeling.feature_maps import flatten_level, image_and_level, valid_cells
from tests.modeling.cases import CONFIGS as CONFIG_ROOT
from tests.modeling.cases import make_batch

CONFIGS = sorted(path.name for path in (CONFIG_ROOT / "shapes").glob("*.py"))


def step(model, batch):
    losses = model(batch)
    sum(losses.values()).backward()
    return losses


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(
    "counts",
    [(3, 5), (0, 4), (0, 0), (1, 1)],
    ids=["two images", "one empty", "all empty", "single"],
)
def test_a_step_gives_every_parameter_a_finite_gradient(build, config, counts):
    model = build(config)
    losses = step(model, make_batch(counts))
    assert all(loss.isfinite() for loss in losses.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("box_loss", ["smooth_l1", "giou"])
def test_focal_loss_with_max_iou_agrees_with_detectron2s_retinanet_to_1e_6(build, box_loss):
    """Both models have the same weights, images and anchors; three steps test the average."""
    model = build("retinanet_maxiou_focal.py")
    model.head = DenseHead(in_channels=64, num_classes=12, num_anchors=3, num_convs=2)
    weights = (10.0, 10.0, 5.0, 5.0)
    localization = SmoothL1(0.1, weights) if box_loss == "smooth_l1" else GIoU()
    model.criterion = Criterion(
        classification=Focal(),
        localization=localization,
        instance_weight=UniformWeight(),
        balance=ConstantBalance(1.0),
        normalizer=PositiveCount(),
    )
    head = RetinaNetHead(
        input_shape=[ShapeSpec(channels=64)] * 5, num_classes=12, num_anchors=3, conv_dims=[64] * 2
    )
    reference = RetinaNet(
        backbone=model.backbone,
        head=head,
        head_in_features=model.head_in_features,
        anchor_generator=model.anchor_generator,
        box2box_transform=Box2BoxTransform(weights=weights),
        anchor_matcher=Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True),
        num_classes=12,
        smooth_l1_beta=0.1,
        box_reg_loss_type=box_loss,
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )
    # The names and shapes of the head's parameters are Detectron2's, so its checkpoints load.
    head.load_state_dict(model.head.state_dict())
    model.backbone.eval()  # otherwise the running statistics would change between the two models
    for seed in range(3):
        # All images have one size, a multiple of 32, because Detectron2 does not ignore padding.
        batch = make_batch((4 + seed, 2, 0))
        with EventStorage(0):
            expected = reference(batch)
            losses = model(batch)
        torch.testing.assert_close(losses["loss_cls"], expected["loss_cls"], rtol=1e-6, atol=1e-6)
        box = losses["loss_box"], expected["loss_box_reg"]
        torch.testing.assert_close(*box, rtol=1e-6, atol=1e-6)
        gradients = []
        for values, module in ((losses, model.head), (expected, head)):
            parameters = list(module.parameters())
            gradients.append(torch.autograd.grad(sum(values.values()), parameters))
        for a, b in zip(*gradients):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("wrong", [-1, 12])
def test_the_error_for_a_class_out_of_range_names_the_image(build, wrong):
    batch = make_batch((3, 2))
    batch[1] |= {"file_name": "b.png", "image_id": 7}
    batch[1]["instances"].gt_classes[1] = wrong
    message = rf"image 'b\.png': 'category_id': expected class indices from 0 to 11, got {wrong}$"
    with pytest.raises(ValueError, match=message):
        build(CONFIGS[0])(batch)


def test_padding_is_ignored_from_the_first_cell_beyond_the_image_rounded_up_to_32():
    valid = valid_cells(
        [(33, 64), (10, 20)], [(12, 8), (6, 4)], [8, 16], [3, 1], torch.device("cpu")
    )
    first, second = valid.split(12 * 8 * 3 + 6 * 4)
    fine = first[: 12 * 8 * 3].view(12, 8, 3)
    assert fine[:8].all() and not fine[8:].any()  # 33 px -> 64 px -> 8 rows of 8 px
    fine, coarse = second[: 12 * 8 * 3].view(12, 8, 3), second[12 * 8 * 3 :].view(6, 4, 1)
    assert fine[:4, :4].all() and fine.sum() == 4 * 4 * 3
    assert coarse[:2, :2].all() and coarse.sum() == 4


def test_the_padding_of_a_small_image_in_a_batch_is_ignored_in_training(build):
    model = build()
    all_labels = []
    original = model.criterion.forward
    model.criterion.forward = lambda candidates: (
        all_labels.append(candidates.labels) or original(candidates)
    )
    model(make_batch((3, 3), sizes=((64, 64), (128, 160))))
    labels = all_labels[0].view(2, -1)
    cells = sum(max(64 // stride, 1) ** 2 for stride in (8, 16, 32, 64, 128))
    assert (labels[0] != IGNORE).sum() == 3 * cells
    assert (labels[1] != IGNORE).all()


def test_rows_are_image_major_then_level_then_cell_then_anchor():
    image, level = image_and_level(2, [2, 1], torch.device("cpu"))
    assert image.tolist() == [0, 0, 0, 1, 1, 1]
    assert level.tolist() == [0, 0, 1, 0, 0, 1]
    maps = torch.arange(2 * 3 * 4 * 5 * 6).view(2, 12, 5, 6)  # A = 3, V = 4
    flat = flatten_level(maps, 4)
    for h, w, a in ((0, 0, 0), (1, 2, 1), (4, 5, 2)):
        expected = maps[1].view(3, 4, 5, 6)[a, :, h, w]
        assert flat[1, (h * 6 + w) * 3 + a].tolist() == expected.tolist()


def test_an_assigner_that_needs_predictions_gets_them_detached_and_decoded(build):
    calls = []

    class RecordingAssigner(MaxIoU):
        needs_predictions = True

        def forward(self, *args):
            calls.append(args)
            return super().forward(*args)

    model = build()
    model.assigner = RecordingAssigner()
    model(make_batch((2, 3)))
    anchors, *_, valid, predictions = calls[0]
    assert predictions.logits.shape == (len(valid), 12) and not predictions.logits.requires_grad
    assert predictions.boxes.shape == (len(valid), 4) and not predictions.boxes.requires_grad
    # Initial box outputs are near 0, so decoded boxes are near their anchors.
    first = torch.cat(anchors)
    difference = (predictions.boxes[: len(first)] - first).abs().amax(dim=1)
    assert (difference < 0.1 * (first[:, 2] - first[:, 0])).all()


def test_metrics_are_logged_and_a_step_without_event_storage_works(build):
    model = build()
    with EventStorage(0) as storage:
        model(make_batch((3, 3)))
    assert {"num_positives", "mean_iou", "box_balance"} <= storage.latest().keys()
    model(make_batch((3, 3)))


def test_detections_are_sorted_limited_in_number_and_within_the_image(build):
    model = build().eval()
    model.inference.max_detections = 20
    with torch.no_grad():
        outputs = model(make_batch((1, 1), sizes=((96, 128), (64, 64))))
    for output, (height, width) in zip(outputs, ((96, 128), (64, 64))):
        detections = output["instances"]
        assert len(detections) == 20
        assert (detections.scores.diff() <= 0).all()
        boxes = detections.pred_boxes.tensor
        assert (boxes >= 0).all() and (boxes[:, [0, 2]] <= width).all()
        assert (boxes[:, [1, 3]] <= height).all()
        assert detections.pred_classes.min() >= 0 and detections.pred_classes.max() < 12


def test_magnitude_balance_gets_the_gradient_of_the_box_outputs(build):
    model = build()
    model.criterion = Criterion(classification=RankSort(), balance=MagnitudeBalance())
    with EventStorage(0) as storage:
        model(make_batch((3, 3)))
    assert storage.latest()["box_balance"][0] not in (0, 1)


def test_a_score_threshold_above_every_score_leaves_no_detection(build):
    model = build().eval()
    model.inference.score_thresh = 0.9
    with torch.no_grad():
        assert len(model(make_batch((1,)))[0]["instances"]) == 0


def test_a_step_in_bfloat16_autocast_gives_finite_losses_and_gradients(build):
    model = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(make_batch((3, 0)))
    sum(losses.values()).backward()
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_retinanet_is_registered_in_detectron2():
    assert META_ARCH_REGISTRY.get("RankingRetinaNet") is RankingRetinaNet


def test_the_branch_has_one_output_per_anchor_and_uses_the_box_tower():
    head = DenseHead(in_channels=32, num_classes=2, num_anchors=3, branch=True)
    features = [torch.randn(1, 32, 4, 4), torch.randn(1, 32, 2, 2)]
    branch = head(features).branch
    assert [tuple(x.shape) for x in branch] == [(1, 3, 4, 4), (1, 3, 2, 2)]
    branch[0].sum().backward()
    assert head.bbox_subnet[0].weight.grad.abs().sum() > 0
    assert head.cls_subnet[0].weight.grad is None


def test_the_head_can_have_a_scale_per_level_and_group_normalization():
    head = DenseHead(in_channels=32, num_classes=2, num_anchors=1, norm="GN", num_scales=2)
    features = [torch.randn(1, 32, 4, 4), torch.randn(1, 32, 2, 2)]
    logits, outputs, *_ = head(features)
    assert [tuple(x.shape) for x in logits] == [(1, 2, 4, 4), (1, 2, 2, 2)]
    assert [tuple(x.shape) for x in outputs] == [(1, 4, 4, 4), (1, 4, 2, 2)]
    with torch.no_grad():
        head.scales[1] = 3.0
    torch.testing.assert_close(head(features)[1][1], 3 * outputs[1])
    assert sum(isinstance(m, torch.nn.GroupNorm) for m in head.modules()) == 8
    with pytest.raises(ValueError, match="features: expected 2 levels, as num_scales has, got 1"):
        head(features[:1])
    with pytest.raises(ValueError, match=r"prior_prob: expected a number in \(0, 1\), got 1"):
        DenseHead(in_channels=32, num_classes=2, num_anchors=1, prior_prob=1)


def test_prior_prob_is_the_initial_score(build):
    model = build()
    logits, *_ = model.head([torch.zeros(1, 64, 4, 4)] * 5)
    torch.testing.assert_close(logits[0].sigmoid().mean().item(), 0.01, rtol=1e-3, atol=0)


def test_the_anchor_generator_has_the_number_of_anchors_of_the_head(build):
    model = build()
    assert isinstance(model.anchor_generator, DefaultAnchorGenerator)
    assert set(model.anchor_generator.num_anchors) == {3}
