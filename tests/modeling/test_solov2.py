"""SOLOv2: targets, candidates, inference and degenerate inputs."""

import math

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import nn
from torch.nn import functional

from ranking_det.assigners import ATSS, FCOS, PAA
from ranking_det.criteria import (
    BranchLoss,
    CandidateCount,
    CenternessWeight,
    Criterion,
    CrossEntropy,
    Focal,
    GIoU,
    MaskDice,
    PositiveCount,
    RankSort,
)
from ranking_det.losses import dice_errors
from ranking_det.modeling import SOLOv2Head, SOLOv2Inference
from ranking_det.modeling.mask_targets import draw_bitmaps
from ranking_det.modeling.masks.solov2_head import append_coordinates
from ranking_det.modeling.masks.solov2_targets import center_boxes, shrink_masks
from tests.layers import reference
from tests.modeling.cases import Pyramid, ellipses, load, make_batch

K = 3


def build(loss="rs", **changes):
    node = load(f"quick/solov2_{loss}.py").model
    node.backbone, node.num_classes = Pyramid(2), K
    node.head.update({"num_convs": 1, "channels": 32, "kernel_channels": 32, "mask_channels": 64})
    node.head.update({"grids": [10, 8, 6, 4, 3], "in_channels": 8})
    for key, value in changes.items():
        node[key] = value
    torch.manual_seed(0)
    return instantiate(node)


def make_image(size=(64, 64), boxes=((6, 6, 30, 40), (30, 24, 62, 60)), masks=None):
    """Make an image with an ellipse for each box, or with the given masks, of the classes 0, 1."""
    inputs = make_batch((0,), sizes=(size,))[0]
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.arange(len(boxes)) % K
    if masks is None:
        masks = ellipses(instances.gt_boxes.tensor, *size)
    instances.gt_masks = BitMasks(masks)
    return inputs | {"instances": instances}


def pixel(size, y, x):
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[0, y, x] = True
    return make_image(size, ((x, y, x + 1, y + 1),), mask)


def candidates_of(model, batch):
    """Return the candidates of a step and its losses."""
    seen = []
    handle = model.criterion.register_forward_pre_hook(lambda _, inputs: seen.append(*inputs))
    losses = model.train()(batch)
    handle.remove()
    return seen[0], losses


BATCHES = {
    "two images": lambda: [make_image(), make_image()],
    "sizes that are not multiples of 32": lambda: [make_image((50, 77)), make_image((64, 33))],
    "one image without objects": lambda: [make_image(), make_image(boxes=())],
    "no objects": lambda: [make_image(boxes=()), make_image(boxes=())],
    "a mask of one pixel": lambda: [pixel((64, 64), 63, 63)],
    "a mask of the whole image": lambda: [
        make_image((41, 67), ((0, 0, 67, 41),), torch.ones(1, 41, 67, dtype=torch.bool))
    ],
    "an empty mask": lambda: [
        make_image((64, 64), ((4, 4, 30, 40),), torch.zeros(1, 64, 64, dtype=torch.bool))
    ],
    "an image of one pixel": lambda: [pixel((1, 1), 0, 0)],
    "equal objects": lambda: [make_image(boxes=((10, 10, 50, 50),) * 4)],
}


@pytest.mark.parametrize("loss", ["rs", "focal"])
@pytest.mark.parametrize("name", BATCHES)
def test_a_step_has_finite_losses_and_gradients_of_all_parameters(name, loss):
    model = build(loss)
    candidates, losses = candidates_of(model, BATCHES[name]())
    ranking = {"loss_rank", "loss_sort"} if loss == "rs" else {"loss_cls"}
    assert losses.keys() == ranking | {"loss_mask"}
    sum(losses.values()).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    learned = {key for key, parameter in model.named_parameters() if parameter.grad.any()}
    masks = {key for key, _ in model.named_parameters() if "mask_" in key or "kernel" in key}
    assert len(candidates.positives) == 0 or any("category" in key for key in learned)
    if name in ("no objects", "an empty mask", "a mask of one pixel", "an image of one pixel"):
        assert losses["loss_mask"] == 0 and not masks & learned
    else:
        assert masks <= learned
    if name == "no objects" and loss == "rs":
        assert not learned


