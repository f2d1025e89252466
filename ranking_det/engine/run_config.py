"""Load the config of a run, and build model, data loaders, evaluators and optimizer from it."""

from __future__ import annotations

import inspect
import logging
import tempfile
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, LazyConfig, instantiate
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.evaluation import DatasetEvaluator
from detectron2.solver import LRMultiplier
from fvcore.common.param_scheduler import ParamScheduler
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from ranking_det.checks import check_at_least
from ranking_det.data.catalog import small_set
from ranking_det.data.mapper import BoxMapper, ImageMapper, UnreadableImages
from ranking_det.data.stream import seeded
from ranking_det.engine import yaml_config
from ranking_det.engine.lazy_config import load_lazy_config, target_of
from ranking_det.engine.run_checks import (
    NUMBERS,
    check_categories,
    check_number,
    check_optimizer,
)
from ranking_det.engine.safe_config import is_saved_config, parse_plain
from ranking_det.engine.schedule import Schedule, fit_schedule
from ranking_det.files import partial_path, rename_whole, reserve_space, write_whole
from ranking_det.modeling.interface import interface_of
from ranking_det.modeling.yaml_keys import num_classes_keys
from ranking_det.user_errors import UserError, reason_of

logger = logging.getLogger(__name__)
# It logs "Error when instantiating", but our error names the key and the cause.
logging.getLogger("detectron2.config.instantiate").setLevel(logging.CRITICAL)

SCHEDULE_KEYS = {
    "max_iter": "train.max_iter",
    "epoch": "train.iterations_per_epoch",
    "lr": "optimizer.lr",
    "checkpoint_period": "train.checkpointer.period",
    "eval_period": "train.eval_period",
}
"""The config key of each field of a :class:`Schedule`."""

Records = list[dict[str, Any]]


def load_config(path: str, overrides: Sequence[str], *, trust: bool = False) -> RunConfig:
    """Load a LazyConfig or a yaml config.

    Args:
        path: a .py file, which is executed, or a yaml file.
        overrides: ``key=value``; for a plain yaml config also ``KEY value``. They may name any
            function or class.
        trust: whether a yaml file may also name any function or class.

    Raises:
        UserError: the file is missing or faulty, an override is wrong, or a number is out of range.
    """
    if not path.endswith((".py", ".yaml", ".yml")):
        raise UserError(f"--config-file: expected a .py, .yaml or .yml file, got {path!r}")
    # A run of a LazyConfig saves its config as yaml.
    if path.endswith(".py") or is_saved_config(path):
        nodes = load_lazy_config(path, overrides, trust=trust)
        config = RunConfig(nodes, {override.partition("=")[0] for override in overrides})
    else:
        cfg = yaml_config.load_yaml_config(path, overrides, trust=trust)
        overridden = {key for key, _ in yaml_config.split_overrides(overrides)}
        config = RunConfig(yaml_config.translate(cfg), overridden, cfg)
    for key in NUMBERS:
        check_number(key, config.user_key(key), OmegaConf.select(config.nodes, key))
    return config


CONSTRUCTION_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError),
    *(OSError, RuntimeError, TypeError, ValueError),
)
"""Raised by constructors for a value that they cannot use: a size of 10^23, a text for a class."""


@contextmanager
def named_refusals(where: str, node: Any = None) -> Iterator[None]:
    """Turn an error of a constructor into a one-line UserError.

    Args:
        where: the config key of the node that is built, for the message.
        node: the node. If the error is a KeyError, the message names the config key of the value.

    Raises:
        UserError: the callable of the node cannot be imported or rejects its arguments.
    """
    try:
        yield
    except UserError:
        raise
    except CONSTRUCTION_ERRORS as error:
        value = error.args[0] if isinstance(error, KeyError) and error.args else None
        values = {} if value is None else _plain_values(node, where)
        keys = [
            key for key, other in values.items() if (type(other), other) == (type(value), value)
        ]
        origin = f", the value of {' or '.join(keys)}" if keys else ""
        raise UserError(f"{where} cannot be built: {reason_of(error)}{origin}") from error


