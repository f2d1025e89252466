"""Training and evaluation of a LazyConfig, with Detectron2's trainer, hooks and writers."""

from __future__ import annotations

import argparse
import logging
from collections import OrderedDict
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import AMPTrainer, SimpleTrainer, default_setup, default_writers, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ranking_det.config import ConfigError
from ranking_det.engine.checkpoint import find_weights, load_weights
from ranking_det.engine.errors import (
    build,
    check_classes,
    check_datasets,
    check_device,
    check_output_dir,
    prepare_datasets,
)
from ranking_det.engine.lazy_config import load_lazy_config
from ranking_det.engine.results import PictureWriter, write_results
from ranking_det.modeling.test_time_augmentation import DenseDetectorWithTTA

logger = logging.getLogger(__name__)


def run_lazy(args: argparse.Namespace) -> str:
    """Train or evaluate; ``args`` are those of the command line. Return the output folder."""
    cfg = load_lazy_config(args.config_file, args.opts)
    check(cfg)
    weights = find_weights(
        args,
        cfg.train.init_checkpoint,
        cfg.train.output_dir,
        ("train.init_checkpoint=FILE", "train.output_dir"),
    )
    # Before anything is written: the constructors refuse what the config has wrong.
    torch.manual_seed(cfg.train.get("seed", 0) + comm.get_rank())
    model = build(cfg.model, "model").to(cfg.train.device)
    augment(cfg, model)
    default_setup(cfg, args)
    setup_logger(cfg.train.output_dir, distributed_rank=comm.get_rank(), name="ranking_det")
    prepare_datasets([*_names(cfg, "train"), *_names(cfg, "test")])
    if args.eval_only:
        load_weights(DetectionCheckpointer(model), weights, whole=True)
        logger.info("Evaluating %s", weights)
        evaluate(cfg, create_ddp_model(model))
    else:
        train(cfg, model, weights, resume=args.resume)
    return str(cfg.train.output_dir)


def check(cfg: DictConfig) -> None:
    """Raise ConfigError for what can be known to be wrong before anything is written."""
    check_output_dir(cfg.train.output_dir, "train.output_dir")
    check_device(cfg.train.device, "train.device")
    if cfg.train.amp.enabled and not str(cfg.train.device).startswith("cuda"):
        raise ConfigError("train.amp.enabled needs train.device=cuda")
    for split in ("train", "test"):
        check_datasets(_names(cfg, split), f"dataloader.{split}.dataset.names")
        check_classes(_names(cfg, split), _num_classes(cfg), "model.num_classes")


def build_loader(cfg: DictConfig, split: str) -> Any:
    """The loader of ``train`` or ``test``.

    Raises:
        ConfigError: a file of the data set is missing.
    """
    loader = build(cfg.dataloader[split], f"dataloader.{split}")
    check_classes(_names(cfg, split), _num_classes(cfg), "model.num_classes")
    return loader


def evaluate(cfg: DictConfig, model: nn.Module) -> OrderedDict[str, Any]:
    """Run the config's evaluator over its test set; log the metrics and write results.json."""
    loader = build_loader(cfg, "test")
    results = inference_on_dataset(
        augment(cfg, model), loader, build(cfg.dataloader.evaluator, "dataloader.evaluator")
    )
    print_csv_format(results)
    write_results(results, cfg.train.output_dir)
    return results


def augment(cfg: DictConfig, model: nn.Module) -> nn.Module:
    """The model to evaluate: with test-time augmentation if ``train.tta.enabled``.

    Raises:
        ConfigError: it is no dense detector, or the sizes are no sizes.
    """
    tta = dict(cfg.train.get("tta") or {})
    if not tta.pop("enabled", False):
        return model
    return build({"_target_": DenseDetectorWithTTA, "model": model, **tta}, "train.tta")


def train(cfg: DictConfig, model: nn.Module, weights: str, *, resume: bool) -> None:
    """Train from ``weights``, or go on with the run whose checkpoint they are."""
    loader = build_loader(cfg, "train")
    cfg.optimizer.params.model = model
    optimizer = build(cfg.optimizer, "optimizer")
    ddp_model = create_ddp_model(model, **cfg.train.ddp)
    trainer_class = AMPTrainer if cfg.train.amp.enabled else SimpleTrainer
    trainer = trainer_class(ddp_model, loader, optimizer)
    checkpointer = DetectionCheckpointer(ddp_model, cfg.train.output_dir, trainer=trainer)
    trainer.register_hooks(build_hooks(cfg, ddp_model, checkpointer))
    start = 0
    if resume:
        # First alone: of another model's checkpoint the optimizer would only report a size.
        load_weights(DetectionCheckpointer(model), weights, whole=True)
        checkpointer.load(weights)
        start = trainer.iter + 1
        logger.info("Resuming %s at iteration %d", weights, start)
    else:
        load_weights(DetectionCheckpointer(model), weights, whole=False)
    trainer.train(start, cfg.train.max_iter)


def build_hooks(
    cfg: DictConfig, model: nn.Module, checkpointer: DetectionCheckpointer
) -> list[hooks.HookBase | None]:
    """Detectron2's hooks of a LazyConfig training, and the pictures at its end."""
    is_main = comm.is_main_process()
    output_dir = cfg.train.output_dir
    writers = default_writers(output_dir, cfg.train.max_iter) if is_main else []
    return [
        hooks.IterationTimer(),
        hooks.LRScheduler(scheduler=build(cfg.lr_multiplier, "lr_multiplier")),
        hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer) if is_main else None,
        hooks.EvalHook(cfg.train.eval_period, lambda: evaluate(cfg, model)),
        hooks.PeriodicWriter(writers, period=cfg.train.log_period) if is_main else None,
        PictureWriter(output_dir, model, lambda: build_loader(cfg, "test"), _names(cfg, "test")[0]),
    ]


def _num_classes(cfg: DictConfig) -> int | None:
    """The model's number of classes; None if it is not of the usual form."""
    return OmegaConf.select(cfg, "model.num_classes")


def _names(cfg: DictConfig, split: str) -> list[str]:
    """The data sets of a split; none if its loader is not of the usual form."""
    names = OmegaConf.select(cfg, f"dataloader.{split}.dataset.names")
    return [names] if isinstance(names, str) else list(names or [])
