"""Dense detectors in configs/coco: their settings match the papers' rows, typed here by hand."""

import ast
from typing import NamedTuple

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.layers import FrozenBatchNorm2d
from detectron2.structures import BoxMode
from PIL import Image
from torch import nn

from ranking_det.assigners import PAA, MaxIoU, NormalizedPAA
from ranking_det.criteria import ConstantBalance, HistoryBalance, ValueBalance
from ranking_det.engine.lazy_config import load_lazy_config
from tests.configs.cases import check_step
from tests.modeling.cases import CONFIGS

# R-CNNs are in test_rcnn_papers.py.
FILES = [
    p for p in sorted((CONFIGS / "coco").glob("*.py")) if p.stem.startswith(("retinanet", "fcos"))
]


class Row(NamedTuple):
    ap: str
    lr: float
    total: int
    steps: tuple[int, ...]  # iterations at which the learning rate is divided by 10
    anchors: int  # per cell
    p6: str
    gn: bool
    score: float
    nms: float
    batch: int = 16
    small: bool = False  # 512 x 512
    box_weight: float | None = None  # of a constant balance
    relu: bool = False
    voting: bool = False
    soft: bool = False
    over_processes: bool = False  # whether positives are counted over all processes


ROWS = {
    "retinanet_atss_rs_r50_12ep": Row(
        "39.9", 0.008, 87_960, (58_640, 80_630), 3, "p5", True, 0.05, 0.6
    ),
    "retinanet_paa_rs_r50_12ep": Row(
        "41.0", 0.008, 87_960, (58_640, 80_630), 3, "p5", True, 0.05, 0.6, voting=True
    ),
    "retinanet_maxiou_ap_r50_100ep_512": Row(
        "35.4", 0.002, 366_500, (219_900, 293_200), 6, "res5", False, 0.05, 0.5, 32, True, 0.25
    ),
    "retinanet_maxiou_alrp_r50_100ep_512": Row(
        "39.0", 0.008, 366_500, (219_900, 293_200), 6, "res5", False, 0.05, 0.5, 32, True
    ),
    "retinanet_atss_alrp_r50_100ep_512": Row(
        "41.0", 0.008, 366_500, (274_875, 348_175), 2, "res5", False, 0.05, 0.5, 32, True
    ),
    "retinanet_atss_ape_r50_24ep": Row(
        "40.8", 0.01, 175_920, (131_940, 161_260), 1, "p5", True, 0.15, 0.6, box_weight=2.0
    ),
    "retinanet_paastar_ape_r50_24ep": Row(
        "41.5", 0.01, 175_920, (131_940, 161_260), 1, "res5", True, 0.15, 0.6, box_weight=2.0
    ),
    "retinanet_maxiou_ape_r50_48ep_512": Row(
        "38.3", 0.004, 351_840, (234_560, 322_520), 2, "res5", False, 0.15, 0.6, 16, True, 2.0
    ),
    "retinanet_atss_ape_r50_48ep_512": Row(
        "39.9", 0.004, 351_840, (234_560, 322_520), 2, "res5", False, 0.15, 0.6, 16, True, 2.0
    ),
    "retinanet_paastar_ape_r50_48ep_512": Row(
        "41.1", 0.004, 351_840, (234_560, 322_520), 2, "res5", True, 0.15, 0.6, 16, True, 2.0
    ),
    "retinanet_paastar_ape_r50_96ep_512": Row(
        "42.9", 0.004, 703_680, (469_120, 645_040), 2, "res5", True, 0.15, 0.6, 16, True, 2.0
    ),
    "retinanet_maxiou_rankdet_r50_24ep": Row(
        "37.8", 0.01, 175_920, (58_640, 80_630), 9, "res5", False, 0.05, 0.6, soft=True
    ),
    "retinanet_atss_rankdet_r50_24ep": Row(
        "40.7", 0.01, 175_920, (58_640, 80_630), 1, "p5", True, 0.05, 0.6, soft=True
    ),
    "retinanet_maxiou_focal_r50_12ep": Row(
        "35.4", 0.01, 87_960, (58_640, 80_630), 9, "res5", False, 0.05, 0.5, box_weight=1.0
    ),
    "retinanet_atss_focal_r50_12ep": Row(
        *("39.2", 0.01, 87_960, (58_640, 80_630), 1, "p5", True, 0.05, 0.6),
        box_weight=2.0,
        over_processes=True,
    ),
    "retinanet_paa_focal_r50_12ep": Row(
        "40.4",
        0.01,
        87_960,
        (58_640, 80_630),
        1,
        "p5",
        True,
        0.05,
        0.6,
        box_weight=1.3,
        relu=True,
        voting=True,
        over_processes=True,
    ),
    "fcos_fcos_focal_r50_12ep": Row(
        *("37.1", 0.01, 87_960, (58_640, 80_630), 1, "p5", True, 0.05, 0.6),
        box_weight=1.0,
        relu=True,
        over_processes=True,
    ),
}
# One config for each assigner and criterion takes a training step.
STEPS = {
    "retinanet_paa_rs_r50_12ep",
    "retinanet_maxiou_ap_r50_100ep_512",
    "retinanet_atss_alrp_r50_100ep_512",
    "retinanet_paastar_ape_r50_48ep_512",
    "retinanet_atss_rankdet_r50_24ep",
    "fcos_fcos_focal_r50_12ep",
}


