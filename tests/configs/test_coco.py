"""Dense detectors in configs/coco: their settings match the papers' rows, typed here by hand."""

import ast
from typing import NamedTuple

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import BoxMode
from PIL import Image
from torch import nn

from ranking_det.assigners import PAA, MaxIoU, NormalizedPAA
from ranking_det.criteria import (
    APE,
    ALRPCriterion,
    AveragePrecision,
    ConstantBalance,
    Focal,
    HistoryBalance,
    IoUWeight,
    QualityFocal,
    RankDet,
    RankSort,
    ScoreWeight,
    UniformWeight,
    ValueBalance,
    Varifocal,
)
from ranking_det.engine.lazy_config import load_lazy_config
from ranking_det.modeling.tta import make_tta_mapper
from tests.configs.cases import BACKBONES, build_model, check_backbone
from tests.modeling.cases import CONFIGS

# R-CNNs are in test_rcnn_papers.py.
FILES = [
    p for p in sorted((CONFIGS / "coco").glob("*.py")) if p.stem.startswith(("retinanet", "fcos"))
]


class Row(NamedTuple):
    ap: str
    lr: float
    max_iter: int
    steps: tuple[int, ...]  # iterations at which the learning rate is divided by 10
    anchors: int  # per cell
    p6_input: str
    group_norm: bool
    score_thresh: float
    nms_thresh: float
    batch: int = 16
    square: int = 0  # side of square training images with SSD's augmentation, in pixels
    box_weight: float | None = None  # of a constant balance
    p6_relu: bool = False
    score_voting: bool = False
    soft_nms: bool = False
    global_count: bool = False  # of positives, over all processes
    backbone: str = "r50"
    groups: int = 0  # deformable groups; 0 for no deformable convolutions
    short_edges: tuple[int, int] = (800, 800)  # of training images, unless they are square


