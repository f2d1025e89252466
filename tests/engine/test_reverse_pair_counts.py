"""Pairs are counted among the candidates of training, with the order of the scores at inference."""

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.utils.events import EventStorage
from torch import nn

from ranking_det.engine import reverse_pair_counts
from ranking_det.engine.reverse_pair_counts import (
    count_reverse_pairs,
    ranked_scores,
    recorded_candidates,
    sample_records,
)
from ranking_det.modeling.dense.inference import _with_branch
from ranking_det.user_errors import UserError
from tests.engine.test_preview import insert_batch_norm
from tests.modeling.cases import CONFIGS, load, make_batch
from tests.modeling.test_combinations import build

MODELS = {
    "retinanet": lambda: build("retinanet", "atss", "rs"),
    # This balance takes gradients, and the schedule counts its steps in training.
    "fcos": lambda: build("fcos", "atss", "stages"),
    "mask_rs": lambda: instantiate(load("quick/mask_rs.py").model),
    "cascade_rs": lambda: instantiate(load("quick/cascade_rs.py").model),
}
HEADS = {
    "retinanet": ["dense"],
    "fcos": ["dense"],
    "mask_rs": ["rpn", "roi"],
    "cascade_rs": ["rpn", "stage0", "stage1", "stage2"],
}


def training_candidates(model, batch):
    """Return the candidates that the criteria of a training step get."""
    calls, handles = [], []
    for part in model.modules():
        if isinstance(part, reverse_pair_counts.CriterionBase):
            handles.append(part.register_forward_pre_hook(lambda _, args: calls.append(args[0])))
    with EventStorage() as storage:
        model(batch)
        names = list(storage.latest())
    for handle in handles:
        handle.remove()
    return calls, names


@pytest.mark.parametrize("name", MODELS)
def test_the_candidates_are_those_of_a_training_step_and_the_model_does_not_change(name):
    torch.manual_seed(0)
    model = insert_batch_norm(MODELS[name]()).train()
    model.backbone.eval()  # its mode must come back, too
    batch = make_batch((3, 2), sizes=((96, 96), (64, 128)))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    torch.manual_seed(1)  # Mask R-CNN may draw a sample of the masks
    with recorded_candidates(model) as record:
        recorded = record(batch)
        assert list(record(batch)) == HEADS[name]
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any("forward" in vars(part) for part in model.modules())
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
    torch.manual_seed(1)
    expected, names = training_candidates(model, batch)
    if name == "fcos":
        expected = expected[:1]  # without those that the schedule passes to its stage
    assert len(expected) == len(HEADS[name])
    prefixes = {f"{head}/" if head != "dense" else "" for head in HEADS[name]}
    assert {n.removesuffix("num_positives") for n in names if "num_pos" in n} == prefixes
    for head, other in zip(HEADS[name], expected, strict=True):
        candidates = recorded[head][1]
        assert torch.equal(candidates.logits, other.logits) and len(candidates.positives) > 0
        assert torch.equal(candidates.labels, other.labels)
        assert torch.equal(candidates.overlap, other.overlap)
        assert not candidates.logits.requires_grad


def test_a_detector_of_one_file_outside_the_package_is_counted():
    model = instantiate(load("grid_masks_shapes.py", CONFIGS.parent / "examples").model).train()
    loader = [make_batch((3,))]
    images, heads = count_reverse_pairs(model, loader, 1)
    assert images == 1 and list(heads) == ["dense"] and heads["dense"].positives > 0


def test_the_scores_have_the_order_of_inference():
    model = build("fcos", "fcos", "focal_branch")
    with recorded_candidates(model) as record:
        criterion, candidates = record(make_batch((3,)))["dense"]
    scores = ranked_scores(criterion, candidates)
    expected = _with_branch(candidates.logits.sigmoid(), candidates.branch_logits)
    assert candidates.branch_logits.std() > 0
    torch.testing.assert_close((scores / 2).exp(), expected)

    model = instantiate(load("quick/mask_ce.py").model)
    with recorded_candidates(model) as record:
        criterion, candidates = record(make_batch((3,)))["roi"]
    scores = ranked_scores(criterion, candidates)
    probabilities = torch.cat([candidates.logits, candidates.logits[:, :1] * 0], 1).softmax(1)
    torch.testing.assert_close(scores.exp(), probabilities[:, :-1])
    # Sigmoids of these logits would be equal.
    rs = MODELS["retinanet"]()
    with recorded_candidates(rs) as record:
        criterion, candidates = record(make_batch((3,)))["dense"]
    assert torch.equal(ranked_scores(criterion, candidates), candidates.logits)


def test_pairs_are_those_within_an_image_and_unreadable_images_are_left_out():
    model = MODELS["retinanet"]()
    first, second = make_batch((3, 2))
    one = count_reverse_pairs(model, [[first]], 1)[1]["dense"]
    other = count_reverse_pairs(model, [[second]], 1)[1]["dense"]
    unreadable = first | {"unreadable": "cut off"}
    images, heads = count_reverse_pairs(model, [[first], [unreadable], [second]], 3)
    assert images == 2 and heads["dense"].positives == one.positives + other.positives
    for part in ("foreground_background", "positive_negative", "positive_positive"):
        total, *counts = (vars(head.merged)[part] for head in (heads["dense"], one, other))
        assert np.array_equal(total, sum(counts)) and total.any()
    levels = [level.foreground_background.sum() for level in heads["dense"].levels]
    assert len(levels) == 5 and 0 < sum(levels) < heads["dense"].merged.foreground_background.sum()


def test_the_sample_of_images_has_objects_and_is_always_the_same(monkeypatch):
    crowd, box = {"iscrowd": 1}, {"iscrowd": 0}
    annotations = [[box], [], [crowd], [crowd, box], [{}], *[[box]] * 20]
    records = [{"image_id": i, "annotations": a} for i, a in enumerate(annotations)]
    contents = {"a": records, "crowds": records[1:3], "unannotated": [{"image_id": 99}]}
    monkeypatch.setattr(reverse_pair_counts, "DatasetCatalog", contents)
    ids = [record["image_id"] for record in sample_records(["a", "crowds"], None)]
    assert sorted(ids) == [0, *range(3, 25)] != ids
    assert [record["image_id"] for record in sample_records(["a"], 5)] == ids[:5]
    with pytest.raises(UserError, match="crowds, unannotated: expected images with objects"):
        sample_records(["crowds", "unannotated"], None)


def test_a_model_without_a_criterion_and_a_score_that_is_nan_raise_user_error():
    with pytest.raises(UserError, match="expected a detector with a criterion of this project"):
        count_reverse_pairs(nn.Identity(), [], 0)
    model = MODELS["retinanet"]()
    nn.init.constant_(model.head.cls_score.bias, torch.nan)
    batch = make_batch((3,))
    batch[0]["file_name"] = "a.jpg"
    with pytest.raises(UserError, match="dense, scores: expected numbers, got NaN, in .* 'a.jpg'"):
        count_reverse_pairs(model, [batch], 1)
