"""Training and evaluation of a yaml config, with Detectron2's default trainer."""

from __future__ import annotations

import argparse
import logging
import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
import yaml
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import DefaultTrainer, default_setup
from detectron2.evaluation import COCOEvaluator
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn

from ranking_det.config import ConfigError, nearest
from ranking_det.engine.checkpoint import find_weights, load_weights
from ranking_det.engine.errors import (
    build,
    check_classes,
    check_datasets,
    check_device,
    check_file,
    check_output_dir,
    prepare_datasets,
)
from ranking_det.engine.results import PictureWriter, write_results
from ranking_det.modeling import COMPONENTS, add_ranking_config
from ranking_det.modeling.test_time_augmentation import DenseDetectorWithTTA

logger = logging.getLogger(__name__)


class RankingTrainer(DefaultTrainer):
    """Detectron2's default trainer, with COCO evaluation and the pictures at the end."""

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> COCOEvaluator:
        """Evaluate boxes with COCO's metrics."""
        return COCOEvaluator(dataset_name, output_dir=cfg.OUTPUT_DIR)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> OrderedDict[str, Any]:
        """Evaluate; also write results.json."""
        for name in cfg.DATASETS.TEST:
            check_classes([name], _num_classes(cfg), "the model's NUM_CLASSES")
        results = super().test(cfg, augment(cfg, model), evaluators)
        write_results(results, cfg.OUTPUT_DIR)
        return results

    def build_hooks(self) -> list[Any]:
        """Detectron2's hooks, and the pictures."""
        found = super().build_hooks()
        if self.cfg.DATASETS.TEST:
            name = self.cfg.DATASETS.TEST[0]
            found.append(
                PictureWriter(
                    self.cfg.OUTPUT_DIR,
                    self.model,
                    lambda: self.build_test_loader(self.cfg, name),
                    name,
                )
            )
        return found


def run_yaml(args: argparse.Namespace) -> str:
    """Train or evaluate; ``args`` are those of the command line. Return the output folder."""
    cfg = load_yaml_config(args.config_file, args.opts)
    check_output_dir(cfg.OUTPUT_DIR, "OUTPUT_DIR")
    check_device(cfg.MODEL.DEVICE, "MODEL.DEVICE")
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        check_datasets([name], "DATASETS")
        check_classes([name], _num_classes(cfg), "the model's NUM_CLASSES")
    weights = find_weights(
        args, cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR, ("MODEL.WEIGHTS FILE", "OUTPUT_DIR")
    )
    # Before anything is written: the constructors refuse what the config has wrong.
    model = _build_model(cfg)
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="ranking_det")
    prepare_datasets([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    if args.eval_only:
        load_weights(DetectionCheckpointer(model), weights, whole=True)
        logger.info("Evaluating %s", weights)
        RankingTrainer.test(cfg, model)
        return str(cfg.OUTPUT_DIR)
    trainer = _build_trainer(cfg)
    if args.resume:
        trainer.resume_or_load(resume=True)
        logger.info("Resuming %s at iteration %d", weights, trainer.start_iter)
    else:
        load_weights(trainer.checkpointer, weights, whole=False)
    trainer.train()
    return str(cfg.OUTPUT_DIR)


def augment(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """The model to evaluate: with test-time augmentation if TEST.AUG.ENABLED.

    Raises:
        ConfigError: it is no dense detector, or the sizes are no sizes.
    """
    aug = cfg.TEST.AUG
    if not aug.ENABLED:
        return model
    arguments = {"min_sizes": aug.MIN_SIZES, "max_size": aug.MAX_SIZE, "flip": aug.FLIP}
    return build({"_target_": DenseDetectorWithTTA, "model": model, **arguments}, "TEST.AUG")


def _build_model(cfg: CfgNode) -> nn.Module:
    """The model, if its parts fit each other and the way in which it is to be tested."""
    try:
        model = RankingTrainer.build_model(cfg)
    except ConfigError:
        raise
    except (TypeError, ValueError, KeyError, AssertionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"MODEL cannot be built: {reason}") from error
    augment(cfg, model)
    return model


def _build_trainer(cfg: CfgNode) -> RankingTrainer:
    try:
        return RankingTrainer(cfg)
    except FileNotFoundError as error:
        raise ConfigError(f"the data of DATASETS.TRAIN is not there: {error}") from error


def load_yaml_config(path: str, overrides: Sequence[str]) -> CfgNode:
    """Load a yaml config over Detectron2's defaults and the project's keys.

    Args:
        path: a .yaml file.
        overrides: ``KEY value`` pairs or ``KEY=value``.

    Returns:
        The frozen config.

    Raises:
        ConfigError: the file is missing or faulty, a key is unknown, or a value has a wrong type.
    """
    check_file(path, "the config file")
    cfg = get_cfg()
    add_ranking_config(cfg)
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    pairs = _split_overrides(overrides)
    try:
        cfg.merge_from_file(path)
        for key, value in pairs:
            _add_component_key(cfg, key)
            cfg.merge_from_list([key, value])
    except (KeyError, AssertionError) as error:
        raise ConfigError(_unknown_key(cfg, str(error))) from error
    except (ValueError, AttributeError, TypeError, OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    cfg.freeze()
    return cfg


def _split_overrides(overrides: Sequence[str]) -> list[tuple[str, str]]:
    words = [word for item in overrides for word in (item.split("=", 1) if "=" in item else [item])]
    if len(words) % 2:
        raise ConfigError(f"overrides of a yaml config are pairs KEY value, got {' '.join(words)}")
    return list(zip(words[::2], words[1::2], strict=True))


def _add_component_key(cfg: CfgNode, key: str) -> None:
    """Make room for an argument of a component that the file does not mention.

    The component's constructor says later whether there is such an argument.
    """
    *parents, last = key.split(".")
    if parents[:1] != ["MODEL"] or parents[1:2] not in [[name] for name in COMPONENTS]:
        return
    node = cfg
    for part in parents:
        node = node.get(part)
        if not isinstance(node, CfgNode):
            return
    # None takes a value of any type; the constructor's types are checked when it is built.
    node[last] = None


def _unknown_key(cfg: CfgNode, message: str) -> str:
    """What was meant, perhaps, by the unknown key that a message of yacs names."""
    found = re.search(r"[Nn]on-existent (?:config )?key: ([\w.]+)", message)
    if not found:
        return " ".join(message.split())
    node = cfg
    for part in found[1].split("."):
        if not isinstance(node, CfgNode) or part not in node:
            known = node.keys() if isinstance(node, CfgNode) else []
            return f"no key {part!r} in the config, as in {found[1]!r}{nearest(part, known)}"
        node = node[part]
    return message


def _num_classes(cfg: CfgNode) -> int | None:
    """The number of classes of the project's own models; only the model knows another's key."""
    ours = cfg.MODEL.META_ARCHITECTURE in ("RankingRetinaNet", "RankingFCOS")
    return int(cfg.MODEL.RETINANET.NUM_CLASSES) if ours else None
