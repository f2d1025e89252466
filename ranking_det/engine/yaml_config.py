"""Load and check yaml configs; translate them into the nodes of a LazyConfig."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.samplers import TrainingSampler
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from omegaconf import DictConfig, OmegaConf

from ranking_det.checks import check_at_least, check_integer
from ranking_det.data.coco_json.fields import is_finite_number
from ranking_det.data.mapper import BoxMapper
from ranking_det.data.repeat import repeat_rare
from ranking_det.data.stream import MappedRecords, RecordList
from ranking_det.engine.run_checks import check_freeze_at, check_size
from ranking_det.engine.safe_config import NO_PROPOSALS, check_name, refusal
from ranking_det.evaluation import DetectionEvaluator
from ranking_det.modeling import COMPONENTS, add_ranking_config
from ranking_det.modeling.yaml_keys import learns_masks, value_of
from ranking_det.path_checks import check_file
from ranking_det.user_errors import UserError, disable_log, nearest

FAULTS = (ValueError, AttributeError, TypeError, OSError, RecursionError, yaml.YAMLError)
"""Raised by yaml, yacs and Detectron2 for a faulty file, in addition to errors of unknown keys."""

# yacs's message: the declared type, the declared value, the new value and the key.
_MISMATCH = re.compile(
    r"Type mismatch \(<class '(?:\w+\.)*(\w+)'> vs\. .*\) with values \((.*?) vs\. (.*)\) "
    r"for config key: (.+)"
)

VALUES = {
    "train.output_dir": "OUTPUT_DIR",
    "train.init_checkpoint": "MODEL.WEIGHTS",
    "train.device": "MODEL.DEVICE",
    "train.seed": "SEED",
    "train.cudnn_benchmark": "CUDNN_BENCHMARK",
    "train.epochs": "SOLVER.EPOCHS",
    "train.reference_batch": "SOLVER.REFERENCE_BATCH",
    "train.max_iter": "SOLVER.MAX_ITER",
    "train.clip_grad_norm": "SOLVER.CLIP_GRAD_NORM",
    "train.eval_period": "TEST.EVAL_PERIOD",
    "train.checkpointer.period": "SOLVER.CHECKPOINT_PERIOD",
    "train.amp.enabled": "SOLVER.AMP.ENABLED",
    "train.tta.enabled": "TEST.AUG.ENABLED",
    "train.tta.min_sizes": "TEST.AUG.MIN_SIZES",
    "train.tta.max_size": "TEST.AUG.MAX_SIZE",
    "train.tta.flip": "TEST.AUG.FLIP",
    "train.precise_bn.enabled": "TEST.PRECISE_BN.ENABLED",
    "train.precise_bn.num_iter": "TEST.PRECISE_BN.NUM_ITER",
    "dataloader.train.dataset.names": "DATASETS.TRAIN",
    "dataloader.train.dataset.filter_empty": "DATALOADER.FILTER_EMPTY_ANNOTATIONS",
    "dataloader.train.total_batch_size": "SOLVER.IMS_PER_BATCH",
    "dataloader.test.dataset.names": "DATASETS.TEST",
    "dataloader.test.num_workers": "DATALOADER.NUM_WORKERS",
    "dataloader.evaluator.output_dir": "OUTPUT_DIR",
    "optimizer.lr": "SOLVER.BASE_LR",
}
"""The yaml key for each LazyConfig key of a value."""

NUMBERS: dict[str, Callable[[str, Any], None]] = {
    "SOLVER.GAMMA": partial(check_at_least, low=0.0),
    "SOLVER.WARMUP_FACTOR": partial(check_at_least, low=0.0),
    "SOLVER.WARMUP_ITERS": partial(check_integer, low=0),
    "SOLVER.MOMENTUM": partial(check_at_least, low=0.0),
    "SOLVER.WEIGHT_DECAY": partial(check_at_least, low=0.0),
    "SOLVER.WEIGHT_DECAY_BIAS": partial(check_at_least, low=0.0),
    "SOLVER.WEIGHT_DECAY_NORM": partial(check_at_least, low=0.0),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": partial(check_at_least, low=0.0, strictly=True),
    "MODEL.BACKBONE.FREEZE_AT": check_freeze_at,
}
"""The check of each number that only a yaml config has and Detectron2 does not check."""

NODES = {
    "model": "MODEL",
    "dataloader.train": "DATASETS.TRAIN",
    "dataloader.train.dataset": "DATASETS.TRAIN",
    "dataloader.train.mapper": "INPUT",
    "dataloader.test": "DATASETS.TEST",
    "dataloader.test.mapper": "INPUT",
    "dataloader.evaluator": "DATASETS.TEST",
    "optimizer": "SOLVER",
    "lr_multiplier": "SOLVER",
    "train.tta": "TEST.AUG",
}
"""The yaml section from which each LazyConfig node is built, for messages."""


def load_yaml_config(path: str, overrides: Sequence[str], *, trust: bool = False) -> CfgNode:
    """Load a yaml config on top of Detectron2's defaults and this project's keys.

    Args:
        path: a .yaml file.
        overrides: ``KEY value`` pairs or ``KEY=value``. The user types them, so they may name any
            callable.
        trust: whether the file may also name any callable.

    Returns:
        The frozen config.

    Raises:
        UserError: the file is missing or faulty, a key is unknown, a value has a wrong type, or
            the file names proposal files or a component that is not one of this project.
    """
    check_file(path, "--config-file")
    cfg = get_cfg()
    add_ranking_config(cfg)
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    pairs = split_overrides(overrides)
    place = f"{path}: "  # the start of error messages; overrides have no file
    try:
        with disable_log():  # Detectron2 logs a warning for a file without VERSION
            cfg.merge_from_file(path, allow_unsafe=False)
        if not trust:
            _check_calls(cfg, path)
        place = ""
        for key, value in pairs:
            _add_component_key(cfg, key)
            cfg.merge_from_list([key, _as_declared(cfg, key, value)])
    except UserError:
        raise
    except (KeyError, AssertionError) as error:
        raise UserError(f"{place}{_unknown_key(cfg, str(error))}") from error
    except FAULTS as error:
        text = " ".join(str(error).split())
        mismatch = _MISMATCH.match(text)
        if mismatch:
            expected = mismatch[1].replace("CfgNode", "a section with keys")
            text = f"{mismatch[4]}: expected {expected}, got {mismatch[3]!r}"
        elif place and isinstance(error, (AttributeError, TypeError)):
            text = "expected sections such as MODEL and SOLVER with keys and values, got other yaml"
        raise UserError(f"{place}{text}") from error
    _check_numbers(cfg)
    cfg.freeze()
    return cfg


def translate(cfg: CfgNode) -> DictConfig:
    """Translate a yaml config into the nodes of a LazyConfig, which call Detectron2's builders.

    Args:
        cfg: as :func:`load_yaml_config` returns it.

    Returns:
        ``model``, ``dataloader``, ``optimizer``, ``lr_multiplier`` and ``train``. The evaluator's
        ``dataset_name`` is missing ("???"), because each test set is evaluated separately.
    """
    on_cpu = cfg.clone()  # the engine moves the model to its device later, if it uses one
    set_value(on_cpu, "MODEL.DEVICE", "cpu")
    max_dets = cfg.TEST.DETECTIONS_PER_IMAGE
    targets = {
        "model": partial(build_model, on_cpu),
        "dataloader.train": partial(_train_loader, cfg),
        "dataloader.train.dataset": partial(_train_records, cfg),
        "dataloader.train.mapper": partial(_train_mapper, cfg),
        "dataloader.test": build_detection_test_loader,
        "dataloader.test.dataset": partial(_test_records, cfg),
        "dataloader.test.mapper": partial(DatasetMapper, cfg, is_train=False),
        "dataloader.evaluator": DetectionEvaluator,
        "optimizer": lambda params, lr: build_optimizer(cfg, params["model"]),
        "lr_multiplier": partial(build_lr_scheduler, cfg),
    }
    values = {
        "dataloader.evaluator.dataset_name": "???",
        # None is the evaluation default: 100 for COCO, even if the model keeps fewer; 300 for
        # LVIS.
        "dataloader.evaluator.max_dets_per_image": max_dets if max_dets > 100 else None,
        "optimizer.params.model": None,
        "lr_multiplier.optimizer": None,
        "train.log_period": 20,
    }
    values |= {f"{key}._target_": target for key, target in targets.items()}
    values |= {key: value_of(cfg, name) for key, name in VALUES.items()}
    nodes = OmegaConf.create(flags={"allow_objects": True})
    for key, value in values.items():
        OmegaConf.update(nodes, key, value)
    return nodes


def set_value(cfg: CfgNode, key: str, value: Any) -> None:
    """Change a value of a yaml config.

    Args:
        cfg: the config; it is frozen afterwards.
        key: such as "SOLVER.BASE_LR".
        value: the new value; a text becomes a tuple with one entry if the key holds a tuple.
    """
    *parents, last = key.split(".")
    node = _entry(cfg, parents)
    cfg.defrost()
    node[last] = (value,) if isinstance(node[last], tuple) and isinstance(value, str) else value
    cfg.freeze()


def scale_steps(cfg: CfgNode, max_iter: int, overridden: Container[str]) -> None:
    """Fit the learning-rate steps and the warm-up to another length of the run.

    The steps keep their share of the length. The warm-up is at most a third of it.

    Args:
        cfg: the config with the previous length; it may be frozen.
        max_iter: the new length in iterations.
        overridden: keys that the command line has set; they stay unchanged.
    """
    solver = cfg.SOLVER
    if "SOLVER.STEPS" not in overridden:
        steps = {round(step * (max_iter / solver.MAX_ITER)) for step in solver.STEPS}
        inner = tuple(sorted(step for step in steps if 0 < step < max_iter))
        set_value(cfg, "SOLVER.STEPS", inner)
    if "SOLVER.WARMUP_ITERS" not in overridden:
        longest = max(1, max_iter // 3)
        set_value(cfg, "SOLVER.WARMUP_ITERS", min(solver.WARMUP_ITERS, longest))


def split_overrides(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """Split overrides into pairs of key and value.

    Args:
        overrides: ``KEY`` and ``value`` as two words, or ``KEY=value``.

    Raises:
        UserError: a key has no value.
    """
    words = [word for item in overrides for word in (item.split("=", 1) if "=" in item else [item])]
    if len(words) % 2:
        raise UserError(f"overrides: expected pairs KEY value, got {' '.join(words)}")
    return list(zip(words[::2], words[1::2], strict=True))


def _check_numbers(cfg: CfgNode) -> None:
    """Raise UserError if a number of the config is out of its range."""
    version = get_cfg().VERSION  # Detectron2 converts files of an older version, but not overrides
    if cfg.VERSION != version:
        raise UserError(f"VERSION: expected {version}, got {cfg.VERSION}")
    for key, check in NUMBERS.items():
        value = _entry(cfg, key.split("."))
        try:
            if value is not None:
                check(key, value)
        except ValueError as error:
            raise UserError(str(error)) from None
    steps = list(cfg.SOLVER.STEPS)
    are_numbers = all(map(is_finite_number, steps))
    if not (are_numbers and all(low < high for low, high in pairwise([0, *steps]))):
        raise UserError(f"SOLVER.STEPS: expected ascending iterations above 0, got {steps}")
    _check_sizes(cfg, "")
    _check_repeats(cfg)


def _check_repeats(cfg: CfgNode) -> None:
    """Raise UserError if the sampler is RepeatFactorTrainingSampler and its options are wrong."""
    if not _repeats(cfg):
        return
    loading = cfg.DATALOADER
    if not loading.get("REPEAT_SQRT", True):  # Detectron2 0.6 does not have the key
        raise UserError("DATALOADER.REPEAT_SQRT: expected True (as in the LVIS paper), got False")
    if loading.REPEAT_THRESHOLD <= 0:
        raise UserError(
            "DATALOADER.REPEAT_THRESHOLD: expected a number above 0 (0.001 for LVIS), got "
            f"{loading.REPEAT_THRESHOLD}"
        )


def _check_sizes(value: Any, key: str) -> None:
    check_size(key, value)
    list_entries = dict(enumerate(value)) if isinstance(value, (list, tuple)) else {}
    for name, entry in (value if isinstance(value, Mapping) else list_entries).items():
        _check_sizes(entry, f"{key}.{name}".lstrip("."))


def _check_calls(cfg: CfgNode, path: str) -> None:
    """Raise UserError if the file or one of its bases could run code from outside this project."""
    for key, name in _names(cfg, ""):
        # A name without a dot is looked up among the components.
        if "." in str(name):
            check_name(name, path, key)
    for split in ("TRAIN", "TEST"):
        key = f"PROPOSAL_FILES_{split}"
        if cfg.DATASETS[key]:
            raise refusal(path, f"DATASETS.{key}", NO_PROPOSALS, cfg.DATASETS[key])


def _names(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield the key and value of every NAME in a config."""
    list_entries = dict(enumerate(value)) if isinstance(value, (list, tuple)) else {}
    for name, entry in (value if isinstance(value, Mapping) else list_entries).items():
        where = f"{key}.{name}".lstrip(".")
        if name == "NAME":
            yield where, entry
        yield from _names(entry, where)


