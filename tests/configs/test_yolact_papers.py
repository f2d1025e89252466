"""YOLACT in configs/coco: its settings match the paper's rows, typed here by hand."""

import ast
import math
from typing import NamedTuple

import pytest
import torch
from detectron2.config import instantiate
from detectron2.data.transforms import RandomFlip, Resize
from torch import nn

from ranking_det.criteria import (
    ConstantBalance,
    CrossEntropy,
    GIoU,
    MaskCrossEntropy,
    MaskDice,
    PositiveCount,
    RankSort,
    ScoreWeight,
    SmoothL1,
    UniformWeight,
    ValueBalance,
)
from ranking_det.data.augmentation import Expand, MinIoURandomCrop, PhotometricDistortion
from ranking_det.engine.lazy_config import load_lazy_config
from ranking_det.layers import FastNMS
from tests.configs.cases import build_model
from tests.modeling.cases import CONFIGS

CELLS = (69, 35, 18, 9, 5)


class Row(NamedTuple):
    ap: tuple[str, ...]
    lr: float
    steps: tuple[int, ...] | None  # epochs at which the rate is divided by 10; None for a cosine


ROWS = {
    "yolact_rs_r50_55ep": Row(("29.9", "33.8"), 0.006, None),
    "yolact_ce_r50_55ep": Row(("28.5", "28.4", "29.0"), 0.004, (20, 42, 49, 52)),
}


def test_every_config_has_a_row():
    assert sorted(path.stem for path in (CONFIGS / "coco").glob("yolact*.py")) == sorted(ROWS)


@pytest.fixture(scope="module", params=ROWS)
def case(request):
    path = CONFIGS / "coco" / f"{request.param}.py"
    return request.param, load_lazy_config(str(path), []), ROWS[request.param]


def test_the_docstring_states_the_ap_and_the_output_folder_is_the_config_name(case):
    name, cfg, row = case
    text = ast.get_docstring(ast.parse((CONFIGS / "coco" / f"{name}.py").read_text()))
    assert all(ap in text for ap in row.ap)
    assert cfg.train.output_dir == f"output/coco/{name}"
    assert cfg.train.init_checkpoint == "detectron2://ImageNetPretrained/torchvision/R-50.pkl"


def test_the_learning_rate_schedule_is_that_of_the_paper(case):
    _, cfg, row = case
    length, total = 3_665, 201_575
    train = cfg.train
    assert (train.max_iter, train.iterations_per_epoch, train.epochs) == (total, length, 55)
    assert train.reference_batch == cfg.dataloader.train.total_batch_size == 32
    multiplier = instantiate(cfg.lr_multiplier)
    assert multiplier(0) == pytest.approx(0.1)
    assert multiplier(250 / total) == pytest.approx(0.55)
    for epoch in range(1, 55):
        expected = 0.5 + 0.5 * math.cos(math.pi * epoch / 55)
        if row.steps is not None:
            expected = 0.1 ** sum(step <= epoch for step in row.steps)
        for iteration in (epoch * length, (epoch + 1) * length - 1):
            assert multiplier(iteration / total) == pytest.approx(expected), iteration
    assert multiplier(500 / total) == 1.0


def test_the_data_loaders_are_those_of_the_paper(case):
    _, cfg, _ = case
    train, test = cfg.dataloader.train, cfg.dataloader.test
    mapper = train.mapper
    steps = [instantiate(node) for node in mapper.augmentations]
    kinds = [PhotometricDistortion, Expand, MinIoURandomCrop, Resize, RandomFlip]
    assert [type(step) for step in steps] == kinds
    assert steps[3].shape == (550, 550) and steps[4].prob == 0.5
    assert instantiate(test.mapper.augmentations[0]).shape == (550, 550)
    assert mapper.masks and mapper.min_side == 4.0
    assert mapper.image_format == test.mapper.image_format == "RGB"
    assert not train.aspect_ratio_grouping
    names = train.dataset.names, test.dataset.names, cfg.dataloader.evaluator.dataset_name
    assert names == ("coco_2017_train", "coco_2017_val", "coco_2017_val")


