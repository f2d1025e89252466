import math

import pytest
import torch
from torchvision.ops import nms

from ranking_det.modeling.dense.inference import DenseInference
from ranking_det.modeling.postprocessing import RawDetections
from tests.layers.cases import detections, soft_nms, vote_boxes


def decode(outputs, anchors):
    return anchors + outputs


def random_levels(sizes=(60, 20, 3), num_classes=4, seed=0, shift=-2.0):
    """Make random logits, outputs, anchors and branch logits of an image, per level."""
    generator = torch.Generator().manual_seed(seed)
    logits = [torch.randn(n, num_classes, generator=generator) * 2 + shift for n in sizes]
    outputs = [torch.randn(n, 4, generator=generator) for n in sizes]
    corners = [torch.rand(n, 2, generator=generator) * 40 for n in sizes]
    anchors = [torch.cat([c, c + 16], dim=1) for c in corners]
    branch = [torch.randn(n, generator=generator) for n in sizes]
    return logits, outputs, anchors, branch


def as_set(raw):
    return {
        (*(round(x, 4) for x in box), round(score, 5), label)
        for box, score, label in zip(
            raw.boxes.tolist(), raw.scores.tolist(), raw.classes.tolist(), strict=True
        )
    }


def expected_proposals(logits, outputs, anchors, branch, *, score_thresh, topk, topk_by):
    proposals = []
    for level in range(len(logits)):
        class_score = score = logits[level].sigmoid()
        if branch is not None:
            score = (score * branch[level].sigmoid()[:, None]).sqrt()
        pairs = [
            (score[r, c].item(), r, c)
            for r in range(len(score))
            for c in range(score.shape[1])
            if class_score[r, c] > score_thresh
        ]
        if topk_by == "pair":
            pairs = sorted(pairs, reverse=True)[:topk]
        else:
            best = sorted(range(len(score)), key=lambda r: -score[r].max().item())[:topk]
            pairs = [pair for pair in pairs if pair[1] in best]
        boxes = anchors[level] + outputs[level]
        proposals += [(boxes[r], s, c) for s, r, c in pairs]
    return {(*(round(x, 4) for x in b.tolist()), round(s, 5), c) for b, s, c in proposals}


@pytest.mark.parametrize("topk_by", ["pair", "anchor"])
@pytest.mark.parametrize("has_branch", [False, True])
@pytest.mark.parametrize("topk", [1, 10, 10**6])
@pytest.mark.parametrize("score_thresh", [0.0, 0.3])
def test_proposals_agree_with_a_loop_reference(topk_by, has_branch, topk, score_thresh):
    options = dict(score_thresh=score_thresh, topk=topk, topk_by=topk_by)
    *levels, branch = random_levels()
    branch = branch if has_branch else None
    raw = DenseInference(**options).propose(*levels, decode, branch)
    proposals = as_set(raw)
    assert proposals == expected_proposals(*levels, branch, **options) and proposals
    assert len(proposals) == len(raw.boxes)
    assert raw.classes.dtype == torch.int64 and raw.scores.dtype == torch.float32


def test_topk_by_anchor_keeps_all_classes_of_the_best_anchors():
    logits = [torch.tensor([[4.0, 3.0], [3.5, -1.0], [3.4, 3.3]])]
    outputs, anchors = [torch.zeros(3, 4)], [torch.arange(12.0).view(3, 4)]
    by_pair = DenseInference(topk=3).propose(logits, outputs, anchors, decode)
    by_anchor = DenseInference(topk=2, topk_by="anchor").propose(logits, outputs, anchors, decode)
    rows = [(raw.boxes[:, 0] / 4).long().tolist() for raw in (by_pair, by_anchor)]
    pairs = [sorted(zip(r, raw.classes.tolist())) for r, raw in zip(rows, (by_pair, by_anchor))]
    assert pairs == [[(0, 0), (1, 0), (2, 0)], [(0, 0), (0, 1), (1, 0), (1, 1)]]


