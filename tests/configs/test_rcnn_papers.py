"""R-CNNs in configs/coco, lvis and cityscapes: their settings match the papers' rows."""

import ast
from typing import NamedTuple

import pytest
import torch
from detectron2.config import instantiate
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.layers import ROIAlign

from ranking_det.criteria import (
    ALRPCriterion,
    CandidateCount,
    ConstantBalance,
    CrossEntropy,
    Focal,
    GIoU,
    HistoryBalance,
    MaskCrossEntropy,
    MaskDice,
    PositiveCount,
    RankSort,
    ScoreWeight,
    SmoothL1,
    ValueBalance,
)
from ranking_det.data.repeat import repeat_rare
from ranking_det.engine.lazy_config import load_lazy_config
from ranking_det.modeling import RandomSampler, RankingMaskHead
from tests.configs.cases import BACKBONES, build_model, check_backbone
from tests.modeling.cases import CONFIGS, make_batch

# Lengths of the short edge of training images.
EDGE_800 = (800,)
# Iterations in total, then those at which the learning rate is divided by 10.
EPOCHS_12 = (87_960, 58_640, 80_630)
EPOCHS_36 = (263_880, 197_910, 241_890)
EPOCHS_100 = (366_500, 274_875, 348_175)


class Row(NamedTuple):
    ap: tuple[str, ...]  # as in the docstring
    lr: float
    schedule: tuple[int, ...]
    short_edges: tuple[int, ...] = EDGE_800
    masks: bool = False
    score_thresh: float = 0.4
    detections: int = 100
    backbone: str = "r50"
    batch: int = 16
    classes: int = 80
    plus: bool = False  # CARAFE in the FPN
    stages: int = 1
    loss: str = "rs"  # of the classification
    box_loss: type = GIoU  # of the box head
    groups: int = 0  # deformable groups; 0 for no deformable convolutions


