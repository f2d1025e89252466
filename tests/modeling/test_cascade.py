import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from ranking_det import criteria as L
from ranking_det.assigners import MaxIoU
from ranking_det.losses import dice_errors
from ranking_det.modeling import RankingCascadeROIHeads
from ranking_det.modeling.rcnn.proposals import match_proposals, refine_proposals
from tests.modeling.cases import load, load_masked_cascade
from tests.modeling.test_roi_heads import SIZE, make_features, make_proposals, make_targets, step


def build(count=0, **changes):
    """Build the cascade of the quick config, with ``count`` mask heads."""
    cfg = (load_masked_cascade(count) if count else load("quick/cascade_rs.py").model).roi_heads
    for name, value in changes.items():
        cfg[name] = value
    torch.manual_seed(0)
    return instantiate(cfg)


@pytest.mark.parametrize("mask_heads", [1, 3])
@pytest.mark.parametrize("counts", [(3, 5), (0, 4), (0, 0)])
def test_a_step_trains_every_parameter_of_every_stage(counts, mask_heads):
    heads = build(mask_heads)
    losses = step(heads, make_targets(counts))
    assert losses.keys() == {f"loss_mask_stage{i}" for i in range(mask_heads)} | {
        f"loss_{part}_stage{i}" for part in ("rank", "sort", "box") for i in range(3)
    }
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in heads.parameters())


def test_loss_weights_scale_the_losses_of_each_stage():
    targets = make_targets((3, 5))
    plain, weighted = step(build(), targets), step(build(loss_weights=[1.0, 0.5, 0.0]), targets)
    for name, loss in plain.items():
        torch.testing.assert_close(weighted[name], loss * (1.0, 0.5, 0.0)[int(name[-1])])
    for wrong in ([1.0, 0.5], [1.0, 0.5, -1.0]):
        with pytest.raises(ValueError, match="loss_weights: expected a number >= 0 for each of 3"):
            build(loss_weights=wrong)


def record_candidates(heads):
    """Record the candidates of all stages in the steps that follow."""
    all_candidates = []
    for criterion in heads.criterion:
        original = criterion.forward
        criterion.forward = lambda candidates, original=original: (
            all_candidates.append(candidates) or original(candidates)
        )
    return all_candidates


def test_each_stage_ranks_the_boxes_of_the_previous_stage_and_the_ground_truth():
    heads, targets = build(), make_targets((3, 0))
    for predictor in heads.box_predictor:
        torch.nn.init.normal_(predictor.bbox_pred.weight, std=0.05)
    all_candidates = record_candidates(heads)
    features, proposals = make_features(2), make_proposals(2)
    heads(None, features, proposals, targets)
    # 40 proposals per image. The ground-truth boxes replace their refined versions.
    assert [torch.bincount(candidates.image).tolist() for candidates in all_candidates] == [
        [43, 40]
    ] * 3
    with torch.no_grad():
        stage = heads.stages()[0]
        predictions = heads._predict(features, proposals, stage)
        boxes = stage.predictor.predict_boxes(predictions, proposals)
        proposals = [without_objects(instances) for instances in proposals]
        refined = refine_proposals(boxes, proposals, training=True)
        expected = MaxIoU(0.6, 0.6, low_quality=None)(
            [torch.cat([refined[0].proposal_boxes.tensor, targets[0].gt_boxes.tensor])],
            [targets[0].gt_boxes.tensor],
            [targets[0].gt_classes],
            torch.ones(43, dtype=torch.bool),
        )
    assert torch.equal(all_candidates[1].labels[:43], expected.labels)


def without_objects(proposals):
    """Set ``is_object`` of all proposals of an image to False."""
    proposals.is_object = torch.zeros(len(proposals), dtype=torch.bool)
    return proposals


def test_each_stage_balances_its_box_loss_against_its_task_loss():
    losses = step(build(), make_targets((4, 3)))
    for i in range(3):
        task = losses[f"loss_rank_stage{i}"] + losses[f"loss_sort_stage{i}"]
        torch.testing.assert_close(losses[f"loss_box_stage{i}"], task)


