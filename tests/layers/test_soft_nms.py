import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.layers import reference
from tests.layers.cases import detections, soft_nms

METHODS = ["linear", "gaussian"]


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 40),
    num_classes=st.integers(1, 4),
    seed=st.integers(0, 10**6),
    method=st.sampled_from(METHODS),
    iou_thresh=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    sigma=st.sampled_from([0.1, 0.5, 2.0]),
    min_score=st.sampled_from([0.0, 0.05, 0.4]),
    max_detections=st.integers(1, 45),
)
def test_soft_nms_agrees_with_the_reference(
    n, num_classes, seed, method, iou_thresh, sigma, min_score, max_detections
):
    boxes, scores, classes = detections(n, num_classes, seed)
    rows, lowered = soft_nms(
        boxes,
        scores,
        classes,
        method=method,
        iou_thresh=iou_thresh,
        sigma=sigma,
        min_score=min_score,
        max_detections=max_detections,
    )
    args = boxes.tolist(), scores.tolist(), classes.tolist()
    expected = reference.soft_nms(*args, method, iou_thresh, sigma)
    expected = [(i, s) for i, s in expected[:max_detections] if s > min_score]
    assert rows.tolist() == [i for i, _ in expected]
    torch.testing.assert_close(lowered.tolist(), [s for _, s in expected])


@pytest.mark.parametrize("method", METHODS)
def test_a_smaller_limit_gives_the_first_detections_of_a_larger_limit(method):
    case = detections(300, num_classes=4)
    all_detections = soft_nms(*case, method=method, iou_thresh=0.2, max_detections=300)
    assert len(all_detections[0]) == 300 and (all_detections[1].diff() <= 0).all()
    assert (all_detections[1] < case[1][all_detections[0]]).sum() > 100  # most scores are lowered
    for count in (1, 7, 100, 299):
        part = soft_nms(*case, method=method, iou_thresh=0.2, max_detections=count)
        assert part[0].tolist() == all_detections[0][:count].tolist()
        assert part[1].tolist() == all_detections[1][:count].tolist()


@pytest.mark.parametrize(("method", "factor"), [("linear", 0.4), ("gaussian", math.exp(-0.72))])
def test_the_score_of_a_duplicate_is_lowered_as_computed_by_hand(method, factor):
    boxes = torch.tensor([[0.0, 0.0, 10.0, 6.0], [0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.0]])
    index, lowered = soft_nms(
        boxes, torch.tensor([0.5, 0.9, 0.7]), torch.tensor([0, 0, 1]), method=method
    )
    assert index.tolist() == [1, 2, 0]  # the box of another class keeps its score
    torch.testing.assert_close(lowered, torch.tensor([0.9, 0.7, 0.5 * factor]))


def test_the_linear_method_lowers_scores_at_and_above_the_threshold():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0]], dtype=torch.float64)
    case = boxes, torch.tensor([0.9, 0.8], dtype=torch.float64), torch.tensor([0, 0])
    assert soft_nms(*case, iou_thresh=0.5)[1].tolist() == [0.9, 0.4]
    assert soft_nms(*case, iou_thresh=0.51)[1].tolist() == [0.9, 0.8]


def test_the_order_of_the_boxes_does_not_change_the_result():
    boxes, scores, classes = detections(50, seed=3)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    index, lowered = soft_nms(boxes, scores, classes, method="gaussian")
    reordered = soft_nms(boxes[order], scores[order], classes[order], method="gaussian")
    assert order[reordered[0]].tolist() == index.tolist()
    torch.testing.assert_close(reordered[1], lowered)


@pytest.mark.parametrize("method", METHODS)
def test_non_finite_boxes_and_nan_scores_do_not_affect_the_others(method):
    boxes, scores, classes = detections(20, num_classes=1, dtype=torch.float32)
    boxes[3], boxes[4, 2] = torch.nan, torch.inf
    scores[5] = torch.nan
    index, lowered = soft_nms(boxes, scores, classes, method=method)
    assert lowered.isfinite().all() and 5 not in index.tolist()
    assert sorted(index.tolist()) == [i for i in range(20) if i != 5]
    # The other detections are the same as without the invalid ones.
    valid_rows = [i for i in range(20) if i not in (3, 4, 5)]
    good_only = soft_nms(boxes[valid_rows], scores[valid_rows], classes[valid_rows], method=method)
    valid_index = [i for i in index.tolist() if i in valid_rows]
    assert valid_index == [valid_rows[i] for i in good_only[0].tolist()]


def test_scores_of_equal_boxes_become_0_and_are_dropped():
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]]).repeat(9, 1)
    index, lowered = soft_nms(boxes, torch.full((9,), 0.5), torch.zeros(9, dtype=torch.int64))
    assert len(index) == 1 and lowered.tolist() == [0.5]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    boxes, scores, classes = detections(30, dtype=dtype)
    index, lowered = soft_nms(boxes, scores, classes, method="gaussian")
    expected = soft_nms(boxes.float(), scores.float(), classes, method="gaussian")
    assert lowered.dtype == torch.float32
    assert index.tolist() == expected[0].tolist() and torch.equal(lowered, expected[1])


def test_no_argument_is_changed():
    case = detections(20)
    copies = [tensor.clone() for tensor in case]
    soft_nms(*case)
    assert all(torch.equal(a, b) for a, b in zip(case, copies))


VALID = torch.zeros(2, 4), torch.zeros(2), torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("case", "options", "message"),
    [
        ((VALID[0][:, :3], *VALID[1:]), {}, r"boxes: expected a float tensor \(n, 4\), got .*2, 3"),
        (
            (VALID[0], VALID[1][:1], VALID[2]),
            {},
            r"scores: expected a float tensor \(2,\), .*\(1,\)",
        ),
        ((VALID[0], VALID[2], VALID[2]), {}, "scores: expected a float tensor .* got torch.int64"),
        (
            (VALID[0], VALID[1], VALID[1]),
            {},
            "classes: expected an integer tensor .* torch.float32",
        ),
        (
            (VALID[0], VALID[1], VALID[2].to("meta")),
            {},
            "classes: expected a tensor on cpu, got .*me",
        ),
        (VALID, {"method": "hard"}, "method: expected one of linear, gaussian, got 'hard'"),
        (VALID, {"sigma": 0}, "sigma: expected a finite number above 0, got 0"),
        (VALID, {"sigma": math.nan}, "sigma: expected a finite number above 0, got nan"),
        (VALID, {"min_score": -1}, "min_score: expected a finite number of at least 0, got -1"),
        (VALID, {"max_detections": 0}, "limit: expected an integer of at least 1, got 0"),
    ],
)
def test_the_error_names_the_wrong_argument(case, options, message):
    with pytest.raises(ValueError, match=message):
        soft_nms(*case, **options)