EDGES_480_TO_960 = (480, 560, 640, 720, 800, 880, 960)
EDGES_640_TO_800 = (640, 672, 704, 736, 768, 800)
ROWS = {
    "coco/faster_rs_r50_12ep": Row(("39.6",), 0.012, EPOCHS_12),
    "coco/faster_plus_rs_r50_12ep": Row(("40.8", "40.7"), 0.012, EPOCHS_12, plus=True),
    "coco/faster_rs_r101_12ep": Row((), 0.012, EPOCHS_12, backbone="r101"),
    "coco/faster_rs_r101_dcn_36ep": Row(
        *(("47.6",), 0.012, EPOCHS_36, EDGES_480_TO_960), backbone="r101", groups=4
    ),
    "coco/faster_plus_rs_r101_dcn_36ep": Row(
        *(("47.6",), 0.012, EPOCHS_36, EDGES_480_TO_960), backbone="r101", plus=True, groups=4
    ),
    "coco/mask_plus_rs_r101_dcn_36ep": Row(
        *(("43.5", "48.7"), 0.012, EPOCHS_36, EDGES_480_TO_960),
        masks=True,
        backbone="r101",
        plus=True,
        groups=4,
    ),
    "coco/mask_plus_rs_x101_dcn_36ep": Row(
        *(("44.4", "49.9"), 0.012, EPOCHS_36, EDGES_480_TO_960),
        masks=True,
        backbone="x101",
        plus=True,
        groups=4,
    ),
    "coco/faster_rs_r50_100ep_512": Row(("41.2",), 0.024, EPOCHS_100, (), batch=32),
    "coco/faster_alrp_r50_12ep": Row(("37.4",), 0.009, EPOCHS_12, score_thresh=0.05, loss="alrp"),
    "coco/faster_ce_l1_r50_100ep_512": Row(
        *(("37.8",), 0.04, EPOCHS_100, ()),
        score_thresh=0.05,
        batch=32,
        loss="ce",
        box_loss=SmoothL1,
    ),
    "coco/faster_ce_giou_r50_100ep_512": Row(
        ("38.2",), 0.04, EPOCHS_100, (), score_thresh=0.05, batch=32, loss="ce"
    ),
    "coco/cascade_ce_r50_12ep": Row(
        ("40.3",), 0.02, EPOCHS_12, score_thresh=0.05, stages=3, loss="ce", box_loss=SmoothL1
    ),
    "coco/cascade_rs_r50_12ep": Row(("41.3",), 0.012, EPOCHS_12, stages=3),
    "coco/cascade_mask_rs_r50_12ep": Row((), 0.012, EPOCHS_12, masks=True, stages=3),
    "coco/mask_rs_r50_12ep": Row(("36.4", "40.0"), 0.012, EPOCHS_12, masks=True),
    "coco/mask_plus_rs_r50_12ep": Row(("37.3", "41.1"), 0.012, EPOCHS_12, masks=True, plus=True),
    "coco/mask_rs_r101_36ep": Row(
        ("40.3", "44.7"), 0.012, EPOCHS_36, EDGES_640_TO_800, masks=True, backbone="r101"
    ),
    "coco/mask_plus_rs_r101_36ep": Row(
        *(("41.4", "46.1"), 0.012, EPOCHS_36, EDGES_480_TO_960),
        masks=True,
        backbone="r101",
        plus=True,
    ),
    "coco/faster_alrp_r50_100ep_512": Row(
        ("40.7",), 0.012, EPOCHS_100, (), score_thresh=0.05, batch=32, loss="alrp"
    ),
    "coco/faster_ce_r50_12ep": Row(("37.6",), 0.02, EPOCHS_12, score_thresh=0.05, loss="ce"),
    "coco/faster_focal_r50_12ep": Row(("31.8",), 0.01, EPOCHS_12, score_thresh=0.05, loss="focal"),
    "coco/mask_ce_r50_12ep": Row(
        (), 0.02, EPOCHS_12, masks=True, score_thresh=0.05, loss="ce", box_loss=SmoothL1
    ),
    "lvis/mask_rs_lvis_v1_r50_12ep": Row(
        *(("25.2", "25.9"), 0.012, (92_088, 61_392, 84_414), EDGES_640_TO_800),
        masks=True,
        score_thresh=0.6,
        detections=300,
        classes=1203,
    ),
    "lvis/mask_ce_lvis_v1_r50_12ep": Row(
        *(("21.7", "22.5"), 0.02, (92_088, 61_392, 84_414), EDGES_640_TO_800),
        masks=True,
        score_thresh=0.001,
        detections=300,
        classes=1203,
        loss="ce",
        box_loss=SmoothL1,
    ),
    "cityscapes/mask_rs_r50": Row(
        *(("43.7", "38.2"), 0.012, (17_856, 11_904), (800, 1024)), masks=True, classes=8
    ),
}


def test_every_config_has_a_row():
    names = [
        f"{path.parent.name}/{path.stem}"
        for folder in ("coco", "lvis", "cityscapes")
        for path in (CONFIGS / folder).glob("*.py")
        if not path.stem.startswith(("retinanet", "fcos", "yolact", "solov2"))
        and "vitdet" not in path.stem
    ]
    assert sorted(names) == sorted(ROWS)


@pytest.fixture(scope="module", params=sorted(ROWS))
def case(request):
    """Load a config with its row; only one test builds the model, to save time."""
    return (
        request.param,
        load_lazy_config(str(CONFIGS / f"{request.param}.py"), []),
        ROWS[request.param],
    )


def test_the_docstring_states_the_ap_and_the_output_folder_is_the_config_name(case):
    name, cfg, row = case
    text = ast.get_docstring(ast.parse((CONFIGS / f"{name}.py").read_text()))
    assert all(ap in text for ap in row.ap)
    assert cfg.train.output_dir == f"output/{name}"
    start = BACKBONES[row.backbone].weights
    dcn = "_dcn" if row.groups else ""
    assert f"_{row.backbone}{dcn}_" in f"{name}_" and name.endswith("_512") == (not row.short_edges)
    if "cityscapes" in name:
        start = "output/coco/mask_rs_r50_12ep/model_final.pth"
    assert cfg.train.init_checkpoint == start