@pytest.mark.parametrize("mask_heads", [1, 3])
def test_each_stage_balances_its_mask_loss_against_its_task_loss(mask_heads):
    losses = step(build(mask_heads), make_targets((4, 3)))
    for i in range(mask_heads):
        task = losses[f"loss_rank_stage{i}"] + losses[f"loss_sort_stage{i}"]
        torch.testing.assert_close(losses[f"loss_mask_stage{i}"], task)


class Recorder(L.MaskDice):
    """A mask loss that records its inputs in every stage."""

    def __init__(self):
        super().__init__()
        self.inputs = []

    def instance_weights(self, candidates, weights):
        mask_weights = super().instance_weights(candidates, weights)
        self.inputs.append((candidates.masks.logits, candidates.masks.masks, mask_weights))
        return mask_weights


def build_with(recorder, mask_heads, **changes):
    """Build the cascade with a mask loss in the stages that have a mask head."""
    losses = [[L.GIoU(), recorder]] * mask_heads + [None] * (3 - mask_heads)
    criteria = [L.Criterion(classification=L.RankSort(), localization=part) for part in losses]
    return build(mask_heads, criteria=criteria, **changes)


@pytest.mark.parametrize(("mask_heads", "limit"), [(1, 1000), (3, 1000), (3, 5)])
def test_each_mask_head_trains_on_the_positives_of_its_stage_with_their_weights(mask_heads, limit):
    recorder = Recorder()
    heads = build_with(recorder, mask_heads, max_mask_rois=limit)
    for predictor in heads.box_predictor:
        torch.nn.init.normal_(predictor.bbox_pred.weight, std=0.05)
    candidates, pooled, outputs = record_candidates(heads), [], []
    for criterion in heads.criterion:
        original = criterion.forward
        criterion.forward = lambda *args, original=original: (
            outputs.append(original(*args)) or (outputs[-1])
        )
    pool = heads.mask_pooler.forward
    heads.mask_pooler.forward = lambda maps, boxes: pooled.append(boxes) or pool(maps, boxes)
    step(heads, make_targets((4, 0, 3)))
    assert len(pooled) == len(recorder.inputs) == mask_heads
    anchors = [stage_candidates.boxes.anchors for stage_candidates in candidates]
    for i in range(mask_heads):
        boxes = torch.cat([image.tensor for image in pooled[i]])
        assert len(boxes) == min(limit, len(anchors[i]))
        rows = [int((anchors[i] == box).all(dim=1).nonzero()[0]) for box in boxes]
        torch.testing.assert_close(recorder.inputs[i][2], outputs[i].weights[rows])
        torch.testing.assert_close(outputs[i].losses["loss_mask"], outputs[i].task_loss)
    assert len({len(positives) for positives in anchors}) > 1  # positives differ between stages


@pytest.mark.parametrize("mask_heads", [1, 3])
def test_a_mask_loss_trains_only_the_mask_head_of_its_stage(mask_heads):
    heads = build(mask_heads)
    losses = step(heads, make_targets((4, 3)))
    losses[f"loss_mask_stage{mask_heads - 1}"].backward()
    masks = [stage.mask_head for stage in heads.stages()]
    assert [head is not None for head in masks] == [i < mask_heads for i in range(3)]
    trained = [head.predictor.weight.grad is not None for head in masks[:mask_heads]]
    assert trained == [False] * (mask_heads - 1) + [True]
    assert all(head.fc1.weight.grad is None for head in heads.box_head)


def test_one_mask_head_has_detectron2s_names_in_the_state_dict_and_several_are_numbered():
    names = [{n for n in build(count).state_dict() if "mask" in n} for count in (1, 3)]
    single = {f"mask_head.{name}" for name in build(3).mask_head[0].state_dict()}
    assert names[0] == single and "mask_head.mask_fcn1.weight" in single
    numbered = {name.replace(".", f".{i}.", 1) for name in single for i in range(3)}
    assert names[1] == numbered


@pytest.mark.parametrize("mask_heads", [1, 3])
def test_objects_without_a_mask_do_not_train_the_mask_heads(mask_heads):
    heads, targets = build(mask_heads), make_targets((3, 2))
    for objects in targets:
        objects.gt_masks = BitMasks(torch.zeros(len(objects), SIZE, SIZE))
    losses = step(heads, targets)
    assert all(losses[f"loss_mask_stage{i}"] == 0 for i in range(mask_heads))
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in heads.parameters())
    assert not any(p.grad.any() for p in heads.mask_head.parameters())
    targets[0].remove("gt_masks")
    with pytest.raises(ValueError, match="expected gt_masks, .*masks=True"):
        step(heads, targets)


