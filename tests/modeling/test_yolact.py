"""YOLACT: training steps, mask targets, continuous labels, inference and overfitting."""

from unittest import mock

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from ranking_det.criteria import Criterion, GIoU, RankSort
from ranking_det.losses import dice_errors
from ranking_det.modeling import PrototypeMasks, interface_of
from ranking_det.modeling.masks import prototype_masks
from ranking_det.modeling.masks.prototype_masks import resize_masks, shrink_masks
from tests.modeling.cases import ellipses, load, make_batch

KINDS = ["yolact_rs", "yolact_ce"]
SIZES = ((97, 66), (64, 83))  # odd sides, and padding


def build(kind="yolact_rs", **changes):
    cfg = load(f"quick/{kind}.py").model
    for key, value in changes.items():
        part, _, name = key.partition("__")
        (cfg[part] if name else cfg)[name or part] = value
    torch.manual_seed(0)
    return instantiate(cfg).train()


def step(model, batch):
    losses = model(batch)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    return losses


def record(model):
    """Return a list to which each step adds its candidates."""
    candidates = []
    model.criterion.register_forward_pre_hook(lambda _, inputs: candidates.append(*inputs))
    return candidates


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("counts", [(3, 5), (0, 4), (1, 0)])
def test_a_step_trains_every_parameter(kind, counts):
    model = build(kind)
    losses = step(model, make_batch(counts, SIZES))
    names = {"loss_rank", "loss_sort"} if kind == "yolact_rs" else {"loss_cls", "loss_semantic"}
    assert losses.keys() == names | {"loss_box", "loss_mask"}
    for name, parameter in model.named_parameters():
        # Some levels may have neither positives nor hard negatives.
        if kind == "yolact_rs" or not name.startswith("backbone"):
            assert parameter.grad.any(), name


@pytest.mark.parametrize("kind", KINDS)
def test_without_objects_the_box_and_mask_losses_are_zeros_attached_to_the_graph(kind):
    model = build(kind)
    losses = step(model, make_batch((0, 0), SIZES))
    assert losses["loss_box"] == losses["loss_mask"] == 0
    for layer in (model.head.bbox_pred, model.head.mask_pred, model.mask_branch.protonet[-2]):
        assert not layer.weight.grad.any()
    if kind == "yolact_rs":
        assert sum(losses.values()) == 0
    else:
        assert losses["loss_cls"] > 0 and losses["loss_semantic"] > 0


def make_objects(boxes, size=(40, 60)):
    objects = Instances(size, gt_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)))
    objects.gt_classes = torch.arange(len(boxes))
    objects.gt_masks = BitMasks(ellipses(objects.gt_boxes.tensor, *size))
    return objects


# The third object is too small for a pixel of the prototypes, the last one leaves the image.
OBJECTS = [
    make_objects([[4.0, 5.0, 30.0, 39.0], [20.0, 0.0, 60.0, 18.0], [50.0, 30.0, 51.0, 31.0]]),
    make_objects([], size=(48, 30)),
    make_objects([[0.0, 0.0, 66.0, 40.0]]),
]
PADDED = 48, 64


def branch(**options):
    torch.manual_seed(0)
    options = {"in_channels": 4, "num_classes": 3, "num_prototypes": 5, "num_convs": 1} | options
    return PrototypeMasks(**options)


def targets(masks, gt_index=(0, 1, 2, 1, 3), image=(0, 0, 0, 0, 2)):
    prototypes = masks(torch.randn(3, 4, 6, 8))
    coefficients = torch.randn(len(gt_index), 5).tanh().requires_grad_()
    rows = torch.tensor(image), torch.tensor(gt_index)
    return (
        prototypes,
        coefficients,
        masks.make_targets(prototypes, coefficients, *rows, OBJECTS, PADDED),
    )


def test_mask_targets_agree_with_a_loop_over_the_positives_and_pixels():
    image, gt_index = (0, 0, 0, 0, 2), (0, 1, 2, 1, 3)
    prototypes, coefficients, masks = targets(branch(), gt_index, image)
    assert prototypes.shape == (3, 5, 12, 16)  # four pixels of the image are one of the prototypes
    assert masks.index.tolist() == [0, 1, 3, 4]
    for logits, mask, area, p in zip(masks.logits, masks.masks, masks.areas, masks.index.tolist()):
        objects = OBJECTS[image[p]]
        row = gt_index[p] - (3 if image[p] == 2 else 0)
        x1, y1, x2, y2 = (objects.gt_boxes.tensor[row] / 4).tolist()
        full = objects.gt_masks.tensor[row]
        assert area == pytest.approx((x2 - x1) * (y2 - y1))
        for r in range(12):
            for c in range(16):
                is_inside = y1 - 1 <= r + 0.5 < y2 + 1 and x1 - 1 <= c + 0.5 < x2 + 1
                value = sum(coefficients[p, k] * prototypes[image[p], k, r, c] for k in range(5))
                # The center of the pixel is between four pixels of the image.
                corner = full[4 * r + 1 : 4 * r + 3, 4 * c + 1 : 4 * c + 3]
                assert mask[r, c] == (is_inside and corner.sum() / 4 > 0.5)
                if is_inside:
                    torch.testing.assert_close(logits[r, c], value)
                else:
                    assert logits[r, c].sigmoid() < 1e-40
    masks.logits.sum().backward()
    assert coefficients.grad[2].eq(0).all() and coefficients.grad[[0, 1, 3, 4]].any(dim=1).all()