ROWS = {
    "retinanet_atss_rs_r50_12ep": Row(
        "39.9", 0.008, 87_960, (58_640, 80_630), 3, "p5", True, 0.05, 0.6
    ),
    "retinanet_paa_rs_r50_12ep": Row(
        "41.0", 0.008, 87_960, (58_640, 80_630), 3, "p5", True, 0.05, 0.6, score_voting=True
    ),
    "retinanet_maxiou_ap_r50_100ep_512": Row(
        "35.4", 0.002, 366_500, (219_900, 293_200), 6, "res5", False, 0.05, 0.5, 32, 512, 0.25
    ),
    "retinanet_maxiou_alrp_r50_100ep_512": Row(
        "39.0", 0.008, 366_500, (219_900, 293_200), 6, "res5", False, 0.05, 0.5, 32, 512
    ),
    "retinanet_atss_alrp_r50_100ep_512": Row(
        "41.0", 0.008, 366_500, (274_875, 348_175), 2, "res5", False, 0.05, 0.5, 32, 512
    ),
    "retinanet_atss_ape_r50_24ep": Row(
        "40.8", 0.01, 175_920, (131_940, 161_260), 1, "p5", True, 0.15, 0.6, box_weight=2.0
    ),
    "retinanet_paastar_ape_r50_24ep": Row(
        "41.5", 0.01, 175_920, (131_940, 161_260), 1, "res5", True, 0.15, 0.6, box_weight=2.0
    ),
    "retinanet_maxiou_ape_r50_48ep_512": Row(
        "38.3", 0.004, 351_840, (234_560, 322_520), 2, "res5", False, 0.15, 0.6, 16, 512, 2.0
    ),
    "retinanet_atss_ape_r50_48ep_512": Row(
        "39.9", 0.004, 351_840, (234_560, 322_520), 2, "res5", False, 0.15, 0.6, 16, 512, 2.0
    ),
    "retinanet_paastar_ape_r50_48ep_512": Row(
        "41.1", 0.004, 351_840, (234_560, 322_520), 2, "res5", True, 0.15, 0.6, 16, 512, 2.0
    ),
    "retinanet_paastar_ape_r50_96ep_512": Row(
        "42.9", 0.004, 703_680, (469_120, 645_040), 2, "res5", True, 0.15, 0.6, 16, 512, 2.0
    ),
    "retinanet_maxiou_rankdet_r50_24ep": Row(
        "37.8", 0.01, 175_920, (58_640, 80_630), 9, "res5", False, 0.05, 0.6, soft_nms=True
    ),
    "retinanet_atss_rankdet_r50_24ep": Row(
        "40.7", 0.01, 175_920, (58_640, 80_630), 1, "p5", True, 0.05, 0.6, soft_nms=True
    ),
    "retinanet_maxiou_focal_r50_12ep": Row(
        "35.4", 0.01, 87_960, (58_640, 80_630), 9, "res5", False, 0.05, 0.5, box_weight=1.0
    ),
    "retinanet_atss_focal_r50_12ep": Row(
        *("39.2", 0.01, 87_960, (58_640, 80_630), 1, "p5", True, 0.05, 0.6),
        box_weight=2.0,
        global_count=True,
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
        p6_relu=True,
        score_voting=True,
        global_count=True,
    ),
    "fcos_fcos_focal_r50_12ep": Row(
        *("37.1", 0.01, 87_960, (58_640, 80_630), 1, "p5", True, 0.05, 0.6),
        box_weight=1.0,
        p6_relu=True,
        global_count=True,
    ),
    "retinanet_atss_ap_r50_12ep": Row(
        "38.3", 0.008, 87_960, (58_640, 80_630), 3, "p5", True, 0.05, 0.6, box_weight=2.0
    ),
    "retinanet_paa_ap_r50_12ep": Row(
        *("37.3", 0.008, 87_960, (58_640, 80_630), 3, "p5", True, 0.05, 0.6),
        box_weight=2.0,
        score_voting=True,
    ),
    "retinanet_maxiou_ap_r101_100ep_512": Row(
        *("37.4", 0.001, 1_465_900, (879_540, 1_172_720), 6, "res5", False, 0.05, 0.5, 8, 512),
        box_weight=0.25,
        backbone="r101",
    ),
    "retinanet_atss_alrp_r101_100ep_512": Row(
        *("42.2", 0.008, 366_500, (274_875, 348_175), 2, "res5", False, 0.05, 0.5, 32, 512),
        backbone="r101",
    ),
    "retinanet_atss_alrp_x101_100ep_512": Row(
        *("44.5", 0.008, 366_500, (274_875, 348_175), 2, "res5", False, 0.05, 0.5, 32, 512),
        backbone="x101",
    ),
    "retinanet_atss_alrp_r101_100ep": Row(
        *("45.4", 0.004, 733_000, (549_750, 696_350), 2, "res5", False, 0.05, 0.5, 16, 800),
        backbone="r101",
    ),
    "retinanet_atss_alrp_x101_100ep": Row(
        *("47.2", 0.004, 733_000, (549_750, 696_350), 2, "res5", False, 0.05, 0.5, 16, 800),
        backbone="x101",
    ),
    "retinanet_atss_alrp_x101_dcn_100ep": Row(
        *("48.6", 0.004, 733_000, (549_750, 696_350), 2, "res5", False, 0.05, 0.5, 16, 800),
        backbone="x101",
        groups=4,
    ),
    "retinanet_paastar_ape_x101_dcn_24ep": Row(
        *("49.0", 0.01, 175_920, (131_940, 161_260), 1, "p5", True, 0.25, 0.6),
        box_weight=2.0,
        backbone="x101",
        groups=1,
        short_edges=(480, 960),
    ),
    "retinanet_paastar_ape_r2_101_dcn_36ep": Row(
        *("50.0", 0.01, 263_880, (197_910, 241_890), 1, "p5", True, 0.25, 0.6),
        box_weight=2.0,
        backbone="r2_101",
        groups=1,
        short_edges=(480, 960),
    ),
    "retinanet_atss_qfl_r50_12ep": Row(
        *("39.9", 0.01, 87_960, (58_640, 80_630), 1, "p5", True, 0.05, 0.6),
        box_weight=2.0,
        global_count=True,
    ),
    "retinanet_atss_vfl_r50_12ep": Row(
        *("40.2", 0.01, 87_960, (58_640, 80_630), 1, "p5", True, 0.05, 0.6),
        box_weight=2.0,
        global_count=True,
    ),
    "retinanet_paa_focal_r50_18ep": Row(
        *("41.1", 0.01, 131_940, (87_960, 117_280), 1, "p5", True, 0.05, 0.6),
        box_weight=1.3,
        p6_relu=True,
        score_voting=True,
        global_count=True,
    ),
    "retinanet_maxiou_focal_r101_12ep": Row(
        *("37.5", 0.01, 87_960, (58_640, 80_630), 9, "res5", False, 0.05, 0.5),
        box_weight=1.0,
        backbone="r101",
    ),
    "retinanet_maxiou_rankdet_r101_24ep": Row(
        *("39.4", 0.01, 175_920, (58_640, 80_630), 9, "res5", False, 0.05, 0.6),
        soft_nms=True,
        backbone="r101",
    ),
    "retinanet_maxiou_focal_x101_12ep": Row(
        *("39.7", 0.01, 87_960, (58_640, 80_630), 9, "res5", False, 0.05, 0.5),
        box_weight=1.0,
        backbone="x101",
    ),
    "retinanet_maxiou_rankdet_x101_24ep": Row(
        *("41.6", 0.01, 175_920, (58_640, 80_630), 9, "res5", False, 0.05, 0.6),
        soft_nms=True,
        backbone="x101",
    ),
    "retinanet_atss_focal_r50_dcn_12ep": Row(
        *("43.9", 0.01, 87_960, (58_640, 80_630), 1, "p5", True, 0.05, 0.6),
        box_weight=2.0,
        global_count=True,
        backbone="r50",
        groups=1,
    ),
    "retinanet_atss_rankdet_r50_dcn_24ep": Row(
        *("45.2", 0.01, 175_920, (58_640, 80_630), 1, "p5", True, 0.05, 0.6),
        soft_nms=True,
        backbone="r50",
        groups=1,
    ),
    "retinanet_atss_focal_x101_dcn_12ep": Row(
        *("47.1", 0.01, 87_960, (58_640, 80_630), 1, "p5", True, 0.05, 0.6),
        box_weight=2.0,
        global_count=True,
        backbone="x101",
        groups=1,
    ),
    "retinanet_atss_rankdet_x101_dcn_24ep": Row(
        *("48.1", 0.01, 175_920, (58_640, 80_630), 1, "p5", True, 0.05, 0.6),
        soft_nms=True,
        backbone="x101",
        groups=1,
    ),
}
PAA_OPTIONS = {
    "paa_focal": ("anchor", "positive", "positive", 1e-6),
    "paa_rs": ("object", "none", "none", 1e-5),
    "paa_ap": ("object", "none", "none", 1e-5),
    "paastar_ape": ("object", "none", "none", 1e-6),
}
# By the third word of a config's name: classification loss, its options, instance weight (None:
# ``check_criterion`` has the exceptions).
LOSSES = {
    "rs": (RankSort, {"delta": 0.5}, ScoreWeight),
    "ap": (AveragePrecision, {"delta": 1.0, "interpolated": True}, UniformWeight),
    "alrp": (None, {"delta": 1.0, "tau": 0.5}, None),
    "ape": (APE, {"lam": 8.0}, None),
    "qfl": (QualityFocal, {"beta": 2.0}, ScoreWeight),
    "vfl": (Varifocal, {"alpha": 0.75, "gamma": 2.0}, UniformWeight),
    "focal": (Focal, {"alpha": 0.25, "gamma": 2.0}, None),
}