def test_a_step_in_bfloat16_has_finite_gradients():
    model = build()
    with torch.autocast("cpu", torch.bfloat16):
        _, losses = candidates_of(model, BATCHES["sizes that are not multiples of 32"]())
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_each_positive_has_the_mask_of_its_own_object():
    """The labels of the published code are in the order of cells, its masks in that of objects."""
    boxes = ((6, 6, 30, 30), (34, 30, 60, 60), (34, 2, 60, 28))
    batch = [make_image(), make_image(boxes=boxes), make_image((40, 64))]
    model = build()
    candidates, losses = candidates_of(model, batch)
    masks, rows = candidates.masks, candidates.positives
    assert torch.equal(masks.index, torch.arange(len(rows)))
    for k, row in enumerate(rows):
        objects = batch[int(candidates.image[row])]["instances"]
        (index,) = (objects.gt_classes == candidates.labels[row]).nonzero()[0]
        expected = shrink_masks(objects.gt_masks.tensor, (16, 16))[index]
        assert torch.equal(masks.masks[k], expected)
    assert len(torch.unique(candidates.labels[rows[candidates.image[rows] == 1]])) == 3
    dice = 1 - dice_errors(masks.logits, masks.masks)
    torch.testing.assert_close(candidates.quality, dice.detach())
    weights = candidates.logits[rows].amax(1).sigmoid().detach()
    errors = dice_errors(masks.logits, masks.masks, eps=0.002)
    ranking = (losses["loss_rank"] + losses["loss_sort"]).detach()
    torch.testing.assert_close(losses["loss_mask"].detach(), ranking)
    loss_before_balancing = (weights * errors).sum() / weights.sum()
    (expected,) = torch.autograd.grad(
        loss_before_balancing / loss_before_balancing.detach() * ranking,
        masks.logits,
        retain_graph=True,
    )
    (gradient,) = torch.autograd.grad(losses["loss_mask"], masks.logits, retain_graph=True)
    torch.testing.assert_close(gradient, expected)


def test_the_baseline_divides_focal_loss_by_positives_plus_one_and_adds_three_mean_dice_losses():
    model = build("focal")
    candidates, losses = candidates_of(model, BATCHES["two images"]())
    masks = candidates.masks
    expected = 3 * dice_errors(masks.logits, masks.masks, eps=0.002).mean()
    torch.testing.assert_close(losses["loss_mask"], expected)
    target = functional.one_hot(candidates.labels + 1, K + 1)[:, 1:].float()
    p = candidates.logits.sigmoid()
    focal = -(0.25 * target * (1 - p) ** 2 * p.log() + 0.75 * (1 - target) * p**2 * (1 - p).log())
    expected = focal.sum() / (len(candidates.positives) + 1)
    torch.testing.assert_close(losses["loss_cls"], expected)


def test_a_shared_cell_belongs_to_the_first_object_or_trains_all_masks():
    batch = [make_image(boxes=((10, 10, 50, 50), (12, 12, 48, 48)))]
    first, _ = candidates_of(build("rs"), batch)
    shared, _ = candidates_of(build("focal"), batch)
    assert torch.equal(first.positives, shared.positives)
    assert set(first.labels[first.positives].tolist()) == {0}
    assert set(shared.labels[shared.positives].tolist()) == {1}
    assert len(first.masks.index) == len(first.positives)
    assert torch.equal(shared.masks.index, torch.arange(len(first.positives)).repeat_interleave(2))
    targets = shrink_masks(batch[0]["instances"].gt_masks.tensor, (16, 16))
    assert torch.equal(shared.masks.masks, targets.repeat(len(first.positives), 1, 1))


