import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from ranking_det import losses as L
from ranking_det.assigners import MaxIoU
from ranking_det.modeling import RankingCascadeROIHeads
from ranking_det.modeling.proposals import (
    gather_candidates,
    match_proposals,
    refine_proposals,
)
from tests.modeling.conftest import load
from tests.modeling.test_roi_heads import SIZE, make_features, make_proposals, make_targets, step


def build(masks=False, **changes):
    cfg = load("quick/cascade_rs.py").model.roi_heads
    if masks:
        heads = load("quick/mask_rs.py").model.roi_heads
        for name in ("mask_in_features", "mask_pooler", "mask_head", "mask_criterion"):
            cfg[name] = heads[name]
    for name, value in changes.items():
        cfg[name] = value
    torch.manual_seed(0)
    return instantiate(cfg)


@pytest.mark.parametrize("counts", [(3, 5), (0, 4), (0, 0)])
def test_a_step_trains_every_parameter_of_every_stage(counts):
    heads = build(masks=True)
    found = step(heads, make_targets(counts))
    assert found.keys() == {"loss_mask"} | {
        f"loss_{part}_stage{i}" for part in ("rank", "sort", "box") for i in range(3)
    }
    assert all(loss.isfinite() for loss in found.values())
    sum(found.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in heads.parameters())


def spy(heads):
    seen = []
    for criterion in heads.criterion:
        original = criterion.forward
        criterion.forward = lambda candidates, labels, original=original: (
            seen.append((candidates, labels)) or original(candidates, labels)
        )
    return seen


def test_each_stage_ranks_the_boxes_of_the_one_before_and_the_objects_anew():
    heads, targets = build(), make_targets((3, 0))
    for predictor in heads.box_predictor:
        torch.nn.init.normal_(predictor.bbox_pred.weight, std=0.05)
    seen = spy(heads)
    features, proposals = make_features(2), make_proposals(2)
    heads(None, features, proposals, targets)
    # 40 proposals an image; the objects' refined boxes go and their own come in their place.
    assert [torch.bincount(c.image).tolist() for c, _ in seen] == [[43, 40]] * 3
    with torch.no_grad():
        stage = heads.stages()[0]
        logits, outputs = heads._predict(features, proposals, stage)
        boxes = stage.predictor.predict_boxes((logits, outputs), proposals)
        refined = refine_proposals(boxes, [own_with_flags(own) for own in proposals], training=True)
        expected = MaxIoU(0.6, 0.6, low_quality=None)(
            [torch.cat([refined[0].proposal_boxes.tensor, targets[0].gt_boxes.tensor])],
            [targets[0].gt_boxes.tensor],
            [targets[0].gt_classes],
            torch.ones(43, dtype=torch.bool),
        )
    assert torch.equal(seen[1][1][:43], expected.labels)


def own_with_flags(own):
    own.is_object = torch.zeros(len(own), dtype=torch.bool)
    return own


def test_each_stage_balances_its_own_boxes():
    found = step(build(), make_targets((4, 3)))
    for i in range(3):
        task = found[f"loss_rank_stage{i}"] + found[f"loss_sort_stage{i}"]
        torch.testing.assert_close(found[f"loss_box_stage{i}"], task)


def test_masks_go_with_the_first_stage():
    found = step(build(masks=True), make_targets((4, 3)))
    task = found["loss_rank_stage0"] + found["loss_sort_stage0"]
    torch.testing.assert_close(found["loss_mask"], task)


def test_no_gradient_flows_between_the_stages():
    heads = build()
    step(heads, make_targets((3, 2)))["loss_rank_stage2"].backward()
    trained = [head.fc1.weight.grad is not None for head in heads.box_head]
    assert trained == [False, False, True]


