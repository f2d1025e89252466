import pytest
import torch

from ranking_det import row_blocks
from ranking_det.assigners import (
    BACKGROUND,
    IGNORE,
    PAA,
    Assigner,
    ImageInputs,
    NormalizedPAA,
    Predictions,
    cost_mixture,
)
from tests.assigners.cases import grid, random_boxes
from tests.assigners.reference import low_cost_component, normalized_costs, paa, paa_costs

BOTH_ASSIGNERS = pytest.mark.parametrize("assigner", [PAA, NormalizedPAA])
CLASSES = 5


class FirstLogitCost(PAA):
    """The cost of an anchor is its first logit."""

    def costs(self, predictions, competitors):
        return predictions.logits[competitors.rows, 0]


class FirstLogit(Assigner):
    """Match an anchor to the first object of its image if its logit and its box are above 0."""

    needs_predictions = True

    def match(self, image):
        predictions = image.predictions
        agree = (predictions.logits[:, 0] > 0) & (predictions.boxes[:, 0] > 0)
        return torch.where(agree, 0, BACKGROUND)


def crowded_scene(seed, counts=(12, 0, 4), scales=(4.0, 5.04)):
    """Make images with objects, and predictions like those of a half-trained model."""
    generator = torch.Generator().manual_seed(seed)
    anchors = [grid(64, stride, scales, jitter=generator) for stride in (8, 16, 32)]
    boxes = [random_boxes(count, 64, generator) for count in counts]
    classes = [torch.randint(0, CLASSES, (count,), generator=generator) for count in counts]
    rows = len(counts) * sum(map(len, anchors))
    valid = torch.rand(rows, generator=generator) > 0.1
    logits = torch.randn(rows, CLASSES, generator=generator, dtype=torch.float64) * 2 - 2
    decoded = torch.cat(anchors).repeat(len(counts), 1)
    shift = torch.randn(rows, 4, generator=generator, dtype=torch.float64) * 3
    return anchors, boxes, classes, valid, Predictions(logits, decoded + shift)


def compete_for_one_object(boxes):
    """Let all anchors compete for one object of class 0 with the box of the first anchor."""
    rows = torch.arange(len(boxes))
    return cost_mixture.Competitors(rows, rows * 0, boxes[:1], torch.tensor([0]))


def label_identical_anchors(first_logits, **options):
    """Return the labels of identical anchors with these costs, for one object of class 0."""
    logits = torch.tensor(first_logits)[:, None]
    box = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    boxes = box.repeat(len(logits), 1)
    return FirstLogitCost(**options)(
        [boxes], [box], [torch.tensor([0])], torch.ones(len(boxes)) > 0, Predictions(logits, boxes)
    ).labels.tolist()


def check_against_the_reference(assigner, scene, make_costs):
    anchors, boxes, classes, valid, predictions = scene
    result = assigner(*scene)
    assert (result.labels >= 0).any()
    size, offset = sum(map(len, anchors)), 0
    for i, (gt_boxes, labels) in enumerate(zip(boxes, classes)):
        rows = slice(i * size, (i + 1) * size)
        costs = make_costs(
            predictions.logits[rows].tolist(),
            predictions.boxes[rows].tolist(),
            gt_boxes.tolist(),
            labels.tolist(),
        )
        options = vars(assigner) | {
            "min_iou": assigner.competitors.positive_iou,
            "low_quality": assigner.competitors.low_quality,
        }
        levels = [a.tolist() for a in anchors]
        matches = paa(levels, gt_boxes.tolist(), valid[rows].tolist(), costs, options)
        index = torch.tensor([-1 if m is None else m + offset for m in matches])
        expected = torch.tensor([BACKGROUND if m is None else labels[m].item() for m in matches])
        torch.testing.assert_close(result.gt_index[rows], index)
        torch.testing.assert_close(result.labels[rows], expected.masked_fill(~valid[rows], IGNORE))
        offset += len(gt_boxes)