def test_a_limit_of_masks_keeps_the_dice_coefficients_of_all_positives():
    batch = [make_image(), make_image(boxes=((6, 6, 30, 40),)), make_image(boxes=())]
    everything, _ = candidates_of(build(), batch)
    model = build(max_masks=3)
    limited, losses = candidates_of(model, batch)
    image = everything.image[everything.positives]
    assert (image.bincount(minlength=3)[:2] > 3).all()
    assert image[limited.masks.index].tolist() == [0, 0, 0, 1, 1, 1]
    torch.testing.assert_close(limited.quality, everything.quality)
    for k, index in enumerate(limited.masks.index):
        assert torch.equal(limited.masks.masks[k], everything.masks.masks[index])
        torch.testing.assert_close(limited.masks.logits[k], everything.masks.logits[index])
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    unlimited, _ = candidates_of(build(max_masks=100), batch)
    assert unlimited.continuous_labels is None and len(unlimited.masks.index) == len(image)


def test_the_centers_of_the_boxes_become_the_centers_of_mass():
    masks = torch.rand(4, 9, 13, generator=torch.Generator().manual_seed(0)) < 0.3
    masks[2], masks[3] = False, True
    boxes = torch.tensor([[1.0, 2.0, 6.0, 9.0]]).repeat(4, 1)
    moved = center_boxes(boxes, masks)
    for mask, before, after in zip(masks, boxes.tolist(), moved.tolist()):
        pixels = [(y + 0.5, x + 0.5) for y in range(9) for x in range(13) if mask[y, x]]
        y, x = (
            (math.fsum(values) / len(pixels) for values in zip(*pixels)) if pixels else (5.5, 3.5)
        )
        assert ((after[0] + after[2]) / 2, (after[1] + after[3]) / 2) == pytest.approx((x, y))
        assert after[2] - after[0] == pytest.approx(before[2] - before[0])
        assert after[3] - after[1] == pytest.approx(before[3] - before[1])


def test_a_target_pixel_is_the_rounded_mean_of_the_four_pixels_in_its_middle():
    masks = torch.rand(3, 10, 17, generator=torch.Generator().manual_seed(0)) < 0.5
    targets = shrink_masks(masks, (8, 8))
    padded = torch.zeros(3, 32, 32)
    padded[:, :10, :17] = masks
    for i in range(8):
        for j in range(8):
            mean = padded[:, 4 * i + 1 : 4 * i + 3, 4 * j + 1 : 4 * j + 3].mean((1, 2))
            assert torch.equal(targets[:, i, j], mean >= 0.5)
    resized = functional.interpolate(padded[None], scale_factor=0.25, mode="bilinear")[0]
    assert torch.equal(targets, resized >= 0.5)


def test_polygons_and_bitmaps_give_the_same_targets():
    polygons = PolygonMasks([[torch.tensor([4.0, 4, 30, 4, 30, 40]).numpy()], []])
    instances = Instances((48, 64), gt_masks=polygons)
    bitmaps = BitMasks.from_polygon_masks(polygons, 48, 64)
    drawn = draw_bitmaps(instances, torch.device("cpu"))
    assert torch.equal(drawn, bitmaps.tensor) and drawn[0].any() and not drawn[1].any()


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (5, 4)])
def test_coordinates_agree_with_a_loop(shape):
    height, width = shape
    maps = torch.randn(2, 3, height, width)
    result = append_coordinates(maps)
    assert torch.equal(result[:, :3], maps)
    for y in range(height):
        for x in range(width):
            expected = [
                2 * index / (side - 1) - 1 if side > 1 else -1
                for index, side in ((x, width), (y, height))
            ]
            torch.testing.assert_close(result[:, 3:, y, x], torch.tensor([expected] * 2).float())


def test_the_head_predicts_on_every_grid_and_rejects_another_number_of_levels():
    head = SOLOv2Head(
        in_channels=8, num_classes=K, grids=[5, 4, 3], channels=32, kernel_channels=32
    )
    features = [torch.randn(2, 8, 2**i, 2**i) for i in (4, 3, 2)]
    predictions = head(features)
    assert [tuple(level.shape) for level in predictions.logits] == [(2, K, s, s) for s in (5, 4, 3)]
    assert [level.shape[1] for level in predictions.kernels] == [32] * 3
    assert predictions.mask_features.shape == (2, 32, 16, 16)
    assert head.category.bias.sigmoid().tolist() == pytest.approx([0.01] * K)
    with pytest.raises(ValueError, match="features: expected 3 levels, as in grids, got 2"):
        head(features[:2])