class RunConfig:
    """A loaded and checked config, which builds the parts of a run.

    Args:
        nodes: ``model``, ``dataloader``, ``optimizer``, ``lr_multiplier`` and ``train``.
        overridden: the keys that the command line has set, as the user writes them.
        yaml: Detectron2's config that the nodes were translated from; None for a LazyConfig.
    """

    def __init__(
        self, nodes: DictConfig, overridden: Collection[str] = (), yaml: CfgNode | None = None
    ) -> None:
        self.nodes = nodes
        self.overridden = overridden
        self.yaml = yaml

    @property
    def train(self) -> DictConfig:
        """The settings of the run; a custom config may lack some of this project's keys."""
        return self.nodes.train

    def user_key(self, key: str) -> str:
        """Return a config key as the user of this kind of config writes it.

        Args:
            key: the key in a LazyConfig, such as "train.max_iter".

        Returns:
            The same key for a LazyConfig; for a yaml config its key, such as "SOLVER.MAX_ITER".
        """
        return key if self.yaml is None else (yaml_config.VALUES | yaml_config.NODES).get(key, key)

    @property
    def batch(self) -> int:
        """Images per iteration over all processes; 0 if it is unknown."""
        return self._select("dataloader.train.total_batch_size") or 0

    @property
    def num_classes_keys(self) -> Sequence[str]:
        """The config keys of the number of classes; empty if the config has none."""
        if self.yaml is not None:
            with named_refusals("MODEL"):
                return num_classes_keys(self.yaml)
        return _shallowest(self.nodes.model, "num_classes", "model")

    def names_key(self, split: str) -> str:
        """Return the config key of the data sets, as the user writes it.

        Args:
            split: "train" or "test".
        """
        return self.user_key(f"{self._source(split)}.names")

    def names(self, split: str) -> list[str]:
        """Return the names of the data sets; empty if the loader is not built like the project's.

        Args:
            split: "train" or "test".
        """
        names = self._select(f"{self._source(split)}.names")
        return [names] if isinstance(names, str) else list(names or [])

    def test_sets(self) -> list[str]:
        """Return the test sets that are evaluated one after the other.

        An evaluator without a ``dataset_name`` evaluates all test sets. An evaluator with one
        evaluates only the loader's first test set; its name here is "" if it is unknown.
        """
        names = self.names("test")
        return names if self._evaluates_every_test_set else names[:1] or [""]

    def class_names(self) -> tuple[list[str] | None, list[int] | None]:
        """Return the class names and their category ids in the annotations; None if unknown."""
        for name in (*self.names("train"), *self.names("test")):
            metadata = MetadataCatalog.get(name)
            names = metadata.get("thing_classes")
            if names is not None:
                class_of = metadata.get("thing_dataset_id_to_contiguous_id") or {}
                ids = sorted(class_of, key=class_of.__getitem__)
                return list(names), ids if len(ids) == len(names) else list(range(len(names)))
        return None, None

    def set_names(self, split: str, name: str) -> None:
        """Replace the data sets.

        Args:
            split: "train" or "test".
            name: the name of the new data set.

        Raises:
            UserError: the loader has no ``dataset`` with names.
        """
        if self.yaml is None and not self.names(split):
            raise UserError(f"dataloader.{split}: expected a loader with dataset.names, got none")
        self._set(f"{self._source(split)}.names", name)

    def keep_empty_images(self) -> None:
        """Keep images without objects in the training set."""
        self._set(f"{self._source('train')}.filter_empty", False)

    def num_classes(self, model: nn.Module) -> int | None:
        """Return the number of classes of a model; None if it is unknown.

        Args:
            model: the model; the config is used if the model does not report its classes.
        """
        keys = [] if self.yaml is not None else self.num_classes_keys
        return interface_of(model).num_classes or (self._select(keys[0]) if keys else None)

    def set_num_classes(self, num_classes: int) -> None:
        """Set the number of classes of the model.

        Args:
            num_classes: >= 1.

        Raises:
            UserError: the config has no key for the number of classes.
        """
        keys = self.num_classes_keys
        if not keys:
            raise UserError("model: expected a node with num_classes, got none")
        for key in keys:
            self._set(key, num_classes)

    def schedule(self) -> tuple[Schedule, Collection[str]]:
        """Return the schedule in the config, and the fields that the user has set for this run."""
        schedule = Schedule(*(self._select(key) or 0 for key in SCHEDULE_KEYS.values()))
        fixed = [name for name, key in SCHEDULE_KEYS.items() if self._is_overridden(key)]
        epochs = self.train.get("epochs", 0) * schedule.epoch
        if (
            epochs
            and schedule.max_iter != round(epochs)
            and not self._is_overridden("train.epochs")
        ):
            fixed.append("max_iter")  # a custom config that sets only max_iter
        return schedule, fixed

    def fitted_schedule(self, num_images: int) -> tuple[Schedule, list[str]]:
        """Return the schedule for a training set, and a log line for each change.

        Args:
            num_images: number of training images, >= 1.
        """
        schedule, fixed = self.schedule()
        epochs, reference = (self.train.get(key, 0) for key in ("epochs", "reference_batch"))
        sizes = {"num_images": num_images, "batch": self.batch, "reference_batch": reference}
        return fit_schedule(schedule, epochs=epochs, fixed=fixed, **sizes)

    def fit_to_data(self, num_images: int) -> None:
        """Fit the schedule to a training set, if the batch size is known, and log the changes.

        Args:
            num_images: number of training images, >= 1.
        """
        if not self.batch:
            return
        schedule, lines = self.fitted_schedule(num_images)
        for line in lines:
            logger.info("%s", line)
        if self.yaml is not None:
            yaml_config.scale_steps(self.yaml, schedule.max_iter, self.overridden)
        for key, value in zip(SCHEDULE_KEYS.values(), schedule, strict=True):
            self._set(key, value)
        # The saved config must not be scaled again.
        if self.train.get("reference_batch"):
            self._set("train.reference_batch", self.batch)

    def model(self) -> nn.Module:
        """Build the model on the CPU.

        Raises:
            UserError: the model cannot be built, or the config builds something else.
        """
        model: nn.Module = self._build(self.nodes.model, "model")
        self._check_type(model, nn.Module, "model")
        return model

    def augment(self, model: nn.Module) -> nn.Module:
        """Wrap a model for test-time augmentation, if the config enables it.

        Args:
            model: a detector.

        Returns:
            The wrapped model, or the model itself.

        Raises:
            UserError: the model does not support test-time augmentation, or the options are wrong.
        """
        options = dict(self.train.get("tta") or {})
        if not options.pop("enabled", False):
            return model
        with named_refusals(self.user_key("train.tta")):
            return interface_of(model).augment_inference(**options)

    def records(self) -> Records | None:
        """Load the training set; return None if the loader has no ``dataset`` with names."""
        if not self.names("train"):
            return None
        with _named_categories(self.names("train")):
            key = "dataloader.train.dataset"
            records = self._build(self.nodes.dataloader.train.dataset, key)
            self._check_type(records, Iterable, key)
            return list(records)

    def mapper(
        self, split: str, *, skipped: UnreadableImages | None = None, blank: bool = False
    ) -> ImageMapper:
        """Build the mapper from a record to an input of the model; its errors name the image.

        Args:
            split: "train" or "test".
            skipped: counts the unreadable images; see :class:`ImageMapper`.
            blank: whether to map a black image instead of an unreadable one.
        """
        key = f"dataloader.{split}.mapper"
        mapper = self._build(self.nodes.dataloader[split].mapper, key)
        self._check_type(mapper, Callable, key)
        return ImageMapper(mapper, skipped=skipped, blank=blank)

    def resizing(self) -> tuple[T.AugmentationList, str]:
        """Return the augmentations of the test mapper, and the order of the channels.

        Raises:
            UserError: the mapper is neither Detectron2's nor :class:`BoxMapper`.
        """
        mapper = known_mapper(self.mapper("test"), "test")
        return mapper.augmentations, mapper.image_format

    def train_loader(
        self, records: Records | None, start_iter: int, skipped: UnreadableImages | None = None
    ) -> Any:
        """Build the training loader.

        Args:
            records: the training set, as :meth:`records` returns it.
            start_iter: the first iteration; ignored if the loader cannot start at an iteration.
            skipped: counts the unreadable images, which are skipped. Without it, they are an error,
                as they are for loaders of a custom config.
        """
        target = self.nodes.dataloader.train.get("_target_")
        starts = callable(target) and "start_iter" in inspect.signature(target).parameters
        is_project_loader = starts or self.yaml is not None
        node = self._loader_node("train", skipped=skipped if is_project_loader else None)
        if records is not None:
            node["dataset"] = records
        if starts:
            node["start_iter"] = start_iter
        return self._build(node, "dataloader.train")

    def input_changes(self, saved: str) -> list[str]:
        """Compare the preparation of test images with that of a saved config.

        Args:
            saved: the text of the ``config.yaml`` of a run; "" if it is unknown.

        Returns:
            A text for each value that differs. Configs of different kinds are not compared.
        """
        if self.yaml is not None:
            starts = ("INPUT.FORMAT", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST")
            values = leaves(self.yaml)
        else:
            starts = ("dataloader.test.mapper.",)
            values = leaves(OmegaConf.to_container(self.nodes.dataloader.test), "dataloader.test")
        return [
            f"{key}: {value!r} in that run, {values.get(key)!r} now"
            for key, value in _plain_values(saved_values(saved)).items()
            if key.startswith(starts) and value != values.get(key)
        ]

    def test_loader(self, name: str) -> Any:
        """Build the loader of a test set.

        Args:
            name: one of :meth:`test_sets`.
        """
        node = self._loader_node("test", blank=True)
        if self._evaluates_every_test_set:
            node["dataset"] = {**node["dataset"], "names": [name]}
        with _named_categories(self.names("test")):
            return self._build(node, "dataloader.test")

    def evaluator(self, name: str, **options: Any) -> Any:
        """Build the evaluator of a test set.

        Args:
            name: one of :meth:`test_sets`.
            options: arguments that replace those of the config.

        Raises:
            UserError: the evaluator cannot be built, or the config builds something else.
        """
        node = self.nodes.dataloader.evaluator
        if self._evaluates_every_test_set:
            several = len(self.test_sets()) > 1
            # The file names say COCO or LVIS, but not the data set.
            folder = str(Path(node.output_dir, name)) if several else node.output_dir
            options = {"dataset_name": name, "output_dir": folder} | options
        if options:
            node = OmegaConf.merge(node, options)
        evaluator = self._build(node, "dataloader.evaluator")
        for part in evaluator if isinstance(evaluator, list) and evaluator else [evaluator]:
            self._check_type(part, DatasetEvaluator, "dataloader.evaluator")
        return evaluator

    def check_test_sets(self, missing: Collection[str] = ()) -> None:
        """Load the test sets and build their evaluators, so errors show before training.

        Args:
            missing: the test sets that the run has yet to generate, which are not loaded.

        Raises:
            UserError: a file is missing or faulty, a data set needs a package that is not
                installed, or an evaluator rejects its arguments.
        """
        for name in self.names("test"):
            if name not in missing:
                with named_refusals(f"the data set {name!r}"):
                    check_categories(name, DatasetCatalog.get(name))
        node = self.nodes.dataloader.evaluator
        arguments = node.keys() if isinstance(node, DictConfig) else ()
        # Detectron2's evaluators may write files when they are built.
        with tempfile.TemporaryDirectory() as folder, small_set() as small:
            for name in self.test_sets():
                is_missing = (name or self._select("dataloader.evaluator.dataset_name")) in missing
                options = {"output_dir": folder} | ({"dataset_name": small} if is_missing else {})
                self.evaluator(name, **{key: options[key] for key in options if key in arguments})

    def check_parts(self, model: nn.Module, *, trains: bool) -> None:
        """Build loaders, optimizer and schedule, so that their errors show in the plan.

        Random number generators keep their states.

        Args:
            model: the model of the run.
            trains: whether the optimizer, the schedule and the training loader are needed, too.

        Raises:
            UserError: a part cannot be built, an augmentation cannot use its values, a factor of
                the learning rate is negative or not finite, or the weight decay is out of range.
        """
        with seeded(0, 0):
            for split in ("train", "test") if trains else ("test",):
                self._check_loader(split, model)
            if trains:
                optimizer = self.optimizer(model)
                check_optimizer(optimizer, self.user_key("optimizer"))
                key = self.user_key("lr_multiplier")
                scheduler = self.scheduler(optimizer)
                with named_refusals(key):
                    for factor in _factors(scheduler, self.train.max_iter):
                        check_at_least("learning rate", factor, 0.0)

    def _check_loader(self, split: str, model: nn.Module) -> None:
        """Build a loader of Detectron2 or this project without its data, and try its mapper."""
        node = self.nodes.dataloader[split]
        # The target may itself be a node, which builds a function.
        target = target_of(node) or node.get("_target_") if isinstance(node, DictConfig) else None
        # A dict would give its keys instead of batches.
        gives_batches = not isinstance(target, type) or (
            issubclass(target, Iterable) and not issubclass(target, Mapping)
        )
        if target is None or not gives_batches:
            name = "a node without _target_" if target is None else target.__name__
            raise UserError(
                f"dataloader.{split}: expected a function or class that gives batches one after "
                f"the other, got {name}"
            )
        module = getattr(target, "__module__", "")
        if self.yaml is None and not module.startswith(("detectron2.", "ranking_det.")):
            return
        if not {"dataset", "mapper"} <= node.keys():
            return
        mapper = self.mapper(split)
        with named_refusals(self.user_key(f"dataloader.{split}.mapper")):
            channels = mapper.try_blank()
        mean = dict(model.named_buffers()).get("pixel_mean")
        if mean is not None and channels not in (None, mean.numel()):
            raise UserError(
                f"{self.user_key('model')}: expected a pixel_mean of {channels} numbers, one for "
                f"each channel of the images, got {mean.numel()}"
            )
        if not self.names(split) and isinstance(node.dataset, DictConfig):
            # The data sets with names are checked when they are loaded.
            key = f"dataloader.{split}.dataset"
            self._check_type(self._build(node.dataset, key), (Iterable, Sized), key)
        blank = {"file_name": "", "height": 480, "width": 640, "image_id": 0, "annotations": []}
        self._build({**node, "mapper": mapper, "dataset": [blank]}, f"dataloader.{split}")

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Build the optimizer of a model.

        Args:
            model: its parameters are optimized.

        Raises:
            UserError: the optimizer cannot be built, or the config builds something else.
        """
        node = self.nodes.optimizer
        node = {**node, "params": {**node.params, "model": model}}
        optimizer: torch.optim.Optimizer = self._build(node, "optimizer")
        self._check_type(optimizer, torch.optim.Optimizer, "optimizer")
        return optimizer

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        """Build the learning-rate scheduler for Detectron2's LRScheduler hook.

        Args:
            optimizer: the optimizer of the model.

        Raises:
            UserError: the scheduler cannot be built, or the config builds something else.
        """
        node = self.nodes.lr_multiplier
        if isinstance(node, DictConfig) and "optimizer" in node:
            node = {**node, "optimizer": optimizer}
        scheduler = self._build(node, "lr_multiplier")
        kinds = ParamScheduler, torch.optim.lr_scheduler.LRScheduler
        self._check_type(scheduler, kinds, "lr_multiplier")
        return scheduler

    def save(self, path: Path) -> None:
        """Save the current config atomically, in a form that can be loaded again.

        Args:
            path: the yaml file. If yaml cannot express a LazyConfig, it is also pickled.
        """
        if self.yaml is not None:
            write_whole(path, self.yaml.dump())
            return
        partial = partial_path(path)
        try:
            reserve_space(path, 1 << 20)  # Detectron2 only logs that it could not write
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        LazyConfig.save(self.nodes, str(partial))
        rename_whole(partial, path)
        pickled = Path(f"{partial}.pkl")  # Detectron2 writes it if yaml cannot express the config
        if pickled.is_file():
            rename_whole(pickled, Path(f"{path}.pkl"))

    @property
    def evaluator_reads_files(self) -> bool:
        """Whether the evaluator may read the annotation files itself, as Detectron2's do."""
        target = self.nodes.dataloader.evaluator.get("_target_")
        return not getattr(target, "__module__", "").startswith("ranking_det.")

    @property
    def _evaluates_every_test_set(self) -> bool:
        node = self.nodes.dataloader.evaluator
        return isinstance(node, DictConfig) and OmegaConf.is_missing(node, "dataset_name")

    def _loader_node(self, split: str, **options: Any) -> dict[str, Any]:
        """Return the arguments of a loader, with its mapper built with the options."""
        node = {str(key): value for key, value in self.nodes.dataloader[split].items()}
        return node | {"mapper": self.mapper(split, **options)} if "mapper" in node else node

    def _build(self, node: Any, key: str) -> Any:
        user_key = self.user_key(key)
        with named_refusals(user_key, node if self.yaml is None else self.yaml.get(user_key)):
            try:
                return instantiate(node)
            except CONSTRUCTION_ERRORS:
                if self.yaml is None:
                    _build_parts(node, key)
                raise

    def _check_type(self, value: Any, kinds: type | tuple[type, ...], key: str) -> None:
        """Raise UserError unless a part that the config has built is of one of the types."""
        if not isinstance(value, kinds):
            names = [kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,))]
            raise UserError(
                f"{self.user_key(key)}: expected a function or class that gives a "
                f"{' or '.join(names)}, got a {type(value).__name__}"
            )

    def _source(self, split: str) -> str:
        """Return the key of the node that names the data sets, even inside a repeating wrapper."""
        key = f"dataloader.{split}.dataset"
        while self._select(f"{key}.names") is None and self._select(f"{key}.dataset") is not None:
            key += ".dataset"
        return key

    def _is_overridden(self, key: str) -> bool:
        return self.user_key(key) in self.overridden

    def _select(self, key: str) -> Any:
        return OmegaConf.select(self.nodes, key)

    def _set(self, key: str, value: Any) -> None:
        """Change a value of the config; for a yaml config, change it there and translate again."""
        if self.yaml is None:
            OmegaConf.update(self.nodes, key, value)
        elif self.user_key(key) != key or key in self.num_classes_keys:
            yaml_config.set_value(self.yaml, self.user_key(key), value)
            self.nodes = yaml_config.translate(self.yaml)


