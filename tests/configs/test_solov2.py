"""SOLOv2: the settings of the papers' rows, typed here by hand, and the quick configs."""

import ast
from typing import NamedTuple

import pytest
from detectron2.config import instantiate
from detectron2.layers import FrozenBatchNorm2d
from omegaconf import OmegaConf
from torch import nn

from ranking_det.criteria import (
    ConstantBalance,
    Focal,
    MaskDice,
    PositiveCount,
    RankSort,
    ScoreWeight,
    ValueBalance,
)
from ranking_det.engine.lazy_config import load_lazy_config
from tests.configs.cases import BACKBONES, build_model, check_backbone
from tests.modeling.cases import CONFIGS, load


class Row(NamedTuple):
    ap: str
    lr: float
    batch: int
    light: bool
    ranks: bool

    @property
    def epoch(self):
        return {16: 7330, 32: 3665}[self.batch]


ROWS = {
    "solov2_rs_r101_36ep": Row("39.7", 0.006, 16, light=False, ranks=True),
    "solov2_focal_r101_36ep": Row("39.1", 0.01, 16, light=False, ranks=False),
    "solov2_light_rs_r34_36ep": Row("32.6", 0.012, 32, light=True, ranks=True),
    "solov2_light_focal_r34_36ep": Row("32.0", 0.02, 32, light=True, ranks=False),
}
RANGES = ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))
LIGHT_RANGES = ((1, 56), (28, 112), (56, 224), (112, 448), (224, 896))


def test_every_config_has_a_row():
    assert sorted(path.stem for path in (CONFIGS / "coco").glob("solov2*.py")) == sorted(ROWS)


@pytest.fixture(scope="module", params=sorted(ROWS))
def case(request):
    """Load a config with its row; only one test builds the model, to save time."""
    path = CONFIGS / "coco" / f"{request.param}.py"
    return request.param, load_lazy_config(str(path), []), ROWS[request.param]


def test_the_docstring_states_the_ap_and_the_output_folder_is_the_config_name(case):
    name, cfg, row = case
    text = ast.get_docstring(ast.parse((CONFIGS / "coco" / f"{name}.py").read_text()))
    assert f"Published mask AP {row.ap}" in text
    assert cfg.train.output_dir == f"output/coco/{name}"
    weights = "R-34.pkl" if row.light else BACKBONES["r101"].weights
    assert cfg.train.init_checkpoint == weights


def test_the_schedule_the_batch_and_the_clipping_are_those_of_the_papers(case):
    _, cfg, row = case
    total = 36 * row.epoch
    assert (cfg.train.max_iter, cfg.train.iterations_per_epoch) == (total, row.epoch)
    assert cfg.train.reference_batch == cfg.dataloader.train.total_batch_size == row.batch
    multiplier = instantiate(cfg.lr_multiplier)
    expected = {0: 0.01, 250: 0.505, 500: 1.0, 27 * row.epoch - 1: 1.0, 27 * row.epoch: 0.1}
    expected |= {33 * row.epoch - 1: 0.1, 33 * row.epoch: 0.01, total - 1: 0.01}
    for iteration, factor in expected.items():
        rate = cfg.optimizer.lr * multiplier(iteration / total)
        assert rate == pytest.approx(row.lr * factor, rel=1e-6), iteration
    assert (cfg.optimizer.momentum, cfg.optimizer.weight_decay) == (0.9, 1e-4)
    assert cfg.train.clip_grad_norm == 35


def test_the_data_loaders_and_image_sizes_are_those_of_the_papers(case):
    _, cfg, row = case
    train, test = cfg.dataloader.train, cfg.dataloader.test
    resize, flip = (instantiate(node) for node in train.mapper.augmentations)
    edges = range(352, 513, 32) if row.light else range(640, 801, 32)
    assert sorted(resize.short_edge_length) == list(edges) and not resize.is_range
    assert resize.max_size == (768 if row.light else 1333) and flip.prob == 0.5
    test_resize = test.mapper.augmentations[0]
    size = (448, 768) if row.light else (800, 1333)
    assert (test_resize.short_edge_length, test_resize.max_size) == size
    assert train.mapper.masks and train.mapper.image_format == test.mapper.image_format == "RGB"
    assert (train.dataset.names, test.dataset.names) == ("coco_2017_train", "coco_2017_val")