def test_the_threshold_applies_to_the_class_score_even_with_a_branch():
    """By the final scores, sqrt(.04 x .9) = .19 and sqrt(.06 x .001) = .008, box 0 would pass."""
    logits = [torch.tensor([[0.04], [0.06]]).logit()]
    branch = [torch.tensor([0.9, 0.001]).logit()]
    anchors = [torch.tensor([[0.0, 0.0, 8.0, 8.0], [9.0, 9.0, 16.0, 16.0]])]
    for topk_by in ("pair", "anchor"):
        inference = DenseInference(score_thresh=0.05, topk_by=topk_by)
        raw = inference.propose(logits, [torch.zeros(2, 4)], anchors, decode, branch)
        assert torch.equal(raw.boxes, anchors[0][1:])
        torch.testing.assert_close(raw.scores, torch.tensor([0.06 * 0.001]).sqrt())


def test_a_threshold_of_1_leaves_no_candidates_and_raises_no_error():
    inference = DenseInference(score_thresh=1.0)
    raw = inference.propose(*random_levels()[:3], decode)
    assert raw.boxes.shape == (0, 4) and raw.scores.shape == raw.classes.shape == (0,)
    for nms_name in ("hard", "linear", "gaussian"):
        for voting in (False, True):
            inference = DenseInference(nms=nms_name, score_voting=voting)
            assert len(inference.suppress(raw, (5, 7))) == 0
    empty = [torch.zeros(0, 4)]
    assert len(DenseInference().propose([torch.zeros(0, 3)], empty, empty, decode).scores) == 0
    by_anchor = DenseInference(topk_by="anchor")
    assert len(by_anchor.propose([torch.zeros(0, 3)], empty, empty, decode).scores) == 0


def test_half_precision_logits_become_distinct_float32_scores():
    logits = [torch.tensor([[9.0], [9.5], [10.0]], dtype=torch.float16)]
    anchors = [torch.zeros(3, 4)]
    branch = [torch.zeros(3, dtype=torch.float16)]

    def decode_float32(outputs, anchors):
        assert outputs.dtype == torch.float32
        return anchors + outputs

    for branch_logits in (None, branch):
        outputs = [anchors[0].half()]
        raw = DenseInference().propose(logits, outputs, anchors, decode_float32, branch_logits)
        assert raw.scores.dtype == raw.boxes.dtype == torch.float32
        assert len(raw.scores.unique()) == 3


def raw_detections(n=80, seed=0):
    boxes, scores, classes = detections(n, seed=seed, dtype=torch.float32)
    return RawDetections(boxes, scores, classes)


def per_class_nms(raw, thresh):
    survivors = []
    for label in raw.classes.unique():
        rows = (raw.classes == label).nonzero().squeeze(1)
        survivors.append(rows[nms(raw.boxes[rows], raw.scores[rows], thresh)])
    survivors = torch.cat(survivors)
    return survivors[raw.scores[survivors].argsort(descending=True)]


def assert_detections(detections, raw, rows, scores=None, boxes=None):
    assert torch.equal(detections.pred_boxes.tensor, raw.boxes[rows] if boxes is None else boxes)
    assert torch.equal(detections.scores, raw.scores[rows] if scores is None else scores)
    assert torch.equal(detections.pred_classes, raw.classes[rows])


def clip_and_drop_empty(raw, height, width):
    """Clip the boxes to the image and drop empty ones."""
    limits = torch.tensor([width, height, width, height])
    boxes = raw.boxes.clamp(min=0).minimum(limits)
    visible = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    return RawDetections(boxes[visible], raw.scores[visible], raw.classes[visible])


@pytest.mark.parametrize("thresh", [0.2, 0.6])
def test_hard_nms_runs_per_class_on_boxes_clipped_to_the_image(thresh):
    inside = raw_detections()
    for shift in (0.0, -8.0, 8.0):
        raw = inside._replace(boxes=inside.boxes + shift)
        result = DenseInference(nms_thresh=thresh).suppress(raw, (32, 36))
        raw = clip_and_drop_empty(raw, 32, 36)
        rows = per_class_nms(raw, thresh)
        assert 10 < len(rows) < 80
        assert_detections(result, raw, rows)
        assert result.image_size == (32, 36)