def test_every_config_has_a_row():
    assert [path.stem for path in FILES] == sorted(ROWS)


@pytest.fixture(scope="module", params=sorted(ROWS))
def case(request):
    """Load a config with its row; only one test builds the model, to save time."""
    path = CONFIGS / "coco" / f"{request.param}.py"
    return request.param, load_lazy_config(str(path), []), ROWS[request.param]


def test_the_docstring_states_the_ap_and_the_output_folder_is_the_config_name(case):
    name, cfg, row = case
    assert row.ap in ast.get_docstring(ast.parse((CONFIGS / "coco" / f"{name}.py").read_text()))
    assert cfg.train.output_dir == f"output/coco/{name}"
    assert cfg.train.init_checkpoint == BACKBONES[row.backbone].weights
    dcn = "_dcn" if row.groups else ""
    assert f"_{row.backbone}{dcn}_" in name and name.endswith("_512") == (row.square == 512)
    assert not cfg.train.tta.enabled


def test_the_learning_rate_schedule_is_that_of_the_paper(case):
    name, cfg, row = case
    assert cfg.train.max_iter == row.max_iter
    multiplier = instantiate(cfg.lr_multiplier)

    def rate(iteration):
        return cfg.optimizer.lr * multiplier(iteration / cfg.train.max_iter)

    # fvcore may change the rate 1e-6 of a run too early, an iteration of more than a million.
    gap = 1 if row.max_iter <= 1_000_000 else 2
    stages = [0, 87_960] if "rankdet" in name else [0]
    for i, start in enumerate(stages):
        first, second = (start + step for step in row.steps)
        end = [*stages, row.max_iter][i + 1]
        expected = {
            start: 0.001,
            start + 500 - gap: 0.001 + 0.999 * (500 - gap) / 500,
            start + 500: 1.0,
            first - gap: 1.0,
            first: 0.1,
            second - gap: 0.1,
            second: 0.01,
            end - 1: 0.01,
        }
        for iteration, factor in expected.items():
            assert rate(iteration) == pytest.approx(row.lr * factor, rel=1e-6), iteration
    multiplier(1.0)  # Detectron2 evaluates it after the last iteration