def test_the_model_is_that_of_the_papers(case):
    _, cfg, row = case
    model = build_model(cfg)
    head, assigner, criterion = model.head, model.assigner, model.criterion
    assert head.grids == [40, 36, 24, 16, 12] and model.strides == [8, 8, 16, 32, 32]
    convs, channels, kernels = (2, 256, 128) if row.light else (4, 512, 256)
    for tower, inputs in ((head.category_tower, 256), (head.kernel_tower, 258)):
        weights = [block[0].weight.shape for block in tower]
        assert weights == [(channels, inputs, 3, 3), *[(channels, channels, 3, 3)] * (convs - 1)]
        assert all(block[0].bias is None and block[1].num_groups == 32 for block in tower)
    assert head.category.weight.shape == (80, channels, 3, 3)
    assert head.kernel.weight.shape == (kernels, channels, 3, 3)
    inputs = [[conv[0].weight.shape[1] for conv in convs] for convs in head.mask_convs]
    assert inputs == [[256], [256], [256, 128], [258, 128, 128]]
    assert head.mask_output[0].weight.shape == (kernels, 128, 1, 1)
    assert tuple(assigner.scale_ranges) == (LIGHT_RANGES if row.light else RANGES)
    assert assigner.region == 0.2 and assigner.shared != row.ranks and model.max_masks is None
    inference = model.inference
    assert inference.score_thresh == (0.2 if row.ranks else 0.1)
    assert (inference.topk, inference.min_score, inference.max_detections) == (500, 0.05, 100)
    assert (inference.kernel, inference.sigma, inference.mask_thresh) == ("gaussian", 2.0, 0.5)
    assert inference.min_area == 1.0
    (task,) = criterion.tasks
    assert isinstance(task, MaskDice) and task.error.keywords == {"eps": 0.002}
    if row.ranks:
        assert isinstance(criterion.classification, RankSort)
        assert criterion.classification.delta == 0.5 and criterion.rank_scope == "gpu"
        assert isinstance(criterion.instance_weight, ScoreWeight)
        assert (task.weighted, task.weight) == (True, 1.0)
        assert isinstance(task.balance, ValueBalance)
    else:
        assert isinstance(criterion.classification, Focal)
        options = criterion.classification.options
        assert (options["alpha"], options["gamma"]) == (0.25, 2.0)
        count = criterion.normalizer
        assert isinstance(count, PositiveCount) and (count.momentum, count.extra) == (0.0, 1)
        assert (task.weighted, task.weight) == (False, 3.0)
        assert isinstance(task.balance, ConstantBalance) and task.balance.weight == 1.0
    bottom_up = model.backbone.bottom_up
    if not row.light:
        check_backbone(bottom_up, "r101", 0)
        return
    stages = [getattr(bottom_up, f"res{i}") for i in range(2, 6)]
    assert [len(stage) for stage in stages] == [3, 4, 6, 3]
    for i, stage in enumerate(stages):
        for j, block in enumerate(stage):
            convs = (block.conv1, block.conv2)
            assert all(conv.weight.shape[0] == 64 * 2**i for conv in convs)
            assert [conv.stride[0] for conv in convs] == [2 if i > 0 and j == 0 else 1, 1]
    for key, parameter in bottom_up.named_parameters():
        assert parameter.requires_grad != key.startswith(("stem", "res2")), key
    assert not any(m.training for m in bottom_up.modules() if isinstance(m, nn.BatchNorm2d))
    assert sum(isinstance(m, FrozenBatchNorm2d) for m in bottom_up.modules()) == 1 + 6


def test_the_quick_configs_differ_in_loss_and_shared_cells_only():
    ranking, baseline = (load(f"quick/solov2_{loss}.py") for loss in ("rs", "focal"))
    names = sorted(path.stem for path in (CONFIGS / "shapes" / "quick").glob("*solo*.py"))
    assert names == ["solov2_focal", "solov2_rs"]
    for key in ("optimizer", "dataloader", "lr_multiplier"):
        assert OmegaConf.to_yaml(ranking[key]) == OmegaConf.to_yaml(baseline[key])
    assert {**ranking.train, "output_dir": ""} == {**baseline.train, "output_dir": ""}
    assert ranking.train.output_dir == "output/shapes/quick/solov2_rs"
    assert baseline.train.output_dir == "output/shapes/quick/solov2_focal"
    assert ranking.dataloader.train.mapper.masks
    for cfg in (ranking, baseline):
        inference = cfg.model.inference
        assert (inference.score_thresh, inference.min_score, inference.min_area) == (0.0, 0.0, 0.0)
        assert cfg.model.assigner.pop("shared", False) == (cfg is baseline)
        cfg.model.criterion = None
    assert ranking.model == baseline.model
