import pytest
import torch

from ranking_det import row_blocks as blocks
from ranking_det.assigners import BACKGROUND, IGNORE, MaxIoU
from tests.assigners.cases import grid, random_boxes
from tests.assigners.reference import max_iou


def expected(anchors, gt_boxes, gt_classes, valid, **options):
    boxes = torch.cat(anchors).tolist()
    matches = max_iou(boxes, gt_boxes.tolist(), valid.tolist(), **options)
    special = {None: BACKGROUND, ...: IGNORE}
    labels = [special[m] if m in special else gt_classes[m].item() for m in matches]
    index = [-1 if m in special else m for m in matches]
    labels = torch.tensor(labels).masked_fill(~valid, IGNORE)
    return labels, torch.tensor(index)


LOW_QUALITY_RULES = pytest.mark.parametrize("low_quality", ["object", "anchor", None])


def check_against_the_reference(assigner, scene):
    anchors, gt_boxes, gt_classes, valid = scene
    result = assigner(*scene)
    options = dict(
        positive=assigner.positive_iou,
        negative=assigner.negative_iou,
        low_quality=assigner.low_quality,
        low_quality_iou=assigner.low_quality_iou,
    )
    size, offset = sum(map(len, anchors)), 0
    for i, boxes in enumerate(gt_boxes):
        rows = slice(i * size, (i + 1) * size)
        labels, index = expected(anchors, boxes, gt_classes[i], valid[rows], **options)
        torch.testing.assert_close(result.labels[rows], labels)
        torch.testing.assert_close(
            result.gt_index[rows], torch.where(index >= 0, index + offset, -1)
        )
        offset += len(boxes)
    return result


@LOW_QUALITY_RULES
def test_max_iou_agrees_with_the_reference_on_two_images(scene, low_quality):
    result = check_against_the_reference(MaxIoU(0.5, 0.3, low_quality), scene)
    assert (result.labels >= 0).any() and (result.labels == IGNORE).any()


@LOW_QUALITY_RULES
@pytest.mark.parametrize("min_match_iou", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(8))
def test_max_iou_agrees_with_the_reference_in_crowded_images_with_many_equal_ious(
    seed, min_match_iou, low_quality
):
    """Integer coordinates and anchors on a grid give equal IoUs; some boxes occur twice."""
    generator = torch.Generator().manual_seed(seed)
    anchors = [grid(64, stride, (2.0, 4.0)) for stride in (8, 16)]
    corner = 4 * torch.randint(0, 14, (2, 20, 2), generator=generator, dtype=torch.float64)
    sides = 4 * torch.randint(1, 9, (2, 20, 2), generator=generator, dtype=torch.float64)
    boxes = torch.cat([corner, corner + sides], dim=2)
    boxes[:, 15:] = boxes[:, :5]
    classes = [torch.randint(0, 4, (20,), generator=generator) for _ in range(2)]
    valid = torch.rand(2 * sum(map(len, anchors)), generator=generator) > 0.1
    assigner = MaxIoU(0.6, 0.4, low_quality, min_match_iou)
    check_against_the_reference(assigner, (anchors, list(boxes), classes, valid))


@pytest.mark.parametrize("low_quality", ["anchor", None])
def test_max_iou_agrees_with_detectron2_if_every_object_overlaps_an_anchor(low_quality):
    pytest.importorskip("detectron2")
    from detectron2.modeling.matcher import Matcher
    from detectron2.structures import Boxes, pairwise_iou

    generator = torch.Generator().manual_seed(0)
    anchors = torch.cat([grid(128, s, (4.0, 5.04, 6.35)) for s in (8, 16, 32)]).float()
    boxes = random_boxes(12, 128, generator).float()
    matcher = Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=low_quality == "anchor")
    index, matched = matcher(pairwise_iou(Boxes(boxes), Boxes(anchors)))
    classes = torch.arange(12)
    result = MaxIoU(0.5, 0.4, low_quality)(
        [anchors], [boxes], [classes], torch.ones(len(anchors), dtype=torch.bool)
    )
    torch.testing.assert_close(result.labels >= 0, matched == 1)
    torch.testing.assert_close(result.labels == IGNORE, matched == -1)
    torch.testing.assert_close(result.gt_index[matched == 1], index[matched == 1])