def _as_declared(cfg: CfgNode, key: str, value: str) -> str:
    """Write an integer as a float where the config has a float: yacs refuses integers there."""
    is_float = isinstance(_entry(cfg, key.split(".")), float)
    return f"{value}.0" if is_float and re.fullmatch(r"[+-]?\d+", value) else value


def _add_component_key(cfg: CfgNode, key: str) -> None:
    """Add the key of a component's argument that the file does not mention.

    The constructor of the component later checks whether the argument exists.
    """
    *parents, last = key.split(".")
    node = _entry(cfg, parents)
    is_component_key = key.startswith(tuple(f"MODEL.{name}." for name in COMPONENTS))
    if is_component_key and isinstance(node, CfgNode):
        # None accepts a value of any type; the type is checked when the component is built.
        node[last] = None


def _entry(cfg: CfgNode, parts: Sequence[str]) -> Any:
    """Return the value at the parts of a key; None if there is no such key."""
    for part in parts:
        cfg = cfg.get(part) if isinstance(cfg, CfgNode) else None
    return cfg


def _unknown_key(cfg: CfgNode, message: str) -> str:
    """Turn yacs's message about an unknown key into this project's, with a suggestion."""
    match = re.search(r"[Nn]on-existent (?:config )?key: ([\w.]+)", message)
    if not match:
        return " ".join(message.split())
    node, parts = cfg, match[1].split(".")
    for i, part in enumerate(parts):
        known_keys = node.keys() if isinstance(node, CfgNode) else []
        if part not in known_keys:
            where = ".".join(parts[:i]) or "config"
            return f"{where}: no key {part!r}{nearest(part, known_keys)}"
        node = node[part]
    return message