PAA_RULES = {
    "paa_focal": ("anchor", "positive", "positive", 1e-6),
    "paa_rs": ("object", "none", "none", 1e-5),
    "paastar_ape": ("object", "none", "none", 1e-6),
}


def test_every_config_has_a_row():
    assert [path.stem for path in FILES] == sorted(ROWS)


@pytest.fixture(scope="module", params=sorted(ROWS))
def case(request):
    """A config with its row. The model is built in one test only, to save time."""
    path = CONFIGS / "coco" / f"{request.param}.py"
    return request.param, load_lazy_config(str(path), []), ROWS[request.param]


def test_the_docstring_states_the_ap_and_the_output_folder_is_the_config_name(case):
    name, cfg, row = case
    assert row.ap in ast.get_docstring(ast.parse((CONFIGS / "coco" / f"{name}.py").read_text()))
    assert cfg.train.output_dir == f"output/coco/{name}"
    assert cfg.train.init_checkpoint == "detectron2://ImageNetPretrained/torchvision/R-50.pkl"


def test_the_learning_rate_schedule_is_that_of_the_paper(case):
    name, cfg, row = case
    assert cfg.train.max_iter == row.total
    multiplier = instantiate(cfg.lr_multiplier)

    def rate(iteration):
        return cfg.optimizer.lr * multiplier(iteration / cfg.train.max_iter)

    stages = [0, 87_960] if "rankdet" in name else [0]
    for i, start in enumerate(stages):
        first, second = (start + step for step in row.steps)
        end = [*stages, row.total][i + 1]
        expected = {
            start: 0.001,
            start + 499: 0.001 + 0.999 * 499 / 500,
            start + 500: 1.0,
            first - 1: 1.0,
            first: 0.1,
            second - 1: 0.1,
            second: 0.01,
            end - 1: 0.01,
        }
        for iteration, factor in expected.items():
            assert rate(iteration) == pytest.approx(row.lr * factor, rel=1e-6), iteration
    multiplier(1.0)  # Detectron2 evaluates it after the last iteration


def test_the_data_loaders_and_image_sizes_are_those_of_the_paper(case, tmp_path):
    _, cfg, row = case
    train, test = cfg.dataloader.train, cfg.dataloader.test
    assert train.total_batch_size == row.batch
    assert (train.dataset.names, test.dataset.names) == ("coco_2017_train", "coco_2017_val")
    assert test.dataset.filter_empty is False and train.dataset.get("filter_empty", True)
    path = tmp_path / "image.png"
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(path)
    annotation = {"bbox": [8, 8, 40, 30], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 3}
    item = {"file_name": str(path), "height": 48, "width": 64, "annotations": [annotation]}
    trained, tested = instantiate(train.mapper)(item), instantiate(test.mapper)(item)
    assert trained["image"].shape[1:] == ((512, 512) if row.small else (800, 1067))
    assert trained["instances"].gt_classes.tolist() == [3]
    assert tested["image"].shape[1:] == ((500, 667) if row.small else (800, 1067))
    names = [aug._target_.__name__ for aug in train.mapper.augmentations]
    assert names == (
        ["PhotometricDistortion", "Expand", "MinIoURandomCrop", "Resize", "RandomFlip"]
        if row.small
        else ["ResizeShortestEdge", "RandomFlip"]
    )