def test_boxes_that_differ_only_outside_the_image_are_duplicates():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [-30.0, -30.0, 10.0, 10.0]])
    raw = RawDetections(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 0]))
    assert len(DenseInference().suppress(raw, (20, 20))) == 1
    voted = DenseInference(score_voting=True).suppress(raw, (20, 20))
    assert torch.equal(voted.pred_boxes.tensor, boxes[:1])
    assert boxes.min() == -30  # the caller's boxes do not change


@pytest.mark.parametrize("method", ["hard", "linear", "gaussian"])
def test_boxes_outside_the_image_do_not_count_towards_max_detections(method):
    outside = torch.tensor([[30.0, 2.0, 40.0, 9.0], [2.0, -9.0, 9.0, 0.0]]).repeat(4, 1)
    inside = torch.tensor([[1.0, 1.0, 9.0, 9.0]])
    raw = RawDetections(
        torch.cat([outside, inside]), torch.linspace(0.9, 0.1, 9), torch.zeros(9).long()
    )
    result = DenseInference(nms=method, max_detections=3).suppress(raw, (20, 30))
    assert torch.equal(result.pred_boxes.tensor, inside)


def test_nms_stays_exact_next_to_a_very_large_box_of_another_class():
    boxes = torch.tensor([[0.0, 0.0, 5e7, 5e7], [1.0, 1.0, 9.0, 9.0], [1.0, 1.0, 9.0, 9.0]])
    raw = RawDetections(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 70, 70]))
    assert len(DenseInference().suppress(raw, (50_000_000, 50_000_000))) == 2


@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_soft_nms_uses_its_options(method):
    raw = raw_detections()
    options = dict(nms_thresh=0.3, sigma=0.2, max_detections=50, score_thresh=0.0)
    result = DenseInference(nms=method, **options).suppress(raw, (32, 32))
    raw = clip_and_drop_empty(raw, 32, 32)
    rows, scores = soft_nms(*raw[:3], method=method, iou_thresh=0.3, sigma=0.2, max_detections=50)
    assert_detections(result, raw, rows, scores)
    assert (scores < raw.scores[rows]).any()


@pytest.mark.parametrize(("thresh", "expected"), [(0.05, [0.9, 0.04]), (0.0, [0.9, 0.04, 0.0006])])
def test_scores_lowered_by_soft_nms_may_fall_below_the_threshold_but_not_below_1e_3(
    thresh, expected
):
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(3, 1)
    raw = RawDetections(boxes, torch.tensor([0.9, 0.4, 0.06]), torch.tensor([0, 0, 0]))
    sigma = 1 / math.log(10)  # each selected duplicate divides the scores by 10
    inference = DenseInference(nms="gaussian", sigma=sigma, score_thresh=thresh)
    torch.testing.assert_close(inference.suppress(raw, (10, 10)).scores, torch.tensor(expected))


@pytest.mark.parametrize("method", ["hard", "linear", "gaussian"])
def test_score_voting_averages_boxes_over_all_candidates_and_keeps_the_scores(method):
    raw = raw_detections()
    options = dict(nms=method, max_detections=20)
    plain = DenseInference(**options).suppress(raw, (32, 32))
    voted = DenseInference(score_voting=True, **options).suppress(raw, (32, 32))
    assert torch.equal(voted.scores, plain.scores)
    assert torch.equal(voted.pred_classes, plain.pred_classes)
    raw = clip_and_drop_empty(raw, 32, 32)
    difference = (raw.boxes[None] - plain.pred_boxes.tensor[:, None]).abs().sum(dim=2)
    boxes = vote_boxes(difference.argmin(dim=1), *raw[:3])
    assert torch.equal(voted.pred_boxes.tensor, boxes)
    assert not torch.equal(boxes, plain.pred_boxes.tensor)


@pytest.mark.parametrize("method", ["hard", "linear", "gaussian"])
def test_max_detections_keeps_the_detections_with_the_highest_scores(method):
    raw = raw_detections()
    few_detections = DenseInference(nms=method, max_detections=7).suppress(raw, (40, 40))
    many_detections = DenseInference(nms=method, max_detections=70).suppress(raw, (40, 40))
    assert len(few_detections) == 7 < len(many_detections)
    assert (many_detections.scores.diff() <= 0).all() and torch.equal(
        few_detections.scores, many_detections.scores[:7]
    )
    assert torch.equal(few_detections.pred_boxes.tensor, many_detections.pred_boxes.tensor[:7])