def test_polygons_give_the_same_masks_as_bitmaps():
    polygons = [[torch.tensor([4.0, 4, 40, 4, 40, 30, 4, 30]).double().numpy()], []]
    objects = Instances((40, 60), gt_boxes=Boxes([[4.0, 4, 40, 30], [1, 1, 9, 9]]))
    objects.gt_masks = PolygonMasks(polygons)
    masks = shrink_masks([objects], (40, 60), (10, 15))
    objects.gt_masks = BitMasks.from_polygon_masks(objects.gt_masks, 40, 60)
    assert torch.equal(masks, shrink_masks([objects], (40, 60), (10, 15)))
    assert masks[0].sum() > 50 and not masks[1].any()


def test_max_masks_limits_the_masks_of_each_image():
    image, gt_index = (0,) * 5 + (2,) * 4, (0, 1, 0, 2, 1, 3, 3, 3, 3)
    assert targets(branch(max_masks=9), gt_index, image)[2].index.tolist() == [
        0,
        1,
        2,
        4,
        5,
        6,
        7,
        8,
    ]
    chosen = set()
    for _ in range(20):
        index = targets(branch(max_masks=2), gt_index, image)[2].index
        torch.manual_seed(len(chosen) + 7 * int(index.sum()))
        assert len(index) == 4 and (index.diff() > 0).all()
        assert (index[:2] < 5).all() and (index[2:] >= 5).all() and 3 not in index
        chosen |= set(index.tolist())
    with pytest.raises(ValueError, match="max_masks: expected an integer of at least 1, got 0"):
        branch(max_masks=0)


def test_the_semantic_loss_agrees_with_a_loop_over_the_cells():
    masks, feature = branch(semantic=True), torch.randn(3, 4, 6, 8)
    loss = masks.semantic_loss(feature, OBJECTS, PADDED)
    scores = masks.semantic(feature).sigmoid()
    total = 0.0
    for i, objects in enumerate(OBJECTS):
        shrunk = shrink_masks([objects], PADDED, (6, 8))
        for k in range(3):
            target = shrunk[objects.gt_classes == k].any(dim=0)
            total -= torch.where(target, scores[i, k], 1 - scores[i, k]).log().sum()
    torch.testing.assert_close(loss, total / (3 * 6 * 8))


def test_objects_without_masks_train_boxes_only_and_objects_without_gt_masks_raise_value_error():
    model, batch = build(), make_batch((3, 2), SIZES)
    candidates = record(model)
    model(batch)
    batch[0]["instances"].gt_masks = BitMasks(torch.zeros(3, *SIZES[0]))
    step(model, batch)
    before, after = candidates
    assert torch.equal(before.positives, after.positives)
    assert set(after.image[after.positives[after.masks.index]].tolist()) == {1}
    for inputs in batch:
        inputs["instances"].remove("gt_masks")
    with pytest.raises(ValueError, match="expected gt_masks, got none; .*masks=True"):
        model(batch)


@pytest.mark.parametrize("label", ["binary", "iou", "dice", "mean"])
def test_the_positives_are_ranked_by_the_continuous_label(label):
    model = build(continuous_label=label)
    (candidates,) = [record(model)]
    model(make_batch((3, 2)))
    (case,) = candidates
    iou, dice = case.boxes.overlap(), case.boxes.overlap()
    dice[case.masks.index] = 1 - dice_errors(case.masks.logits, case.masks.masks).detach()
    ones = torch.ones_like(iou)
    expected = {"binary": ones, "iou": iou, "dice": dice, "mean": (iou + dice) / 2}[label]
    torch.testing.assert_close(case.quality, expected)
    assert label != "dice" or (expected - iou).abs().max() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("nms", ["fast", "hard", "gaussian"])
def test_detections_have_boxes_and_masks_of_the_size_of_their_image(nms):
    changes = {} if nms == "fast" else {"inference__suppression": None, "inference__nms": nms}
    model, sizes = build(**changes).eval(), [(97, 66), (64, 83), (50, 120)]
    batch = make_batch((1, 1, 1), tuple(sizes))
    batch[2] |= {"height": 75, "width": 180}  # the image was resized before
    sizes[2] = (75, 180)
    for output, (height, width) in zip(model(batch), sizes, strict=True):
        detections = output["instances"]
        assert 0 < len(detections) <= 100 and (detections.scores.diff() <= 0).all()
        assert set(detections.get_fields()) == {
            *("pred_boxes", "pred_masks", "pred_classes", "scores")
        }
        masks = detections.pred_masks
        assert masks.shape == (len(detections), height, width) and masks.dtype == torch.bool
        assert masks.any()
        x1, y1, x2, y2 = detections.pred_boxes.tensor[:, :, None].unbind(1)
        # A mask stays in its box, which grows by one pixel of the prototypes and by rounding.
        x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
        margin = 3 * 4 * 1.5
        assert not (masks.any(dim=1) & ((x < x1 - margin) | (x > x2 + margin))).any()
        assert not (masks.any(dim=2) & ((y < y1 - margin) | (y > y2 + margin))).any()


