"""Train and evaluate the models with Detectron2's trainers and evaluators."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultTrainer, SimpleTrainer, default_writers, hooks
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.modeling import build_model
from detectron2.structures import BoxMode
from PIL import Image

from ranking_det.modeling import add_ranking_config

SHAPES = Path(__file__).parents[2] / "configs" / "shapes"
NAME, SIZE = "tiny_project", 96
YAML = ["retinanet_atss_rs.yaml", "fcos_fcos_rs.yaml", "mask_rs.yaml"]
LAZY = ["retinanet_atss_rs.py", "quick/fcos_atss_rs.py", "quick/mask_rs.py"]


@pytest.fixture
def dataset(tmp_path):
    """Register four images with a triangle each, as in Detectron2's tutorial."""
    records = []
    for i in range(4):
        path = tmp_path / f"{i}.png"
        pixels = np.random.default_rng(i).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        x, y = 8 + 4 * i, 12
        outline = [x, y, x + 40, y, x + 40, y + 48]
        annotation = {
            "bbox": [x, y, x + 40, y + 48],
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": i,
        }
        record = {"file_name": str(path), "image_id": i, "height": SIZE, "width": SIZE}
        records.append(record | {"annotations": [annotation | {"segmentation": [outline]}]})
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).thing_classes = [f"class_{i}" for i in range(12)]
    yield NAME
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


class Trainer(DefaultTrainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return COCOEvaluator(dataset_name, output_dir=cfg.OUTPUT_DIR, use_fast_impl=False)


def read_yaml(name, folder):
    cfg = get_cfg()
    add_ranking_config(cfg)
    cfg.merge_from_file(str(SHAPES / name))
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (NAME,), (NAME,)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN = (SIZE,)
    cfg.INPUT.MIN_SIZE_TEST = SIZE
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_PERIOD = 2, 2, 2
    cfg.OUTPUT_DIR = str(folder)
    return cfg


def check_results(results, masks):
    assert results.keys() == ({"bbox", "segm"} if masks else {"bbox"})
    assert all(np.isfinite(task["AP"]) for task in results.values())


@pytest.mark.parametrize("name", YAML)
def test_detectron2s_default_trainer_trains_and_evaluates_models_from_yaml_configs(
    name, dataset, tmp_path
):
    cfg = read_yaml(name, tmp_path / "output")
    Path(cfg.OUTPUT_DIR).mkdir()
    trainer = Trainer(cfg)
    before = {key: value.clone() for key, value in trainer.model.named_parameters()}
    trainer.resume_or_load(resume=False)
    trainer.train()
    has_changed = [
        not torch.equal(value, before[key]) for key, value in trainer.model.named_parameters()
    ]
    assert trainer.iter == 2 and sum(has_changed) > len(has_changed) / 2
    check_results(Trainer.test(cfg, trainer.model), masks="mask" in name)
    loaded = build_model(cfg)
    DetectionCheckpointer(loaded).load(f"{cfg.OUTPUT_DIR}/model_final.pth")
    for key, value in trainer.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


@pytest.mark.parametrize("name", LAZY)
def test_a_script_like_detectron2s_lazyconfig_train_net_trains_and_evaluates(
    name, dataset, tmp_path
):
    cfg = LazyConfig.load(str(SHAPES / name))
    masks = "mask" in name
    for split in (cfg.dataloader.train, cfg.dataloader.test):
        split.dataset.names = dataset
    cfg.dataloader.train.total_batch_size = 2
    cfg.dataloader.evaluator = L(COCOEvaluator)(
        dataset_name=dataset, output_dir=str(tmp_path), use_fast_impl=False
    )
    cfg.train.update({"output_dir": str(tmp_path), "device": "cpu", "max_iter": 2})
    model = instantiate(cfg.model).to(cfg.train.device)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    trainer = SimpleTrainer(model, instantiate(cfg.dataloader.train), optimizer)
    checkpointer = DetectionCheckpointer(model, cfg.train.output_dir, trainer=trainer)
    results = []

    def evaluate():
        loader = instantiate(cfg.dataloader.test)
        evaluator = instantiate(cfg.dataloader.evaluator)
        results.append(inference_on_dataset(model, loader, evaluator))
        return results[-1]

    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, period=2),
            hooks.EvalHook(2, evaluate),
            hooks.PeriodicWriter(default_writers(cfg.train.output_dir, 2), period=1),
        ]
    )
    trainer.train(0, cfg.train.max_iter)
    assert len(results) == 1 and (tmp_path / "model_0000001.pth").is_file()
    check_results(results[0], masks)
    assert "loss_rank" in (tmp_path / "metrics.json").read_text()


def test_importing_the_package_registers_its_models_and_keeps_detectron2s_defaults():
    code = (
        "from detectron2.config import get_cfg\n"
        "before = get_cfg().dump()\n"
        "import ranking_det.modeling\n"
        "assert get_cfg().dump() == before\n"
        "from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY\n"
        "from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY, ROI_HEADS_REGISTRY\n"
        "from detectron2.modeling.proposal_generator import RPN_HEAD_REGISTRY\n"
        "from detectron2.modeling.roi_heads import ROI_MASK_HEAD_REGISTRY\n"
        "assert {'RankingRetinaNet', 'RankingFCOS'} <= dict(META_ARCH_REGISTRY).keys()\n"
        "assert 'RankingRPN' in PROPOSAL_GENERATOR_REGISTRY\n"
        "assert 'RankingRPNHead' in RPN_HEAD_REGISTRY\n"
        "for name in ('RankingROIHeads', 'RankingCascadeROIHeads'):\n"
        "    assert name in ROI_HEADS_REGISTRY\n"
        "assert 'RankingMaskHead' in ROI_MASK_HEAD_REGISTRY\n"
        "assert 'build_resnet_carafe_fpn_backbone' in BACKBONE_REGISTRY\n"
    )
    root = SHAPES.parents[1]
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=root)