def test_the_learning_rate_schedule_is_that_of_the_paper(case):
    _, cfg, row = case
    total, *steps = row.schedule
    assert cfg.train.max_iter == total
    multiplier = instantiate(cfg.lr_multiplier)
    expected = {0: 0.001, 499: 0.001 + 0.999 * 499 / 500, 500: 1.0, total - 1: 0.1 ** len(steps)}
    for i, step in enumerate(steps):
        expected |= {step - 1: 0.1**i, step: 0.1 ** (i + 1)}
    for iteration, factor in expected.items():
        rate = cfg.optimizer.lr * multiplier(iteration / total)
        assert rate == pytest.approx(row.lr * factor, rel=1e-6), iteration
    assert cfg.train.iterations_per_epoch * cfg.train.epochs in (0, total)
    assert cfg.train.reference_batch == row.batch


def test_the_data_loaders_and_image_sizes_are_those_of_the_paper(case):
    name, cfg, row = case
    train, test = cfg.dataloader.train, cfg.dataloader.test
    assert train.total_batch_size == row.batch and train.mapper.get("masks", False) == row.masks
    assert train.mapper.image_format == test.mapper.image_format == "RGB"
    if row.short_edges:
        resize, flip = (instantiate(node) for node in train.mapper.augmentations)
        assert isinstance(resize, ResizeShortestEdge) and flip.prob == 0.5
        assert resize.max_size == (2048 if "cityscapes" in name else 1333)
        # Detectron2 turns a single number n into the range (n, n).
        assert sorted(set(resize.short_edge_length)) == list(row.short_edges)
        drawn_from_range = len(row.short_edges) == 1 or "cityscapes" in name
        assert resize.is_range == drawn_from_range
    expected = (
        (1024, 2048) if "cityscapes" in name else (800, 1333) if row.short_edges else (500, 833)
    )
    test_resize = test.mapper.augmentations[0]
    assert (test_resize.short_edge_length, test_resize.max_size) == expected
    names = {
        "coco": ("coco_2017_train", "coco_2017_val"),
        "lvis": ("ranking_lvis_v1_train", "ranking_lvis_v1_val"),
        "cityscapes": tuple(f"cityscapes_fine_instance_seg_{part}" for part in ("train", "val")),
    }[name.split("/")[0]]
    source = train.dataset
    if "lvis" in name:
        assert source._target_ is repeat_rare and source.threshold == 0.001
        source = source.dataset
    assert (source.names, test.dataset.names) == names
    assert cfg.dataloader.evaluator.dataset_name == names[1]


def check_box_assigners(stages, row):
    low_quality = ("object", 0.5) if row.masks and row.stages == 1 else (None, 0.0)
    for stage in stages:
        assert (stage.assigner.low_quality, stage.assigner.low_quality_iou) == low_quality


def check_ranking(model, row):
    rpn, heads = model.proposal_generator, model.roi_heads
    assert rpn.sampler is None and heads.sampler is None
    assert rpn.loss_weight == 0.2 and rpn.boundary == (0.0 if row.stages > 1 else None)
    assigner = rpn.assigner
    assert (assigner.positive_iou, assigner.negative_iou) == (0.7, 0.3)
    assert (assigner.low_quality, assigner.low_quality_iou) == ("object", 0.3)
    stages = heads.stages()
    check_box_assigners(stages, row)
    alrp = row.loss == "alrp"
    assert heads.proposal_append_gt != alrp
    bias = -4.595 if alrp else 0.0
    assert rpn.rpn_head.objectness_logits.bias.tolist() == pytest.approx([bias] * 3, abs=1e-3)
    for criterion, tau in [(rpn.criterion, 0.7), *((stage.criterion, 0.5) for stage in stages)]:
        if alrp:
            assert isinstance(criterion, ALRPCriterion) and criterion.tau == tau
            assert isinstance(criterion.balance, HistoryBalance)
            assert criterion.balance.period == {16: 7330, 32: 3665}[row.batch]
        else:
            assert isinstance(criterion.classification, RankSort)
            assert criterion.classification.delta == 0.5
            assert isinstance(criterion.balance, ValueBalance)
            assert isinstance(criterion.instance_weight, ScoreWeight)
        assert isinstance(criterion.localization[0], GIoU)
        assert criterion.rank_scope == "gpu"
    for stage in stages:
        assert stage.predictor.cls_score.bias.mean().item() == pytest.approx(bias, abs=1e-3)
        assert tuple(stage.predictor.box2box_transform.weights) == (10, 10, 5, 5)
        assert stage.loss_weight == 1.0
    if row.masks:
        for stage in stages:
            masks = stage.criterion.localization[1]
            assert isinstance(masks, MaskDice) and isinstance(masks.balance, ValueBalance)
            assert (masks.weighted, masks.weight) == (True, 1.0)
        assert heads.max_mask_rois == 200
        assert all(isinstance(stage.mask_head, RankingMaskHead) for stage in stages)