@contextmanager
def _named_categories(names: Sequence[str]) -> Iterator[None]:
    """Name the image of a category out of range; Detectron2 reports only the category."""
    try:
        yield
    except UserError as error:
        if isinstance(error.__cause__, AssertionError):
            for name in names:
                check_categories(name, DatasetCatalog.get(name))
        raise


def _factors(scheduler: Any, max_iter: int) -> list[Any]:
    """Return the learning-rate factors of a new scheduler at six iterations of the run."""
    # The last factor, after the last step, is computed but not used.
    steps = [*(int(share * max_iter) for share in (0.0, 0.25, 0.5, 0.75)), max_iter - 1, max_iter]
    if isinstance(scheduler, ParamScheduler):
        return [scheduler(step / max_iter) for step in steps]
    factors = []
    for step in steps if isinstance(scheduler, LRMultiplier) else ():
        scheduler.last_epoch = step
        factors += scheduler.get_lr()
    return factors


def _build_parts(node: Any, key: str) -> None:
    """Build the parts of a node that cannot be built, so that the error names the innermost one."""
    entries = node.items() if isinstance(node, Mapping) else enumerate(node)
    for name, part in entries:
        if isinstance(part, (DictConfig, ListConfig)):
            _build_parts(part, f"{key}.{name}")
            with named_refusals(f"{key}.{name}", part):
                instantiate(part)