@pytest.mark.parametrize("single", ["positive", "none"])
@pytest.mark.parametrize("low_quality", ["object", "anchor"])
@pytest.mark.parametrize(("topk", "min_iou"), [(1, 0.1), (2, 0.3), (9, 0.1), (1000, 0.1)])
@pytest.mark.parametrize("seed", range(3))
def test_paa_agrees_with_the_reference(seed, topk, min_iou, low_quality, single):
    check_against_the_reference(
        PAA(
            topk=topk,
            min_iou=min_iou,
            single_candidate=single,
            box_weight=1.3,
            low_quality=low_quality,
            empty_component=single,
            reg_covar=1e-5,
        ),
        crowded_scene(seed),
        lambda *inputs: paa_costs(*inputs, box_weight=1.3),
    )


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("scores", ["both", "classification", "localization"])
@pytest.mark.parametrize("seed", range(3))
def test_normalized_paa_agrees_with_the_reference(seed, scores, normalize):
    check_against_the_reference(
        NormalizedPAA(topk=4, scores=scores, normalize=normalize),
        crowded_scene(seed),
        lambda *inputs: normalized_costs(*inputs, scores, normalize),
    )


@BOTH_ASSIGNERS
def test_a_batch_gives_the_labels_of_its_single_images_with_one_fit(assigner, monkeypatch):
    anchors, boxes, classes, valid, predictions = scene = crowded_scene(3, counts=(5, 8, 0, 6))
    calls = []
    fit = cost_mixture.fit_two_gaussians
    monkeypatch.setattr(
        cost_mixture, "fit_two_gaussians", lambda *a, **k: calls.append(a) or fit(*a, **k)
    )
    batch = assigner()(*scene).labels
    assert len(calls) == 1
    size = sum(map(len, anchors))
    for i in range(4):
        rows = slice(i * size, (i + 1) * size)
        image_predictions = Predictions(predictions.logits[rows], predictions.boxes[rows])
        single_image = assigner()(
            anchors, boxes[i : i + 1], classes[i : i + 1], valid[rows], image_predictions
        )
        torch.testing.assert_close(single_image.labels, batch[rows])
        image = ImageInputs(anchors, boxes[i], classes[i], valid[rows], image_predictions)
        matched = assigner().match(image)
        torch.testing.assert_close(matched >= 0, single_image.labels >= 0)


def test_an_assigner_of_single_images_gets_the_predictions_of_each_image():
    anchors, boxes, classes, valid, predictions = crowded_scene(3, counts=(5, 8))
    result = FirstLogit()(anchors, boxes, classes, valid | True, predictions)
    agree = (predictions.logits[:, 0] > 0) & (predictions.boxes[:, 0] > 0)
    torch.testing.assert_close(result.labels >= 0, agree)


@BOTH_ASSIGNERS
def test_the_block_size_does_not_change_the_result(assigner, monkeypatch):
    scene = crowded_scene(4)
    in_one_block = assigner()(*scene)
    monkeypatch.setattr(row_blocks, "BLOCK_ENTRIES", 3 * CLASSES)
    torch.testing.assert_close(assigner()(*scene).gt_index, in_one_block.gt_index)


def test_the_low_cost_component_is_positive_up_to_its_most_likely_sample():
    costs = [0.0, 0.5, 0.52, 0.54, 0.9, 5.0, 5.1, 5.2, 5.3]
    chosen = low_cost_component(costs)
    assert 1 < len(chosen) < 5
    expected = [0 if i in chosen else BACKGROUND for i in range(len(costs))]
    assert label_identical_anchors(costs) == expected
    assert label_identical_anchors(costs[::-1]) == expected[::-1]


def test_samples_of_equal_cost_get_the_same_label():
    assert label_identical_anchors([2.0] * 6) == [0] * 6
    assert label_identical_anchors([0.1] * 4 + [3.0] * 3) == [0] * 4 + [BACKGROUND] * 3


def test_only_the_topk_cheapest_anchors_of_a_level_are_samples():
    assert label_identical_anchors([1.0, 0.0, 1.0, 0.0, 0.0, 1.0], topk=3) == [-1, 0, -1, 0, 0, -1]
    # If costs are equal, the first anchors are samples.
    assert label_identical_anchors([1.0] * 5, topk=3) == [0, 0, 0, -1, -1]


@pytest.mark.parametrize(("empty", "label"), [("positive", 0), ("none", BACKGROUND)])
def test_empty_component_labels_all_samples_if_the_low_cost_component_is_empty(empty, label):
    generator = torch.Generator().manual_seed(2)
    rows = (1e-4 * torch.rand(100, 9, generator=generator, dtype=torch.float64)).tolist()
    costs = next(row for row in rows if not low_cost_component(sorted(row)))
    assert label_identical_anchors(costs, empty_component=empty) == [label] * 9