def detect_by_loop(logits, kernels, features, strides, thresh, topk, min_score, limit, min_area):
    """SOLOv2's inference in Python numbers: (score, class, pixels) of each detection."""
    found = []
    for level, level_kernels, stride in zip(logits, kernels, strides):
        scores = [reference.points_nms(maps) for maps in level.sigmoid().tolist()]
        for label, i, j in (
            (k, i, j)
            for i in range(level.shape[1])
            for j in range(level.shape[2])
            for k in range(level.shape[0])
        ):
            if scores[label][i][j] <= thresh:
                continue
            mask = (level_kernels[:, i, j, None, None] * features).sum(0).sigmoid()
            pixels = {tuple(p) for p in (mask > 0.5).nonzero().tolist()}
            if len(pixels) > min_area * stride:
                mean = sum(float(mask[p]) for p in pixels) / len(pixels)
                found.append((scores[label][i][j] * mean, label, pixels))
    found = sorted(found, key=lambda entry: -entry[0])[:topk]
    scores, classes, masks = zip(*found) if found else ([], [], [])
    lowered = reference.matrix_nms(masks, scores, classes, "gaussian", 2.0)
    best = sorted(zip(lowered, classes, masks), key=lambda entry: -entry[0])[:limit]
    return [entry for entry in best if entry[0] >= min_score]


@pytest.mark.parametrize(
    ("thresh", "topk", "min_score", "limit", "min_area"),
    [
        (0.0, 500, 0.0, 100, 1.0),
        (0.3, 500, 0.1, 100, 0.0),
        (0.2, 9, 0.0, 5, 2.0),
        (0.999, 5, 0.0, 5, 1.0),
    ],
)
def test_inference_agrees_with_a_loop(thresh, topk, min_score, limit, min_area):
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(K, size, size, generator=generator) for size in (5, 3)]
    kernels = [torch.randn(4, size, size, generator=generator) for size in (5, 3)]
    features = torch.randn(4, 6, 8, generator=generator)
    strides = [8, 16]
    inference = SOLOv2Inference(
        score_thresh=thresh,
        topk=topk,
        min_score=min_score,
        max_detections=limit,
        min_area=min_area,
    )
    rows = torch.tensor(strides).repeat_interleave(torch.tensor([25, 9]))
    detections = inference(logits, kernels, features, rows)
    options = thresh, topk, min_score, limit, min_area
    expected = detect_by_loop(logits, kernels, features, strides, *options)
    assert len(detections.scores) == len(expected) and (len(expected) > 4) == (thresh < 0.9)
    for mask, score, label, (other_score, other_label, pixels) in zip(*detections, expected):
        assert (float(score), int(label)) == (pytest.approx(other_score, rel=1e-5), other_label)
        assert {tuple(p) for p in (mask > 0.5).nonzero().tolist()} == pixels


def test_detections_have_the_size_of_the_image_and_the_boxes_of_their_masks():
    model = build().eval()
    batch = [make_image((50, 77)) | {"height": 100, "width": 154}, make_image((64, 33))]
    with torch.no_grad():
        outputs = [output["instances"] for output in model(batch)]
        alone = model(batch[1:])[0]["instances"]
    for instances, size in zip(outputs, ((100, 154), (64, 33))):
        assert instances.image_size == size and instances.pred_masks.shape[1:] == size
        assert instances.pred_masks.dtype == torch.bool and 0 < len(instances) <= 100
        assert (instances.scores.diff() <= 0).all() and instances.pred_classes.max() < K
        boxes = BitMasks(instances.pred_masks).get_bounding_boxes().tensor
        assert torch.equal(instances.pred_boxes.tensor, boxes)
        assert instances.pred_masks.flatten(1).any(1).all()
    assert alone.pred_masks.shape[1:] == (64, 33)


def test_a_diverged_or_certain_model_has_no_detections_and_no_error():
    model = build().eval()
    for value in (torch.nan, torch.inf):
        nn.init.constant_(model.head.kernel.bias, value)
        with torch.no_grad():
            instances = model([make_image()])[0]["instances"]
        assert instances.pred_masks.shape[1:] == (64, 64)
        assert instances.scores.isfinite().all()
    nn.init.constant_(model.head.category.bias, -torch.inf)
    with torch.no_grad():
        assert len(model([make_image()])[0]["instances"]) == 0