def check_baseline(model, row):
    rpn, heads = model.proposal_generator, model.roi_heads
    assert (rpn.sampler.size, rpn.sampler.positive_fraction) == (256, 0.5)
    assert (heads.sampler.size, heads.sampler.positive_fraction) == (512, 0.25)
    assert rpn.loss_weight == 1.0 and heads.proposal_append_gt
    assert (rpn.assigner.low_quality, rpn.assigner.low_quality_iou) == ("object", 0.3)
    assert rpn.boundary == (0.0 if row.stages > 1 else None)
    stages, focal = heads.stages(), row.loss == "focal"
    check_box_assigners(stages, row)
    bias = -4.595 if focal else 0.0
    assert rpn.rpn_head.objectness_logits.bias.tolist() == pytest.approx([bias] * 3, abs=1e-3)
    assert isinstance(rpn.criterion.localization[0], GIoU if focal else SmoothL1)
    kind, normalizer = (Focal, PositiveCount) if focal else (CrossEntropy, CandidateCount)
    for criterion in (rpn.criterion, *(stage.criterion for stage in stages)):
        assert isinstance(criterion.classification, kind)
        assert isinstance(criterion.normalizer, normalizer)
    for i, stage in enumerate(stages):
        assert stage.predictor.softmax != focal
        assert stage.predictor.cls_score.bias.mean().item() == pytest.approx(bias, abs=1e-3)
        task = stage.criterion.localization[0]
        assert isinstance(task, row.box_loss)
        weight = 1.0 if row.box_loss is SmoothL1 else 2.0 if focal else 10.0
        assert stage.criterion.balance.weight == weight
        if row.box_loss is SmoothL1:
            assert task.beta == (0.0 if row.masks or row.stages > 1 else 1.0)
        assert stage.loss_weight == 0.5**i
        factor = i + 1
        assert tuple(stage.predictor.box2box_transform.weights) == (
            *(10 * factor, 10 * factor),
            *(5 * factor, 5 * factor),
        )
    if focal:
        assert heads.criterion.normalizer.momentum == 0
    if row.masks:
        masks = heads.criterion.localization[1]
        assert isinstance(masks, MaskCrossEntropy) and isinstance(masks.balance, ConstantBalance)
        assert (masks.weighted, masks.weight, masks.balance.weight) == (False, 1.0, 1.0)


RANDOM_SAMPLER = "ranking_det.modeling.RandomSampler"


def test_samplers_can_be_overridden_for_the_imbalance_table_of_the_paper():
    path = str(CONFIGS / "coco" / "faster_rs_r50_12ep.py")
    parts = ("model.proposal_generator.sampler", "model.roi_heads.sampler")
    options = [f"{parts[0]}._target_={RANDOM_SAMPLER}", f"{parts[1]}._target_={RANDOM_SAMPLER}"]
    options += [f"{parts[1]}.size=512", f"{parts[1]}.positive_fraction=0.25"]
    cfg = load_lazy_config(path, options)
    samplers = [
        instantiate(cfg.model[part].sampler) for part in ("proposal_generator", "roi_heads")
    ]
    assert all(isinstance(sampler, RandomSampler) for sampler in samplers)
    assert [(sampler.size, sampler.positive_fraction) for sampler in samplers] == [
        (256, 0.5),
        (512, 0.25),
    ]
    path = str(CONFIGS / "coco" / "faster_ce_r50_12ep.py")
    low_quality_key = "model.proposal_generator.assigner.low_quality"
    cfg = load_lazy_config(path, [f"{key}=null" for key in (*parts, low_quality_key)])
    assert cfg.model.roi_heads.sampler is cfg.model.proposal_generator.sampler is None
    assert cfg.model.proposal_generator.assigner["low_quality"] is None
    for wrong in ("optimizer.lr=null", f"{low_quality_key}=true", f"{low_quality_key}=gt"):
        with pytest.raises(ValueError, match="lr: expected float|low_quality: expected"):
            load_lazy_config(path, [wrong])
    negative_cap = "ranking_det.modeling.NegativeCap"
    cfg = load_lazy_config(
        path, [f"{parts[1]}._target_={negative_cap}", f"{parts[1]}.max_negatives=5"]
    )
    assert instantiate(cfg.model.roi_heads.sampler).max_negatives == 5
    with pytest.raises(ValueError, match="model.roi_heads: expected a config node, got None"):
        load_lazy_config(path, ["model.roi_heads=null"])


