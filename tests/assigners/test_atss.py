import pytest
import torch

from ranking_det import row_blocks as blocks
from ranking_det.assigners import ATSS, BACKGROUND, IGNORE
from tests.assigners.cases import grid, random_boxes
from tests.assigners.reference import atss


def expected(anchors, gt_boxes, gt_classes, valid, topk):
    matches = atss([a.tolist() for a in anchors], gt_boxes.tolist(), valid.tolist(), topk)
    labels = [BACKGROUND if m is None else gt_classes[m].item() for m in matches]
    index = [-1 if m is None else m for m in matches]
    return torch.tensor(labels).masked_fill(~valid, IGNORE), torch.tensor(index)


@pytest.mark.parametrize("topk", [1, 2, 9, 1000])
def test_atss_agrees_with_the_reference_on_two_images(scene, topk):
    anchors, gt_boxes, gt_classes, valid = scene
    result = ATSS(topk)(*scene)
    half = len(valid) // 2
    for i in range(2):
        rows = slice(i * half, (i + 1) * half)
        labels, index = expected(anchors, gt_boxes[i], gt_classes[i], valid[rows], topk)
        torch.testing.assert_close(result.labels[rows], labels)
        torch.testing.assert_close(result.gt_index[rows], index)
    assert topk == 1 or (result.labels >= 0).any()


@pytest.mark.parametrize("seed", range(8))
def test_atss_agrees_with_the_reference_in_crowded_images(seed):
    generator = torch.Generator().manual_seed(seed)
    anchors = [grid(64, s, jitter=generator) for s in (8, 16, 32)]
    boxes = random_boxes(25, 64, generator)
    classes = torch.randint(0, 5, (25,), generator=generator)
    valid = torch.ones(sum(map(len, anchors)), dtype=torch.bool)
    labels, index = expected(anchors, boxes, classes, valid, 9)
    result = ATSS()(anchors, [boxes], [classes], valid)
    torch.testing.assert_close(result.labels, labels)
    torch.testing.assert_close(result.gt_index, index)


def test_gt_index_points_into_the_concatenated_objects_of_all_images():
    anchors = [grid(64, 16)]
    boxes = [torch.tensor([[8.0, 8.0, 60.0, 60.0]]).double()] * 3
    classes = [torch.tensor([c]) for c in (2, 0, 1)]
    result = ATSS()(anchors, boxes, classes, torch.ones(3 * 16, dtype=torch.bool))
    for i, c in enumerate((2, 0, 1)):
        rows = slice(16 * i, 16 * (i + 1))
        positive = result.labels[rows] >= 0
        assert positive.any()
        assert set(result.labels[rows][positive].tolist()) == {c}
        assert set(result.gt_index[rows][positive].tolist()) == {i}
        assert set(result.gt_index[rows][~positive].tolist()) == {-1}


def test_an_anchor_of_two_identical_objects_is_assigned_to_the_first():
    box = torch.tensor([[10.0, 10.0, 50.0, 50.0]]).double()
    result = ATSS()([grid(64, 8)], [box.repeat(2, 1)], [torch.tensor([1, 2])], torch.ones(64) > 0)
    assert set(result.labels.tolist()) == {BACKGROUND, 1}


def test_images_without_objects_are_background():
    valid = torch.tensor([True] * 16 + [False] * 16)
    empty = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    result = ATSS()([grid(64, 16).float()], [empty[0]] * 2, [empty[1]] * 2, valid)
    assert result.labels.tolist() == [BACKGROUND] * 16 + [IGNORE] * 16
    assert result.gt_index.tolist() == [-1] * 32


def test_there_are_no_positives_without_valid_anchors():
    box = [torch.tensor([[8.0, 8.0, 60.0, 60.0]])]
    valid = torch.zeros(16, dtype=torch.bool)
    result = ATSS()([grid(64, 16).float()], box, [torch.tensor([0])], valid)
    assert result.labels.tolist() == [IGNORE] * 16


def test_a_level_without_anchors_and_an_empty_object_are_accepted():
    box = [torch.tensor([[8.0, 8.0, 60.0, 60.0], [30.0, 30.0, 30.0, 30.0]])]
    anchors = [grid(64, 16).float(), torch.zeros(0, 4)]
    result = ATSS()(anchors, box, [torch.tensor([0, 1])], torch.ones(16, dtype=torch.bool))
    assert set(result.labels.tolist()) == {BACKGROUND, 0}


def test_the_block_size_does_not_change_the_result(scene, monkeypatch):
    in_one_block = ATSS()(*scene)
    monkeypatch.setattr(blocks, "BLOCK_ENTRIES", 300)
    torch.testing.assert_close(ATSS()(*scene).labels, in_one_block.labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(valid=torch.ones(3, dtype=torch.bool)), r"valid: expected bool of shape \(16,\)"),
        (dict(gt_classes=[torch.tensor([0, 1])]), r"gt_boxes\[0\]: expected shape \(2, 4\)"),
        (
            dict(gt_classes=[]),
            r"gt_boxes, gt_classes: expected one entry per image .*, got \(1, 0\)",
        ),
        (
            dict(gt_classes=[torch.tensor([-1])]),
            r"gt_classes\[0\]: expected class indices of at least 0, got -1",
        ),
    ],
)
def test_the_error_names_the_wrong_argument(change, message):
    arguments = dict(
        anchors=[grid(64, 16).float()],
        gt_boxes=[torch.tensor([[8.0, 8.0, 60.0, 60.0]])],
        gt_classes=[torch.tensor([0])],
        valid=torch.ones(16, dtype=torch.bool),
    )
    with pytest.raises(ValueError, match=message):
        ATSS()(**(arguments | change))
    with pytest.raises(ValueError, match="topk: expected an integer of at least 1, got 0"):
        ATSS(0)