def test_the_data_loaders_and_image_sizes_are_those_of_the_paper(case, tmp_path):
    _, cfg, row = case
    train, test = cfg.dataloader.train, cfg.dataloader.test
    assert train.total_batch_size == cfg.train.reference_batch == row.batch
    assert (train.dataset.names, test.dataset.names) == ("coco_2017_train", "coco_2017_val")
    assert test.dataset.filter_empty is False and train.dataset.get("filter_empty", True)
    names = [aug._target_.__name__ for aug in train.mapper.augmentations]
    assert names == (
        ["PhotometricDistortion", "Expand", "MinIoURandomCrop", "Resize", "RandomFlip"]
        if row.square
        else ["ResizeShortestEdge", "RandomFlip"]
    )
    if not row.square:
        resize = instantiate(train.mapper.augmentations[0])
        assert resize.is_range and resize.max_size == 1333
        assert tuple(resize.short_edge_length) == row.short_edges
        train.mapper.augmentations[0].short_edge_length = 800
    path = tmp_path / "image.png"
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(path)
    annotation = {"bbox": [8, 8, 40, 30], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 3}
    item = {"file_name": str(path), "height": 48, "width": 64, "annotations": [annotation]}
    train_sample, test_sample = instantiate(train.mapper)(item), instantiate(test.mapper)(item)
    square = (row.square, row.square)
    assert train_sample["image"].shape[1:] == (square if row.square else (800, 1067))
    assert train_sample["instances"].gt_classes.tolist() == [3]
    assert test_sample["image"].shape[1:] == ((500, 667) if row.square == 512 else (800, 1067))


def check_optimizer(cfg, model, row):
    cfg.optimizer.params.model = model
    (group,) = instantiate(cfg.optimizer).param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (row.lr, 0.9, 1e-4)
    assert len(group["params"]) == sum(p.requires_grad for p in model.parameters())