def _train_records(cfg: CfgNode, *, names: list[str], filter_empty: bool) -> list[dict[str, Any]]:
    """Load the training set; with RepeatFactorTrainingSampler, repeat images of rare classes."""
    records: list[dict[str, Any]] = get_detection_dataset_dicts(names, filter_empty=filter_empty)
    return repeat_rare(records, cfg.DATALOADER.REPEAT_THRESHOLD) if _repeats(cfg) else records


def _test_records(cfg: CfgNode, *, names: list[str]) -> list[dict[str, Any]]:
    sets = list(cfg.DATASETS.TEST)
    proposals = cfg.DATASETS.PROPOSAL_FILES_TEST if cfg.MODEL.LOAD_PROPOSALS else None
    files = None if proposals is None else [proposals[sets.index(name)] for name in names]
    records: list[dict[str, Any]] = get_detection_dataset_dicts(
        names, filter_empty=False, proposal_files=files
    )
    return records


def _repeats(cfg: CfgNode) -> bool:
    return bool(cfg.DATALOADER.SAMPLER_TRAIN == "RepeatFactorTrainingSampler")


def _train_mapper(cfg: CfgNode) -> DatasetMapper | BoxMapper:
    if not learns_masks(cfg):
        return DatasetMapper(cfg, is_train=True)
    # Detectron2's mapper fails if masks have several formats or if some are missing.
    arguments = DatasetMapper.from_config(cfg, is_train=True)
    options = {name: arguments[name] for name in ("augmentations", "image_format")}
    return BoxMapper(**options, masks=True)


def _train_loader(
    cfg: CfgNode, *, dataset: list[dict[str, Any]], mapper: Any, **arguments: Any
) -> Any:
    """Build Detectron2's training loader; a resumed run starts a new order of the images."""
    # The records are already repeated; Detectron2's sampler would repeat them again.
    arguments["sampler"] = TrainingSampler(len(dataset)) if _repeats(cfg) else None
    mapped = MappedRecords(RecordList(dataset), mapper)
    # Without a mapper, Detectron2 would build its default mapper.
    return build_detection_train_loader(cfg, dataset=mapped, mapper=_identity, **arguments)


def _identity(sample: dict[str, Any]) -> dict[str, Any]:
    return sample