def check_backbone(backbone, row):
    assert backbone.top_block.in_feature == row.p6 and backbone.top_block.relu == row.relu
    for name, parameter in backbone.bottom_up.named_parameters():
        assert parameter.requires_grad != name.startswith(("stem", "res2")), name
    norms = [m for m in backbone.bottom_up.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 42  # all 53 except the 11 of the stem and res2
    assert not any(norm.training for norm in norms)
    frozen = [m for m in backbone.bottom_up.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(frozen) == 11
    block = backbone.bottom_up.res3[0]
    assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2))


def check_optimizer(cfg, model, row):
    cfg.optimizer.params.model = model
    (group,) = instantiate(cfg.optimizer).param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (row.lr, 0.9, 1e-4)
    assert len(group["params"]) == sum(p.requires_grad for p in model.parameters())


def check_balance(balance, row):
    if row.box_weight is not None:
        assert isinstance(balance, ConstantBalance) and balance.weight == row.box_weight
    elif row.batch == 32:
        assert isinstance(balance, HistoryBalance) and balance.period == 3665
    else:
        assert isinstance(balance, ValueBalance)


def check_assigner(name, assigner):
    """Check the rule of low-quality matches.

    In the ranking papers an object gets its best anchors; in PAA an anchor gets its best object.
    """
    if isinstance(assigner, MaxIoU):
        assert assigner.low_quality == "object"
    if isinstance(assigner, (PAA, NormalizedPAA)):
        kind = name.split("_")[1] + "_" + name.split("_")[2]
        assert kind in PAA_RULES
        rule = (assigner.competitors.low_quality, assigner.single_candidate)
        assert (*rule, assigner.empty_component, assigner.reg_covar) == PAA_RULES[kind]


def test_the_model_is_that_of_the_paper(case):
    name, cfg, row = case
    torch.manual_seed(0)
    model = instantiate(cfg.model).train()
    check_backbone(model.backbone, row)
    check_optimizer(cfg, model, row)
    assert model.anchor_generator.num_anchors == [row.anchors] * 5
    assert any(isinstance(m, nn.GroupNorm) for m in model.head.modules()) == row.gn
    assert (model.head.scales is not None) == row.gn
    inference = model.inference
    assert (inference.score_thresh, inference.nms_thresh) == (row.score, row.nms)
    assert (inference.topk, inference.topk_by, inference.max_detections) == (1000, "anchor", 100)
    assert inference.score_voting == row.voting
    assert inference.nms == ("linear" if row.soft else "hard")
    if "rankdet" in name:
        assert model.criterion.ends == [87_960, 175_920]
    else:
        check_balance(model.criterion.balance, row)
        normalizer = model.criterion.normalizer
        assert (normalizer is not None and normalizer.scope == "global") == row.over_processes
    check_assigner(name, model.assigner)
    if name in STEPS:
        check_step(model)


def test_anchor_sizes_are_those_of_the_paper():
    def sizes(name):
        cfg = load_lazy_config(str(CONFIGS / "coco" / f"{name}.py"), [])
        return list(cfg.model.anchor_generator["sizes"][0])

    assert sizes("retinanet_atss_rs_r50_12ep") == pytest.approx([32, 40.317, 50.797], abs=1e-3)
    assert sizes("retinanet_maxiou_ape_r50_48ep_512") == pytest.approx([32, 45.255], abs=1e-3)
    assert sizes("retinanet_atss_ape_r50_24ep") == [64]