def test_an_object_that_overlaps_no_anchor_has_no_positive():
    anchors = [torch.tensor([[0.0, 0.0, 8.0, 8.0], [8.0, 0.0, 16.0, 8.0]])]
    far = torch.tensor([[100.0, 100.0, 110.0, 110.0]])
    result = MaxIoU()(anchors, [far], [torch.tensor([3])], torch.ones(2, dtype=torch.bool))
    assert result.labels.tolist() == [BACKGROUND, BACKGROUND]


@pytest.mark.parametrize(("low_quality", "label"), [("object", 6), ("anchor", 5), (None, -1)])
def test_low_quality_matches_are_assigned_by_object_or_by_anchor(low_quality, label):
    """The anchor overlaps the first object more (IoU 0.8), and is the best anchor of both."""
    anchors = [torch.tensor([[0.0, 0.0, 10.0, 10.0]])]
    objects = torch.tensor([[0.0, 0.0, 10.0, 8.0], [0.0, 0.0, 2.0, 10.0]])
    result = MaxIoU(0.9, 0.9, low_quality)(
        anchors, [objects], [torch.tensor([5, 6])], torch.tensor([True])
    )
    assert result.labels.tolist() == [label]


def test_a_low_quality_match_replaces_the_match_of_an_object_with_a_higher_iou():
    """Anchor 0 is positive for object 0, but it is the only anchor that overlaps object 1."""
    anchors = [torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0]])]
    objects = torch.tensor([[0.0, 0.0, 10.0, 9.5], [0.0, 9.0, 10.0, 12.0]])
    result = MaxIoU(0.5, 0.4)(anchors, [objects], [torch.tensor([5, 6])], torch.ones(2) > 0)
    assert result.labels.tolist() == [6, 5]
    result = MaxIoU(0.5, 0.4, "anchor")(
        anchors, [objects], [torch.tensor([5, 6])], torch.ones(2) > 0
    )
    assert result.labels.tolist() == [5, 5]


@LOW_QUALITY_RULES
def test_the_block_size_does_not_change_the_result(scene, monkeypatch, low_quality):
    assigner = MaxIoU(0.5, 0.3, low_quality)
    in_one_block = assigner(*scene)
    monkeypatch.setattr(blocks, "BLOCK_ENTRIES", 2 * sum(map(len, scene[0])))
    for name in ("labels", "gt_index"):
        torch.testing.assert_close(getattr(assigner(*scene), name), getattr(in_one_block, name))


def test_the_error_names_the_wrong_threshold():
    with pytest.raises(ValueError, match=r"^negative_iou, positive_iou: .* got \(0.6, 0.5\)"):
        MaxIoU(0.5, 0.6)
    with pytest.raises(
        ValueError, match="low_quality: expected 'object', 'anchor' or None, got True"
    ):
        MaxIoU(low_quality=True)


def test_a_low_quality_match_needs_the_minimum_iou():
    """Below the minimum IoU, the anchor is labeled as without low-quality matches."""
    anchors = [torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])]
    objects = torch.tensor([[0.0, 0.0, 10.0, 4.0], [20.0, 0.0, 30.0, 2.0]])  # IoU .4 and .2
    result = MaxIoU(0.7, 0.3, low_quality_iou=0.3)(
        anchors, [objects], [torch.tensor([5, 6])], torch.ones(2, dtype=torch.bool)
    )
    assert result.labels.tolist() == [5, BACKGROUND]
    with pytest.raises(ValueError, match=r"low_quality_iou: expected a number in \[0, 1\], got 2"):
        MaxIoU(low_quality_iou=2)