@pytest.mark.parametrize("mask_heads", [1, 3])
def test_images_without_proposals_train_on_the_ground_truth_and_give_no_detection(mask_heads):
    heads = build(mask_heads)
    losses = step(heads, make_targets((3, 0)), count=0)
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in heads.parameters())
    with torch.no_grad():
        detections, _ = heads.eval()(None, make_features(2), make_proposals(2, count=0))
    assert [image.pred_masks.shape for image in detections] == [(0, 1, 14, 14)] * 2


@pytest.mark.parametrize("mask_heads", [1, 3])
def test_positives_are_ranked_by_their_masks_in_the_stages_with_a_mask_head(mask_heads):
    for label in ("dice", "mean"):
        recorder = Recorder()
        heads = build_with(recorder, mask_heads, max_mask_rois=1000, continuous_label=label)
        candidates = record_candidates(heads)
        step(heads, make_targets((4, 3)))
        for i, stage_candidates in enumerate(candidates):
            if i >= mask_heads:
                assert stage_candidates.continuous_labels is None  # the IoU
                continue
            logits, masks, _ = recorder.inputs[i]
            dice = 1 - dice_errors(logits.detach(), masks)
            expected = dice if label == "dice" else (dice + stage_candidates.boxes.overlap()) / 2
            torch.testing.assert_close(stage_candidates.continuous_labels, expected)


def test_no_gradient_flows_between_the_stages():
    heads = build()
    step(heads, make_targets((3, 2)))["loss_rank_stage2"].backward()
    trained = [head.fc1.weight.grad is not None for head in heads.box_head]
    assert trained == [False, False, True]


def test_the_gradients_of_the_stages_are_not_scaled_down():
    heads, targets = build(), make_targets((3, 2))
    features = {name: x.requires_grad_() for name, x in make_features(2).items()}
    heads(None, features, make_proposals(2), targets)[1]["loss_rank_stage0"].backward()
    cascade_gradient, features["p3"].grad = features["p3"].grad, None
    proposals, assignment = match_proposals(make_proposals(2), targets, heads.assigner[0])
    stage = heads.stages()[0]
    predictions = heads._predict(features, proposals, stage)
    candidates = heads._gather(features, proposals, targets, stage, assignment, predictions)
    heads.criterion[0](candidates).losses["loss_rank"].backward()
    torch.testing.assert_close(cascade_gradient, features["p3"].grad)


def test_inference_averages_the_logits_of_the_stages_and_uses_the_boxes_of_the_last_stage():
    heads = build().eval()
    for i, predictor in enumerate(heads.box_predictor):
        torch.nn.init.zeros_(predictor.cls_score.weight)
        torch.nn.init.zeros_(predictor.bbox_pred.weight)
        torch.nn.init.constant_(predictor.cls_score.bias, [1.0, 2.0, 6.0][i])
        # Shifts boxes to the right by a tenth of their width.
        predictor.bbox_pred.bias.data = torch.tensor([1.0, 0.0, 0.0, 0.0])
    proposal = Instances((SIZE, SIZE), proposal_boxes=Boxes([[10.0, 10.0, 30.0, 40.0]]))
    with torch.no_grad():
        detections = heads(None, make_features(1), [proposal])[0][0]
    assert len(detections) == 12
    torch.testing.assert_close(detections.scores, torch.full((12,), 3.0).sigmoid())
    expected = torch.tensor([16.0, 10.0, 36.0, 40.0]).expand(12, 4)
    torch.testing.assert_close(detections.pred_boxes.tensor, expected)