def check_criterion(model, is_baseline):
    criterion = model.criterion
    boxes, masks = criterion.localization
    assert criterion.rank_scope == "gpu" and model.continuous_label == "iou"
    if not is_baseline:
        classification = criterion.classification
        assert isinstance(classification, RankSort)
        assert (classification.delta, classification.zero_is_negative) == (0.5, True)
        assert isinstance(boxes, GIoU) and isinstance(masks, MaskDice)
        assert isinstance(criterion.balance, ValueBalance) and boxes.balance is None
        assert isinstance(masks.balance, ValueBalance) and masks.weighted and masks.weight == 1.0
        assert isinstance(criterion.instance_weight, ScoreWeight)
        assert not criterion.instance_weight.target_class
        assert model.mask_branch.max_masks is None and model.mask_branch.semantic is None
        return
    assert isinstance(criterion.classification, CrossEntropy)
    assert criterion.classification.negatives_per_positive == 3
    assert isinstance(criterion.normalizer, PositiveCount) and criterion.normalizer.momentum == 0
    assert isinstance(boxes, SmoothL1) and boxes.beta == 1.0
    assert isinstance(criterion.balance, ConstantBalance) and criterion.balance.weight == 1.5
    assert isinstance(masks, MaskCrossEntropy) and masks.by_area and not masks.weighted
    assert isinstance(masks.balance, ConstantBalance) and masks.balance.weight == 1.0
    assert masks.weight == 6.125 and isinstance(criterion.instance_weight, UniformWeight)
    assert model.mask_branch.max_masks == 100 and model.mask_branch.semantic.out_channels == 80


def test_the_model_is_that_of_the_paper(case):
    name, cfg, row = case
    model = build_model(cfg, "meta")
    check_criterion(model, "_ce_" in name)
    network = model.backbone.bottom_up
    assert [len(getattr(network, f"res{i}")) for i in range(2, 6)] == [3, 4, 6, 3]
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 53 and all(norm.training for norm in norms)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(block.conv1.stride == (1, 1) for block in network.res3)
    neck = model.backbone.top_block
    assert (neck.in_feature, neck.relu, neck.p6.in_channels) == ("res5", False, 2048)
    assert model.backbone.size_divisibility == 0
    head, masks = model.head, model.mask_branch
    assert [layer.out_channels for layer in head.tower if isinstance(layer, nn.Conv2d)] == [256]
    predictors = head.cls_score, head.bbox_pred, head.mask_pred
    assert [layer.out_channels for layer in predictors] == [240, 12, 96]
    assert not any(layer.bias.any() for layer in predictors)
    kinds = [type(layer).__name__ for layer in masks.protonet]
    assert kinds == ["Conv2d", "ReLU"] * 3 + ["Upsample"] + ["Conv2d", "ReLU"] * 2
    sizes = [(m.out_channels, m.kernel_size) for m in masks.protonet if isinstance(m, nn.Conv2d)]
    assert sizes == [(256, (3, 3))] * 4 + [(32, (1, 1))]
    for layer in (*head.modules(), *masks.modules()):
        if isinstance(layer, nn.Conv2d):  # Xavier uniform
            area = layer.kernel_size[0] * layer.kernel_size[1]
            bound = math.sqrt(6 / (area * (layer.in_channels + layer.out_channels)))
            assert 0.95 * bound < layer.weight.abs().max() <= bound
    assigner = model.assigner
    assert (assigner.positive_iou, assigner.negative_iou) == (0.5, 0.4)
    assert (assigner.low_quality, assigner.low_quality_iou) == ("object", 0.0)
    assert tuple(model.box2box_transform.weights) == (10, 10, 5, 5)
    inference = model.inference
    assert (inference.score_thresh, inference.topk, inference.topk_by) == (0.05, 1000, "anchor")
    assert isinstance(inference.suppression, FastNMS) and inference.max_detections == 100
    assert (inference.suppression.iou_thresh, inference.suppression.topk) == (0.5, 200)
    assert inference.softmax == ("_ce_" in name)
    assert model.pixel_mean.flatten().tolist() == pytest.approx([123.68, 116.78, 103.94])
    assert model.pixel_std.flatten().tolist() == pytest.approx([58.40, 57.12, 57.38])
    assert model.input_format == "RGB"
    cfg.optimizer.params.model = model
    (group,) = instantiate(cfg.optimizer).param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (row.lr, 0.9, 5e-4)


def test_the_anchors_are_spread_evenly_over_the_image(case):
    generator = instantiate(case[1].model.anchor_generator)
    levels = generator([torch.zeros(1, 1, cells, cells) for cells in CELLS])
    assert sum(len(level) for level in levels) == 19_248
    for i, (cells, level) in enumerate(zip(CELLS, levels, strict=True)):
        boxes = level.tensor.view(cells, cells, 3, 4)
        centers = (boxes[..., :2] + boxes[..., 2:]) / 2
        expected = (torch.arange(cells) + 0.5) * 550 / cells
        torch.testing.assert_close(centers[0, :, 1, 0], expected)
        torch.testing.assert_close(centers[:, 0, 1, 1], expected)
        sides = boxes[0, 0, :, 2:] - boxes[0, 0, :, :2]
        torch.testing.assert_close(sides[:, 1] / sides[:, 0], torch.tensor([0.5, 1.0, 2.0]))
        torch.testing.assert_close(sides.prod(dim=1).sqrt(), torch.full((3,), 24.0 * 2**i))
