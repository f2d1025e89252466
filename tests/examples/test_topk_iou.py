"""Tests of examples/topk_iou.py: assignments, contract, and a training step."""

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from examples.topk_iou import TopKIoU
from ranking_det.assigners import BACKGROUND, IGNORE
from ranking_det.boxes import box_iou
from ranking_det.engine.run_config import load_config
from tests.assigners.cases import grid, random_boxes
from tests.contracts import check_assigner
from tests.modeling.cases import CONFIGS, make_batch


def by_loop(anchors, boxes, valid, topk, min_iou, ignore_iou):
    """Assign in a loop, one object and one anchor at a time."""
    ious = [[float(box_iou(anchor, box)) for anchor in anchors] for box in boxes]
    best = [
        sorted((r for r in range(len(anchors)) if valid[r]), key=lambda r: -row[r])[:topk]
        for row in ious
    ]
    matched = []
    for r in range(len(anchors)):
        objects = [g for g in range(len(boxes)) if r in best[g] and ious[g][r] >= min_iou]
        highest = max((row[r] for row in ious), default=0.0) if valid[r] else 0.0
        default = IGNORE if highest >= ignore_iou else BACKGROUND
        matched.append(max(objects, key=lambda g: ious[g][r]) if objects else default)
    return torch.tensor(matched)


@pytest.mark.parametrize("topk", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_topk_iou_agrees_with_a_reference_loop(seed, topk):
    generator = torch.Generator().manual_seed(seed)
    anchors = [grid(96, stride, jitter=generator) for stride in (8, 16)]
    boxes = random_boxes(8, 96, generator)
    valid = torch.rand(sum(map(len, anchors)), generator=generator) > 0.1
    labels, index = TopKIoU(topk, 0.2, 0.3)(anchors, [boxes], [torch.arange(8)], valid)
    expected = by_loop(torch.cat(anchors), boxes, valid, topk, 0.2, 0.3).masked_fill(~valid, IGNORE)
    assert {BACKGROUND, IGNORE} < set(expected[valid].tolist())
    assert torch.equal(labels, expected)
    assert torch.equal(index, expected.clamp(min=-1))


@pytest.mark.parametrize("topk", [1, 9, 10_000])
def test_topk_iou_satisfies_the_contract_of_assigners(topk):
    check_assigner(TopKIoU(topk))


def test_a_shared_anchor_goes_to_the_object_with_the_highest_iou_and_ties_to_the_first():
    anchors = [torch.tensor([[0.0, 0.0, 10.0, 10.0]])]
    classes, valid = [torch.tensor([5, 6])], torch.tensor([True])
    boxes = torch.tensor([[0.0, 0.0, 10.0, 6.0], [0.0, 0.0, 10.0, 8.0]])
    assert TopKIoU()(anchors, [boxes], classes, valid).labels.tolist() == [6]
    boxes = torch.tensor([[0.0, 0.0, 10.0, 6.0], [0.0, 0.0, 6.0, 10.0]])
    assert TopKIoU()(anchors, [boxes], classes, valid).labels.tolist() == [5]


def test_the_error_names_the_wrong_argument():
    with pytest.raises(ValueError, match="topk: expected an integer of at least 1, got 0"):
        TopKIoU(topk=0)
    with pytest.raises(ValueError, match=r"min_iou: expected a number in \(0, 1\], got 0"):
        TopKIoU(min_iou=0)


def test_an_assigner_and_a_config_outside_the_repository_can_be_used(tmp_path, monkeypatch):
    source = (CONFIGS.parent / "examples" / "topk_iou.py").read_text()
    (tmp_path / "outside_assigner.py").write_text(source.replace("TopKIoU", "MyAssigner"))
    (tmp_path / "config.py").write_text(
        "from detectron2.config import LazyCall as L\n"
        "from detectron2.config import LazyConfig\n"
        "from outside_assigner import MyAssigner\n"
        f"base = LazyConfig.load('{CONFIGS}/shapes/quick/retinanet_atss_rs.py')\n"
        "model, dataloader, train = base.model, base.dataloader, base.train\n"
        "optimizer, lr_multiplier = base.optimizer, base.lr_multiplier\n"
        "model.assigner = L(MyAssigner)(topk=9)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = load_config(str(tmp_path / "config.py"), ["model.assigner.topk=5"])
    assigner = config.model().assigner
    assert type(assigner).__name__ == "MyAssigner" and assigner.topk == 5


def test_a_step_trains_every_parameter():
    config = LazyConfig.load(str(CONFIGS.parent / "examples" / "topk_iou_shapes.py"))
    torch.manual_seed(0)
    model = instantiate(config.model)
    losses = model(make_batch((4, 0)))
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values()) and losses["loss_box"] > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