def known_mapper(image_mapper: ImageMapper, split: str) -> DatasetMapper | BoxMapper:
    """Return the wrapped mapper of a config, whose augmentations and image format are known.

    Args:
        image_mapper: the mapper, as the config builds it.
        split: "train" or "test", for the message.

    Raises:
        UserError: the mapper is neither Detectron2's nor :class:`BoxMapper`.
    """
    mapper = image_mapper.mapper
    if not isinstance(mapper, (DatasetMapper, BoxMapper)):
        kind = type(mapper).__name__
        key = f"dataloader.{split}.mapper"
        raise UserError(f"{key}: expected DatasetMapper or BoxMapper, got {kind}")
    return mapper


def saved_values(text: str) -> dict[str, Any]:
    """Return the values of a saved config by their keys; see :func:`leaves`.

    Args:
        text: a ``config.yaml``. The values are empty if it is empty or is not yaml.
    """
    try:
        return leaves(parse_plain(text))
    except (ValueError, TypeError, RecursionError, yaml.YAMLError):
        return {}


def leaves(value: Any, key: str = "") -> dict[str, Any]:
    """Return the values in nested containers by their keys, such as "train.seed".

    Args:
        value: nested mappings and lists; a leaf is anything else, or an empty container.
        key: the key of the value itself.
    """
    is_list = isinstance(value, (list, tuple, ListConfig))
    entries = dict(enumerate(value)) if is_list else value
    if not isinstance(entries, Mapping) or not entries:
        return {key: value} if key else {}
    values: dict[str, Any] = {}
    for name, entry in entries.items():
        values |= leaves(entry, f"{key}.{name}" if key else str(name))
    return values


def _plain_values(value: Any, key: str = "") -> dict[str, Any]:
    """Return the numbers, texts and so on in a container by their keys, without the targets."""
    return {
        name: leaf
        for name, leaf in leaves(value, key).items()
        if isinstance(leaf, (bool, int, float, str)) and not name.endswith("._target_")
    }


def _shallowest(node: DictConfig, name: str, key: str) -> list[str]:
    """Find the key of the shallowest entry with a name, ignoring interpolations."""
    queue = deque([(key, node)])
    while queue:
        key, node = queue.popleft()
        if name in node and not OmegaConf.is_interpolation(node, name):
            return [f"{key}.{name}"]
        for child in node:
            if OmegaConf.is_interpolation(node, child) or OmegaConf.is_missing(node, child):
                continue
            if isinstance(node[child], DictConfig):
                queue.append((f"{key}.{child}", node[child]))
    return []