def test_the_gradients_of_the_stages_are_not_scaled_down():
    heads, targets = build(), make_targets((3, 2))
    features = {name: x.requires_grad_() for name, x in make_features(2).items()}
    heads(None, features, make_proposals(2), targets)[1]["loss_rank_stage0"].backward()
    scaled, features["p3"].grad = features["p3"].grad, None
    proposals, assignment = match_proposals(make_proposals(2), targets, heads.assigner[0])
    maps = [features[name] for name in heads.box_in_features]
    pooled = heads.box_pooler(maps, [own.proposal_boxes for own in proposals])
    outputs = heads.box_predictor[0](heads.box_head[0](pooled))
    candidates = gather_candidates(heads.box_predictor[0], *outputs, proposals, targets, assignment)
    heads.criterion[0](candidates, assignment.labels).losses["loss_rank"].backward()
    torch.testing.assert_close(scaled, features["p3"].grad)


def test_in_the_test_logits_are_averaged_and_boxes_are_the_last_stages():
    heads = build().eval()
    for i, predictor in enumerate(heads.box_predictor):
        torch.nn.init.zeros_(predictor.cls_score.weight)
        torch.nn.init.zeros_(predictor.bbox_pred.weight)
        torch.nn.init.constant_(predictor.cls_score.bias, [1.0, 2.0, 6.0][i])
        predictor.bbox_pred.bias.data = torch.tensor([1.0, 0.0, 0.0, 0.0])  # a tenth to the right
    own = Instances((SIZE, SIZE), proposal_boxes=Boxes([[10.0, 10.0, 30.0, 40.0]]))
    with torch.no_grad():
        found = heads(None, make_features(1), [own])[0][0]
    assert len(found) == 12
    torch.testing.assert_close(found.scores, torch.full((12,), 3.0).sigmoid())
    expected = torch.tensor([16.0, 10.0, 36.0, 40.0]).expand(12, 4)
    torch.testing.assert_close(found.pred_boxes.tensor, expected)


def test_empty_and_infinite_boxes_are_no_proposals_in_training_but_stay_in_the_test():
    own = Instances((SIZE, SIZE), proposal_boxes=Boxes(torch.zeros(4, 4)))
    own.objectness_logits = torch.arange(4.0)
    own.is_object = torch.tensor([False, False, False, True])
    boxes = torch.tensor([[1.0, 1, 500, 9], [7, 7, 7, 9], [0, 0, torch.inf, 9], [1, 1, 9, 9]])
    (trained,) = refine_proposals([boxes], [own], training=True)
    assert trained.proposal_boxes.tensor.tolist() == [[1, 1, SIZE, 9]]
    assert trained.objectness_logits.tolist() == [0]
    (tested,) = refine_proposals([boxes], [own], training=False)
    assert len(tested) == 4 and tested.proposal_boxes.tensor.isfinite().all()


def test_masks_are_predicted_for_the_detections():
    heads = build(masks=True).eval()
    with torch.no_grad():
        found = heads(None, make_features(2), make_proposals(2))[0]
    assert all(own.pred_masks.shape == (len(own), 1, 14, 14) and len(own) for own in found)


def test_metrics_are_logged_by_stage():
    with EventStorage(0) as storage:
        step(build(), make_targets((3, 3)))
    assert {f"stage{i}/num_positives" for i in range(3)} <= storage.latest().keys()


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"expected one of each for every stage, got \[3, 3, 3, 1"):
        build(criteria=[L.Criterion(classification=L.RankSort())])
    cfg = load("quick/cascade_rs.py").model.roi_heads
    cfg.box_predictors[1].cls_agnostic_bbox_reg = False
    with pytest.raises(ValueError, match="needs cls_agnostic_bbox_reg=True"):
        instantiate(cfg)
    cfg = load("quick/cascade_rs.py").model.roi_heads
    softmax = L.Criterion(classification=L.CrossEntropy(), normalizer=L.CandidateCount())
    cfg.criteria = [softmax, softmax, L.Criterion(classification=L.RankSort())]
    cfg.box_predictors[0].softmax = cfg.box_predictors[1].softmax = True
    with pytest.raises(ValueError, match="criteria: expected either softmax or sigmoid in all"):
        instantiate(cfg)


def test_it_is_registered_in_detectron2():
    assert ROI_HEADS_REGISTRY.get("RankingCascadeROIHeads") is RankingCascadeROIHeads