def test_empty_and_non_finite_boxes_are_dropped_in_training_but_kept_at_inference():
    proposals = Instances((SIZE, SIZE), proposal_boxes=Boxes(torch.zeros(4, 4)))
    proposals.objectness_logits = torch.arange(4.0)
    proposals.is_object = torch.tensor([False, False, False, True])
    boxes = torch.tensor([[1.0, 1, 500, 9], [7, 7, 7, 9], [0, 0, torch.inf, 9], [1, 1, 9, 9]])
    (in_training,) = refine_proposals([boxes], [proposals], training=True)
    assert in_training.proposal_boxes.tensor.tolist() == [[1, 1, SIZE, 9]]
    assert in_training.objectness_logits.tolist() == [0]
    (at_inference,) = refine_proposals([boxes], [proposals], training=False)
    assert len(at_inference) == 4 and at_inference.proposal_boxes.tensor.isfinite().all()


@pytest.mark.parametrize("agnostic", [False, True])
def test_masks_are_the_mean_of_the_probabilities_of_all_mask_heads(agnostic):
    heads = build(3).eval()
    biases = torch.tensor([-3.0, 0.5, 1.0])
    for head, bias in zip(heads.mask_head, biases):
        torch.nn.init.zeros_(head.predictor.weight)
        # The biases of the classes differ a little.
        head.predictor.bias.data = bias + 0.1 * torch.arange(12)
        if agnostic:
            head.predictor.weight.data = head.predictor.weight.data[:1]
            head.predictor.bias.data = head.predictor.bias.data[:1]
    with torch.no_grad():
        detections = heads(None, make_features(2), make_proposals(2))[0]
        # Given boxes, as in test-time augmentation.
        boxes_to_mask = Instances((SIZE, SIZE), pred_boxes=Boxes([[10.0, 10.0, 30.0, 40.0]]))
        boxes_to_mask.pred_classes = torch.tensor([7])
        detections += heads.forward_with_given_boxes(make_features(1), [boxes_to_mask])
    for image in detections:
        classes = 0 * image.pred_classes if agnostic else image.pred_classes
        mean = (biases + 0.1 * classes[:, None]).sigmoid().mean(dim=1)
        expected = mean[:, None, None, None].expand(-1, 1, 14, 14)
        assert len(image)
        torch.testing.assert_close(image.pred_masks, expected)


def test_a_cascade_with_one_mask_head_predicts_masks():
    heads = build(1).eval()
    with torch.no_grad():
        detections = heads(None, make_features(2), make_proposals(2))[0]
    for image in detections:
        assert image.pred_masks.shape == (len(image), 1, 14, 14) and len(image)


def test_metrics_are_logged_with_a_prefix_for_each_stage():
    with EventStorage(0) as storage:
        step(build(), make_targets((3, 3)))
    assert {f"stage{i}/num_positives" for i in range(3)} <= storage.latest().keys()


def test_incompatible_parts_raise_value_error():
    with pytest.raises(ValueError, match=r"expected one of each for every stage, got \[3, 3, 3, 1"):
        build(criteria=[L.Criterion(classification=L.RankSort())])
    cfg = load("quick/cascade_rs.py").model.roi_heads
    cfg.box_predictors[1].cls_agnostic_bbox_reg = False
    with pytest.raises(ValueError, match="box_predictors: expected cls_agnostic_bbox_reg=True"):
        instantiate(cfg)
    for count in (2, 4):
        message = f"mask_heads: expected one for each of 3 stages, .*, got {count}"
        with pytest.raises(ValueError, match=message):
            build(count)
    with pytest.raises(ValueError, match="mask_heads: expected one for each of 3 stages.*, got 0"):
        build(3, mask_heads=None)
    cfg = load_masked_cascade().roi_heads
    cfg.mask_heads[2].num_classes = 5
    with pytest.raises(ValueError, match="mask_head.num_classes: expected the model's 12, got 5"):
        instantiate(cfg)
    cfg = load("quick/cascade_rs.py").model.roi_heads
    softmax = L.Criterion(classification=L.CrossEntropy(), normalizer=L.CandidateCount())
    cfg.criteria = [softmax, softmax, L.Criterion(classification=L.RankSort())]
    cfg.box_predictors[0].softmax = cfg.box_predictors[1].softmax = True
    with pytest.raises(ValueError, match="criteria: expected either softmax or sigmoid in all"):
        instantiate(cfg)


def test_the_cascade_heads_are_registered_in_detectron2():
    assert ROI_HEADS_REGISTRY.get("RankingCascadeROIHeads") is RankingCascadeROIHeads