@pytest.mark.parametrize("loss", ["rs", "focal"])
def test_find_positives_returns_the_cells_of_a_training_step(loss):
    model = build(loss)
    batch = [make_image((64, 80)), make_image(boxes=()), make_image()]
    candidates, _ = candidates_of(model, batch)
    positives = model.find_positives(batch)
    assert not model.positives_need_images
    cells = torch.cat(model.make_cells(model.preprocess(batch)))
    rows = candidates.positives[candidates.masks.index]
    counts = candidates.image[rows].bincount(minlength=3).tolist()
    assert [len(of_image.index) for of_image in positives] == counts and counts[1] == 0
    assert torch.equal(torch.cat([p.boxes for p in positives]), cells[rows % len(cells)])
    for inputs, of_image in zip(batch, positives):
        assert of_image.description == "the cells assigned to it" and not of_image.are_points
        assert set(of_image.index.tolist()) == set(range(len(inputs["instances"])))
    for inputs in batch:
        inputs["instances"].remove("gt_masks")  # as in the counts of a data report
    # The center of mass of an ellipse is that of its box.
    assert [len(of_image.index) for of_image in model.find_positives(batch)] == counts


def test_objects_without_masks_and_wrong_classes_raise_an_error_that_says_so():
    model, inputs = build().train(), make_image()
    inputs["instances"].gt_classes[0] = K
    with pytest.raises(ValueError, match=f"expected class indices from 0 to {K - 1}, got {K}"):
        model([inputs])
    inputs = make_image()
    inputs["instances"].remove("gt_masks")
    with pytest.raises(ValueError, match="instances: expected gt_masks, got none; the data loader"):
        model([inputs])


def test_test_time_augmentation_is_refused():
    message = "model: expected a detector with test-time augmentation, got RankingSOLOv2"
    with pytest.raises(ValueError, match=message):
        build().augment_inference(min_sizes=[64], max_size=96, flip=True)


def criterion(**options):
    return Criterion(**{"classification": RankSort(), "localization": MaskDice()} | options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_features": ["p2", "p3"]}, "in_features: expected 5 features, one for each grid"),
        ({"in_features": ["p3", "p4", "p5", "p6", "p6"]}, r"strides from 4, got strides \[8"),
        ({"assigner": PAA()}, "assigner: expected one for cells, such as CenterRegion, got PAA"),
        ({"assigner": FCOS()}, "assigner: expected one for cells, such as CenterRegion, got FCOS"),
        ({"max_masks": 0}, "max_masks: expected an integer of at least 1, got 0"),
        (
            {"criterion": criterion(localization=GIoU())},
            "criterion.localization: expected losses on masks only, .* got GIoU",
        ),
        (
            {
                "criterion": criterion(
                    classification=Focal(),
                    normalizer=PositiveCount(),
                    branch=BranchLoss(CenternessWeight()),
                )
            },
            "criterion.branch: expected None because the head has no branch",
        ),
        (
            {"criterion": criterion(classification=CrossEntropy(), normalizer=CandidateCount())},
            "criterion.classification: expected a loss on the sigmoid of each class",
        ),
    ],
)
def test_incompatible_parts_raise_value_error(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_other_assigners_of_cells_fit():
    candidates, losses = candidates_of(build(assigner=ATSS(topk=3)), BATCHES["two images"]())
    assert len(candidates.positives) > 0 and all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_thresh": 1.5}, "score_thresh: expected a number of at most 1, got 1.5"),
        ({"min_score": -1.0}, "min_score: expected a finite number of at least 0, got -1"),
        ({"topk": 0}, "topk: expected an integer of at least 1, got 0"),
        ({"kernel": "hard"}, "kernel: expected one of gaussian, linear, got 'hard'"),
    ],
)
def test_inference_names_the_wrong_option(options, message):
    with pytest.raises(ValueError, match=message):
        SOLOv2Inference(**options)
