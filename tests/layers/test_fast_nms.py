from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking_det.layers import FastNMS, HardNMS, suppression
from tests.layers import reference
from tests.layers.cases import detections


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 40),
    num_classes=st.integers(1, 5),
    seed=st.integers(0, 10**6),
    iou_thresh=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    topk=st.sampled_from([1, 3, 10, 200]),
    limit=st.integers(1, 45),
)
def test_fast_nms_agrees_with_the_reference(n, num_classes, seed, iou_thresh, topk, limit):
    boxes, scores, classes = detections(n, num_classes, seed)
    classes = 7 * classes  # not all classes have detections
    # Empty boxes, and two boxes of the same size in the same place.
    boxes[: n // 4, 2] = boxes[: n // 4, 0]
    boxes[n // 2 : n // 2 + 2] = boxes[n // 2 : n // 2 + 1]
    survivors = FastNMS(iou_thresh, topk=topk)(boxes, scores, classes, limit)
    lists = boxes.tolist(), scores.tolist(), classes.tolist()
    expected = reference.fast_nms(*lists, iou_thresh, topk)[:limit]
    assert survivors.rows.tolist() == expected
    assert torch.equal(survivors.scores, scores[survivors.rows])
    assert torch.equal(survivors.boxes, boxes[survivors.rows])


def test_fast_nms_drops_everything_that_greedy_nms_drops():
    case = detections(200, num_classes=2)
    fast, greedy = (set(nms(*case, 200).rows.tolist()) for nms in (FastNMS(), HardNMS()))
    assert fast < greedy


def test_the_block_size_does_not_change_the_result():
    case = detections(100, num_classes=6)
    expected = FastNMS()(*case, 100).rows
    with mock.patch.object(suppression, "BLOCK_ENTRIES", 1):
        assert torch.equal(FastNMS()(*case, 100).rows, expected)


def test_the_error_names_the_wrong_option():
    with pytest.raises(ValueError, match="topk: expected an integer of at least 1, got 0"):
        FastNMS(topk=0)
    with pytest.raises(ValueError, match="iou_thresh: expected a finite number of at least 0"):
        FastNMS(-0.5)