@pytest.mark.parametrize("topk_by", ["pair", "anchor"])
@pytest.mark.parametrize("method", ["hard", "linear", "gaussian"])
def test_only_the_non_finite_candidates_of_a_diverged_model_are_dropped(topk_by, method):
    logits, outputs, anchors, _ = random_levels()
    options = dict(topk=12, topk_by=topk_by, nms=method, score_voting=True)
    inference = DenseInference(**options)
    logits[0][5:45] = torch.nan
    logits[1][3:6] = 2.0
    outputs[1][3], outputs[1][4, 2], outputs[1][5] = torch.nan, torch.inf, 1e30
    raw = inference.propose(logits, outputs, anchors, decode)
    assert raw.scores.isfinite().all()
    # NaN scores do not count towards top-k.
    finite_rows = [*range(5), *range(45, 60)]
    logits[0], outputs[0], anchors[0] = (
        logits[0][finite_rows],
        outputs[0][finite_rows],
        anchors[0][finite_rows],
    )
    finite_only = inference.propose(logits, outputs, anchors, decode)
    assert torch.equal(raw.scores, finite_only.scores) and len(raw.scores) > 12
    result = inference.suppress(raw, (40, 40))
    assert result.pred_boxes.tensor.isfinite().all() and len(result) > 5
    usable = raw.boxes.isfinite().all(dim=1) & (raw.boxes.abs() < 1e20).all(dim=1)
    assert not usable.all()
    usable_only = inference.suppress(RawDetections(*(x[usable] for x in raw)), (40, 40))
    assert torch.equal(usable_only.pred_boxes.tensor, result.pred_boxes.tensor)


def test_nan_in_all_logits_or_in_the_whole_branch_leaves_no_candidates():
    logits, outputs, anchors, branch = random_levels()
    nan = [torch.full_like(level, torch.nan) for level in logits]
    assert len(DenseInference(score_thresh=0).propose(nan, outputs, anchors, decode).scores) == 0
    nan = [torch.full_like(level, torch.nan) for level in branch]
    raw = DenseInference(score_thresh=0).propose(logits, outputs, anchors, decode, nan)
    assert len(raw.scores) == 0


def test_the_repr_shows_the_options():
    text = repr(DenseInference(nms="linear", sigma=0.25))
    assert text == (
        "DenseInference(score_thresh=0.05, topk=1000, topk_by='pair', nms='linear', "
        "nms_thresh=0.5, sigma=0.25, score_voting=False, max_detections=100, softmax=False)"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_thresh": -0.1}, "score_thresh: expected a finite number of at least 0, got -0.1"),
        ({"score_thresh": 1.5}, "score_thresh: expected a number of at most 1, got 1.5"),
        ({"score_thresh": float("nan")}, "score_thresh: expected a finite number .* got nan"),
        ({"nms_thresh": 2}, "nms_thresh: expected a number of at most 1, got 2"),
        ({"topk": 0}, "topk: expected an integer of at least 1, got 0"),
        ({"topk": 10.0}, "topk: expected an integer of at least 1, got 10.0"),
        ({"topk_by": "box"}, "topk_by: expected one of pair, anchor, got 'box'"),
        ({"nms": "soft"}, "nms: expected one of hard, linear, gaussian, got 'soft'"),
        ({"sigma": 0.0}, "sigma: expected a finite number above 0, got 0.0"),
        ({"score_voting": "yes"}, "score_voting: expected True or False, got 'yes'"),
        ({"max_detections": 0}, "max_detections: expected an integer of at least 1, got 0"),
    ],
)
def test_the_error_names_the_wrong_option(options, message):
    with pytest.raises(ValueError, match=message):
        DenseInference(**options)


def test_branch_logits_of_another_shape_raise_value_error():
    *levels, branch = random_levels()
    with pytest.raises(
        ValueError, match=r"branch_logits: expected a float tensor of shape \(60,\).*\(60, 1\)"
    ):
        DenseInference().propose(*levels, decode, [level[:, None] for level in branch])