@torch.no_grad()
def test_a_mask_is_that_of_the_anchor_of_its_detection():
    model, batch = build().eval(), make_batch((1,), ((96, 96),))
    images = model.preprocess_image(batch)
    pyramid = model.backbone(images.tensor)
    features = [pyramid[name] for name in model.head_in_features]
    predictions = model.head(features)
    (detections,) = model.forward_inference(images, features, predictions)
    prototypes = model.mask_branch(features[0])[0]
    maps = [
        level.unflatten(1, (3, 32)).permute(0, 3, 4, 1, 2) for level in predictions.coefficients
    ]
    coefficients = torch.cat([level.reshape(-1, 32) for level in maps])
    boxes = model.propose(batch)[0]
    for box, scores, score in zip(
        detections.pred_boxes.tensor[:20], detections.mask_scores, detections.scores
    ):
        row = boxes.rows[(boxes.scores - score).abs().argmin()]
        expected = torch.einsum("c,chw->hw", coefficients[row], prototypes).sigmoid()
        is_inside = scores > 0
        assert is_inside.any()
        torch.testing.assert_close(scores[is_inside], expected[is_inside])
        r, c = is_inside.nonzero().T
        assert (c * 4 >= box[0] - 8).all() and (c * 4 <= box[2] + 8).all()


def test_masks_without_their_padding_cover_the_image():
    masks, boxes = branch(), torch.tensor([[8.0, 12.0, 28.0, 32.0]])
    prototypes, coefficients = torch.ones(5, 12, 16), torch.full((1, 5), 9.0)
    padded = masks.predict(prototypes, coefficients, boxes, PADDED, (37, 30))
    assert padded.shape == (1, 37, 30)
    mask = resize_masks(padded, (74, 60))[0]
    box = BitMasks(mask[None]).get_bounding_boxes().tensor[0]
    # Twice the size, grown by one pixel of the prototypes (four of the image), and cut off.
    torch.testing.assert_close(box, torch.tensor([8.0, 16.0, 60.0, 72.0]), atol=1.0, rtol=0)
    whole = masks.predict(prototypes, coefficients, boxes, PADDED, PADDED)
    assert whole.shape == (1, 12, 16)


def test_resizing_in_blocks_gives_the_same_masks():
    masks = torch.rand(5, 7, 9)
    expected = resize_masks(masks, (20, 31))
    assert expected.shape == (5, 20, 31) and resize_masks(masks[:0], (20, 31)).shape == (0, 20, 31)
    with mock.patch.object(prototype_masks, "MASK_PIXELS", 1):
        assert torch.equal(resize_masks(masks, (20, 31)), expected)


def test_find_positives_returns_the_positives_of_a_training_step():
    model, batch = build(), make_batch((3, 0, 2), SIZES)
    candidates = record(model)
    model(batch)
    (case,) = candidates
    positives = model.find_positives(batch)
    counts = case.image[case.positives].bincount(minlength=3).tolist()
    assert [len(image.index) for image in positives] == counts
    assert torch.equal(torch.cat([image.boxes for image in positives]), case.boxes.anchors)
    assert not model.positives_need_images


def test_test_time_augmentation_is_refused():
    interface = interface_of(build())
    message = "model: expected a detector with test-time augmentation, got RankingYOLACT"
    with pytest.raises(ValueError, match=message):
        interface.augment_inference(min_sizes=[64], max_size=100, flip=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head__num_coefficients": 8}, "head.num_coefficients: expected 32, the prototypes .* 8"),
        ({"head__num_anchors": 1}, r"head.num_anchors: expected \[3\], as in the anchor generator"),
        (
            {"criterion": Criterion(classification=RankSort(), localization=GIoU())},
            "criterion.localization: expected a mask loss, such as MaskDice, .* got none",
        ),
        ({"inference__softmax": True}, "inference.softmax: expected False because .* got True"),
        ({"continuous_label": "giou"}, "continuous_label: expected one of iou, dice, mean, binary"),
        (
            {"anchor_generator__strides": [4, 8, 16, 32, 64]},
            r"anchor_generator.strides: expected \[8, 16, 32, 64, 128\], .* got \[4, 8, 16",
        ),
    ],
)
def test_incompatible_parts_raise_value_error(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_cross_entropy_needs_a_softmax_at_inference():
    with pytest.raises(ValueError, match="inference.softmax: expected True .* got False"):
        build("yolact_ce", inference__softmax=False)
    model = build("yolact_ce").eval()
    logits, anchors = torch.randn(6, 3), torch.tensor([[0.0, 0, 9, 9]]).expand(6, 4)
    raw = model.inference.propose([logits], [torch.zeros(6, 4)], [anchors], model.decode)
    scores = torch.cat([logits, torch.zeros(6, 1)], dim=1).softmax(1)
    torch.testing.assert_close(raw.scores, scores[raw.rows, raw.classes])
