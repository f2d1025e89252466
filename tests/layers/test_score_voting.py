import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking_det.layers import suppression
from tests.layers import reference
from tests.layers.cases import detections, vote_boxes


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 40),
    num_classes=st.integers(1, 4),
    seed=st.integers(0, 10**6),
    min_iou=st.sampled_from([0.0, 0.01, 0.4]),
    sigma=st.sampled_from([0.025, 0.5]),
    block=st.sampled_from([1, 300, 1 << 20]),
)
def test_score_voting_agrees_with_the_reference_for_any_block_size(
    n, num_classes, seed, min_iou, sigma, block
):
    boxes, scores, classes = detections(n, num_classes, seed)
    survivors = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[: (n + 1) // 2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suppression, "BLOCK_ENTRIES", block)
        voted = vote_boxes(survivors, boxes, scores, classes, min_iou=min_iou, sigma=sigma)
    args = survivors.tolist(), boxes.tolist(), scores.tolist(), classes.tolist()
    expected = torch.tensor(reference.vote(*args, min_iou, sigma), dtype=torch.float64)
    torch.testing.assert_close(voted, expected)


def test_the_default_options_are_those_of_the_paper():
    boxes, scores, classes = detections(40)
    survivors = torch.arange(40)
    args = survivors.tolist(), boxes.tolist(), scores.tolist(), classes.tolist()
    expected = torch.tensor(reference.vote(*args, 0.01, 0.025), dtype=torch.float64)
    torch.testing.assert_close(vote_boxes(survivors, boxes, scores, classes), expected)
    expected = torch.tensor(reference.vote(*args, 0.01, 9.0), dtype=torch.float64)
    torch.testing.assert_close(vote_boxes(survivors, boxes, scores, classes, sigma=9.0), expected)


def test_boxes_of_iou_0_or_of_another_class_have_no_vote():
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [9.0, 9.0, 12.0, 12.0], [1.0, 1.0, 9.0, 9.0]])
    voted = vote_boxes(
        torch.tensor([0]), boxes, torch.tensor([0.1, 0.9, 0.9]), torch.tensor([0, 0, 1])
    )
    assert torch.equal(voted, boxes[:1])


def test_empty_and_non_finite_boxes_do_not_affect_the_others():
    boxes, scores, classes = detections(12, num_classes=1, dtype=torch.float32)
    boxes[0, 2:] = boxes[0, :2]
    boxes[1], boxes[2, 3] = torch.nan, torch.inf
    voted = vote_boxes(torch.arange(12), boxes, scores, classes)
    assert torch.equal(voted[0], boxes[0])  # its IoU with itself is 0
    valid_rows = torch.arange(3, 12)
    good_only = vote_boxes(
        torch.arange(9), boxes[valid_rows], scores[valid_rows], classes[valid_rows]
    )
    torch.testing.assert_close(voted[3:], good_only)


def test_equal_boxes_far_from_the_origin_are_not_changed_by_rounding():
    boxes = torch.tensor([[99999.1, 5000.3, 100010.7, 5020.9]]).repeat(50, 1)
    classes = torch.zeros(50, dtype=torch.int64)
    voted = vote_boxes(torch.tensor([7]), boxes, torch.rand(50), classes)
    assert torch.equal(voted, boxes[:1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_computed_in_float32(dtype):
    boxes, scores, classes = detections(30, dtype=dtype)
    survivors = torch.arange(30)
    expected = vote_boxes(survivors, boxes.float(), scores.float(), classes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        voted = vote_boxes(survivors, boxes, scores, classes)
    assert voted.dtype == torch.float32 and torch.equal(voted, expected)


def test_score_voting_accepts_empty_survivors_and_detections():
    boxes, scores, classes = detections(5)
    none = torch.zeros(0, dtype=torch.int64)
    assert vote_boxes(none, boxes, scores, classes).shape == (0, 4)
    assert vote_boxes(none, boxes[:0], scores[:0], classes[:0]).shape == (0, 4)


def test_no_argument_is_changed():
    case = (torch.arange(20), *detections(20))
    copies = [tensor.clone() for tensor in case]
    vote_boxes(*case)
    assert all(torch.equal(a, b) for a, b in zip(case, copies))


def test_the_error_names_the_wrong_argument():
    boxes, scores, classes = detections(5)
    with pytest.raises(ValueError, match=r"scores: expected a float tensor \(5,\), .*\(4,\)"):
        vote_boxes(torch.arange(5), boxes, scores[:4], classes)
    with pytest.raises(ValueError, match="sigma: expected a finite number above 0, got 0"):
        vote_boxes(torch.arange(5), boxes, scores, classes, sigma=0)