def check_pooler(pooler, size):
    assert pooler.output_size == (size, size) and pooler.canonical_box_size == 224
    scales = [level.spatial_scale for level in pooler.level_poolers]
    assert scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    for level in pooler.level_poolers:
        assert isinstance(level, ROIAlign) and level.aligned and level.sampling_ratio == 0


def check_common(model, row):
    rpn, heads = model.proposal_generator, model.roi_heads
    assert rpn.pre_nms_topk == {True: 2000, False: 1000}
    assert rpn.post_nms_topk == {True: 1000, False: 1000} and rpn.nms_thresh == 0.7
    extents = torch.stack([c[:, 2:] - c[:, :2] for c in rpn.anchor_generator.cell_anchors])
    sides = torch.tensor([32, 64, 128, 256, 512.0])[:, None].expand(5, 3)
    torch.testing.assert_close(extents.prod(dim=2).sqrt(), sides)
    ratios = torch.tensor([0.5, 1, 2]).expand(5, 3)
    torch.testing.assert_close(extents[..., 1] / extents[..., 0], ratios)
    assert rpn.anchor_generator.offset == 0
    last_predictor = list(heads.box_predictor)[-1] if row.stages > 1 else heads.box_predictor
    assert (last_predictor.test_score_thresh, last_predictor.test_nms_thresh) == (
        row.score_thresh,
        0.5,
    )
    assert last_predictor.test_topk_per_image == row.detections
    rpn_weights = (1, 1, 1, 1) if row.loss == "ce" else (10, 10, 5, 5)
    assert tuple(rpn.box2box_transform.weights) == rpn_weights
    check_pooler(heads.box_pooler, 7)
    assert heads.continuous_label == "iou"
    assert last_predictor.cls_score.in_features == 1024 and heads.mask_on == row.masks
    if row.masks:
        check_pooler(heads.mask_pooler, 14)
        for head in (stage.mask_head for stage in heads.stages()):
            names = [name for name, _ in head.named_children() if name.startswith("mask_fcn")]
            assert len(names) == 4 and head.predictor.out_channels == row.classes
    for i, stage in enumerate(heads.stages()):
        assert stage.assigner.positive_iou == (0.5, 0.6, 0.7)[i]
        assert stage.predictor.cls_score.out_features == row.classes
        agnostic = row.stages > 1
        assert stage.predictor.bbox_pred.out_features == (4 if agnostic else 4 * row.classes)
    check_backbone(model.backbone.bottom_up, row.backbone, row.groups)
    assert model.input_format == "RGB"
    assert model.pixel_mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
    assert model.pixel_std.flatten().tolist() == pytest.approx([58.395, 57.12, 57.375])


def test_the_model_is_that_of_the_paper(case):
    _, cfg, row = case
    model = build_model(cfg, "meta")
    check_common(model, row)
    assert hasattr(model.backbone, "top_block") != row.plus
    if row.loss in ("ce", "focal"):
        check_baseline(model, row)
    else:
        check_ranking(model, row)
    cfg.optimizer.params.model = model
    (group,) = instantiate(cfg.optimizer).param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (row.lr, 0.9, 1e-4)


def test_lvis_trains_on_a_batch_with_an_image_without_objects():
    cfg = load_lazy_config(str(CONFIGS / "lvis" / "mask_rs_lvis_v1_r50_12ep.py"), [])
    cfg.model.proposal_generator.post_nms_topk = [32, 32]
    model = instantiate(cfg.model).train()
    losses = model(make_batch((2, 0), sizes=((96, 96),), num_classes=1203))
    assert all(loss.isfinite() for loss in losses.values()) and "loss_mask" in losses