@pytest.mark.parametrize("spread", [1e-9, 1e-3, 0.1, 1.0, 100.0])
@pytest.mark.parametrize("single", ["positive", "none"])
def test_the_cheaper_of_two_samples_is_positive(single, spread):
    costs = [spread, 0.0]
    assert label_identical_anchors(costs, single_candidate=single) == [BACKGROUND, 0]
    assert low_cost_component(sorted(costs)) == [0]  # the same as scikit-learn's mixture


def test_the_first_of_two_samples_of_equal_cost_is_positive():
    assert label_identical_anchors([1.0, 1.0]) == [0, BACKGROUND]


def test_reg_covar_is_added_to_the_variances_of_the_mixture():
    """The costs are so similar that reg_covar changes which samples are positive."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(200, 9, generator=generator).mul(0.02).sort(dim=1).values.double().tolist()
    costs = next(
        row for row in rows if low_cost_component(row, 1e-6) != low_cost_component(row, 1e-5)
    )
    for reg_covar in (1e-6, 1e-5):
        chosen = low_cost_component(costs, reg_covar)
        expected = [0 if i in chosen else BACKGROUND for i in range(len(costs))]
        assert (
            label_identical_anchors(costs, reg_covar=reg_covar, empty_component="none") == expected
        )


def test_single_candidate_sets_the_label_of_a_single_sample():
    assert label_identical_anchors([3.0]) == [0]
    assert label_identical_anchors([3.0], single_candidate="none") == [BACKGROUND]
    assert label_identical_anchors([3.0, 2.0], topk=1, single_candidate="none") == [BACKGROUND] * 2


@pytest.mark.parametrize("non_finite", [torch.nan, torch.inf, -torch.inf])
def test_an_anchor_with_a_cost_that_is_not_finite_does_not_compete(non_finite):
    finite_costs = [0.0, 0.5, 0.52, 0.54, 0.9, 5.0, 5.1]
    labels = label_identical_anchors(finite_costs)
    assert label_identical_anchors(
        [non_finite, *finite_costs, non_finite], topk=len(finite_costs)
    ) == [
        BACKGROUND,
        *labels,
        BACKGROUND,
    ]
    assert label_identical_anchors([non_finite, 1.0, 9.0]) == [BACKGROUND, 0, BACKGROUND]
    assert (
        label_identical_anchors([non_finite, non_finite, 1.0], single_candidate="none")
        == [BACKGROUND] * 3
    )
    assert label_identical_anchors([non_finite] * 4) == [BACKGROUND] * 4


@BOTH_ASSIGNERS
@pytest.mark.parametrize("non_finite", [torch.nan, torch.inf, -torch.inf])
def test_a_diverged_model_raises_no_error(assigner, non_finite):
    anchors, boxes, classes, valid, predictions = crowded_scene(5)
    diverged = torch.rand(len(valid), generator=torch.Generator().manual_seed(1)) < 0.3
    logits = predictions.logits.masked_fill(diverged[:, None], non_finite)
    decoded = predictions.boxes.masked_fill(diverged.flip(0)[:, None], non_finite)
    for diverged_predictions in (
        Predictions(logits, predictions.boxes),
        Predictions(predictions.logits, decoded),
        Predictions(logits * 0 + non_finite, decoded * 0 + non_finite),
    ):
        result = assigner()(anchors, boxes, classes, valid, diverged_predictions)
        assert result.labels.min() >= IGNORE and result.labels.max() < CLASSES
        assert (result.gt_index[result.labels < 0] == -1).all()
    assert not (result.labels >= 0).any() or not torch.isnan(torch.tensor(non_finite))


def test_an_anchor_with_a_nan_score_does_not_affect_the_normalization():
    box = torch.tensor([[0.0, 0.0, 16.0, 16.0]]).repeat(5, 1)
    logits = torch.tensor([[torch.nan], [0.0], [0.5], [1.0], [9.0]])
    decoded = box.clone()
    decoded[4] = torch.nan
    costs = NormalizedPAA().costs(Predictions(logits, decoded), compete_for_one_object(box))
    assert costs[[0, 4]].tolist() == [torch.inf] * 2
    assert costs[1] == 2 and costs[3] == 1  # the IoUs are all equal, so they become 0
    assert 1 < costs[2] < 2


def test_equal_scores_are_normalized_to_0():
    box = torch.tensor([[0.0, 0.0, 16.0, 16.0]]).repeat(4, 1)
    arguments = Predictions(torch.zeros(4, 1), box), compete_for_one_object(box)
    assert NormalizedPAA().costs(*arguments).tolist() == [2.0] * 4
    raw = NormalizedPAA(normalize=False).costs(*arguments)
    assert raw.tolist() == [0.5] * 4


@BOTH_ASSIGNERS
def test_images_without_objects_are_background(assigner):
    anchors, boxes, classes, valid, predictions = crowded_scene(6, counts=(0, 3))
    result = assigner()(anchors, boxes, classes, valid, predictions)
    half = len(valid) // 2
    assert set(result.labels[:half].tolist()) == {BACKGROUND, IGNORE}
    assert (result.labels[half:] >= 0).any()
    first = Predictions(predictions.logits[:half], predictions.boxes[:half])
    single_image = assigner()(anchors, boxes[:1], classes[:1], valid[:half], first)
    torch.testing.assert_close(single_image.labels, result.labels[:half])
    no_images = assigner()(anchors, [], [], valid[:0], Predictions(*(p[:0] for p in predictions)))
    assert len(no_images.labels) == 0


@BOTH_ASSIGNERS
def test_there_are_no_positives_without_valid_anchors(assigner):
    anchors, boxes, classes, valid, predictions = crowded_scene(6)
    result = assigner()(anchors, boxes, classes, valid & False, predictions)
    assert set(result.labels.tolist()) == {IGNORE} and set(result.gt_index.tolist()) == {-1}


@BOTH_ASSIGNERS
def test_half_precision_logits_and_a_level_without_anchors_are_accepted(assigner):
    anchors, boxes, classes, valid, predictions = crowded_scene(7)
    half = predictions.logits.bfloat16()
    result = assigner()(
        [*anchors, anchors[0][:0]], boxes, classes, valid, Predictions(half, predictions.boxes)
    )
    float32_predictions = Predictions(half.float(), predictions.boxes)
    expected = assigner()(anchors, boxes, classes, valid, float32_predictions)
    torch.testing.assert_close(result.labels, expected.labels)
    assert (result.labels >= 0).any()


@BOTH_ASSIGNERS
def test_a_second_identical_object_and_an_empty_object_have_no_positive(assigner):
    anchors, boxes, classes, valid, predictions = crowded_scene(8, counts=(1,))
    assigner = assigner(low_quality="anchor")
    single = assigner(anchors, boxes, classes, valid, predictions)
    x = boxes[0][:, :1]
    three_objects = [torch.cat([boxes[0], boxes[0], x.repeat(1, 4)])]
    result = assigner(anchors, three_objects, [classes[0].repeat(3)], valid, predictions)
    torch.testing.assert_close(result.gt_index, single.gt_index)
    assert (single.gt_index == 0).any()


@BOTH_ASSIGNERS
def test_the_error_names_the_wrong_argument(assigner):
    anchors, boxes, classes, valid, predictions = crowded_scene(9)
    for topk in (0, 1.5, True):
        with pytest.raises(
            ValueError, match=f"topk: expected an integer of at least 1, got {topk}"
        ):
            assigner(topk=topk)
    with pytest.raises(ValueError, match=r"min_iou: expected a number in \[0, 1\], got 1.5"):
        assigner(min_iou=1.5)
    with pytest.raises(
        ValueError, match="single_candidate: expected one of positive, none, got 'x'"
    ):
        assigner(single_candidate="x")
    with pytest.raises(
        ValueError, match=f"predictions: expected .*, which {assigner.__name__} needs, got N"
    ):
        assigner()(anchors, boxes, classes, valid)
    rows = len(valid)
    for wrong_predictions in (
        Predictions(predictions.logits[1:], predictions.boxes),
        Predictions(predictions.logits, predictions.boxes[1:]),
        Predictions(predictions.logits[:, 0], predictions.boxes),
    ):
        with pytest.raises(ValueError, match=rf"expected logits of shape \({rows}, K\) and boxes"):
            assigner()(anchors, boxes, classes, valid, wrong_predictions)


def test_the_error_names_the_wrong_cost_option():
    for weight in (-1.0, float("inf")):
        with pytest.raises(ValueError, match="box_weight: expected a finite number of at least 0"):
            PAA(box_weight=weight)
    with pytest.raises(ValueError, match="scores: expected one of both, classification, localizat"):
        NormalizedPAA(scores="iou")