def check_balance(criterion, name, row):
    balance, normalizer = criterion.balance, criterion.normalizer
    if row.box_weight is not None:
        assert isinstance(balance, ConstantBalance) and balance.weight == row.box_weight
    elif "alrp" in name:
        assert isinstance(balance, HistoryBalance) and balance.period == -(-117_266 // row.batch)
    else:
        assert isinstance(balance, ValueBalance)
    assert (normalizer is not None and normalizer.scope == "global") == row.global_count


def check_criterion(criterion, name, row):
    loss, options, weight = LOSSES[name.split("_")[2]]
    if loss is None:
        assert isinstance(criterion, ALRPCriterion)
    else:
        assert type(criterion.classification) is loss
    for option, value in options.items():
        assert getattr(criterion.classification, option) == value, option
    assert weight is None or type(criterion.instance_weight) is weight
    if loss is APE:
        weight = IoUWeight if "paastar" in name else ScoreWeight
        assert type(criterion.instance_weight) is weight
        count = 1_000_000 if row.square else 100_000
        assert criterion.classification.max_negatives == count
    check_balance(criterion, name, row)


def check_assigner(name, assigner):
    """Check how an assigner matches objects without an anchor of high IoU.

    In the ranking papers an object gets its best anchors; in PAA an anchor gets its best object.
    """
    if isinstance(assigner, MaxIoU):
        assert assigner.low_quality == "object"
    if isinstance(assigner, (PAA, NormalizedPAA)):
        kind = name.split("_")[1] + "_" + name.split("_")[2]
        assert kind in PAA_OPTIONS
        options = (assigner.competitors.low_quality, assigner.single_candidate)
        assert (*options, assigner.empty_component, assigner.reg_covar) == PAA_OPTIONS[kind]


def test_the_model_is_that_of_the_paper(case):
    name, cfg, row = case
    model = build_model(cfg, "meta")
    top_block = model.backbone.top_block
    assert top_block.in_feature == row.p6_input and top_block.relu == row.p6_relu
    check_backbone(model.backbone.bottom_up, row.backbone, row.groups)
    check_optimizer(cfg, model, row)
    assert model.anchor_generator.num_anchors == [row.anchors] * 5
    assert any(isinstance(m, nn.GroupNorm) for m in model.head.modules()) == row.group_norm
    assert (model.head.scales is not None) == row.group_norm
    inference = model.inference
    assert (inference.score_thresh, inference.nms_thresh) == (row.score_thresh, row.nms_thresh)
    assert (inference.topk, inference.topk_by, inference.max_detections) == (1000, "anchor", 100)
    assert inference.score_voting == row.score_voting
    assert inference.nms == ("linear" if row.soft_nms else "hard")
    if "rankdet" in name:
        assert model.criterion.ends == [87_960, 175_920]
        first, second = (type(stage.classification) for stage in model.criterion.stages)
        assert (first, second) == (Focal, RankDet)
    else:
        check_criterion(model.criterion, name, row)
    check_assigner(name, model.assigner)


def test_anchor_sizes_are_those_of_the_paper():
    def sizes(name):
        cfg = load_lazy_config(str(CONFIGS / "coco" / f"{name}.py"), [])
        return list(cfg.model.anchor_generator["sizes"][0])

    assert sizes("retinanet_atss_rs_r50_12ep") == pytest.approx([32, 40.317, 50.797], abs=1e-3)
    assert sizes("retinanet_maxiou_ape_r50_48ep_512") == pytest.approx([32, 45.255], abs=1e-3)
    assert sizes("retinanet_atss_ape_r50_24ep") == [64]


def test_multi_scale_testing_of_ap_loss_resizes_the_original_image():
    path = str(CONFIGS / "coco" / "retinanet_maxiou_ap_r101_100ep_512.py")
    overrides = ["train.tta.enabled=True", "dataloader.test.mapper.augmentations=[]"]
    assert all(override in (CONFIGS.parent / path).read_text() for override in overrides)
    cfg = load_lazy_config(path, overrides)
    image = np.zeros((480, 640, 3), np.uint8)
    options = {key: value for key, value in cfg.train.tta.items() if key != "enabled"}
    augmentations = [instantiate(node) for node in cfg.dataloader.test.mapper.augmentations]
    views = make_tta_mapper(**options)(
        {"image": torch.from_numpy(image).permute(2, 0, 1), "height": 480, "width": 640}
    )
    assert cfg.train.tta.enabled and augmentations == []
    sizes = [tuple(view["image"].shape[1:]) for view in views[::2]]
    assert sizes == [(400, 533), (500, 667), (600, 800), (700, 933), (800, 1067)]
    assert len(views) == 10  # each size and its mirror image
