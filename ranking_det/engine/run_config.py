"""The config of a run, as the engine sees it: the nodes of a LazyConfig, and what they build."""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode, LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ranking_det.data.mapper import NamedErrors
from ranking_det.engine import yaml_config
from ranking_det.engine.lazy_config import load_lazy_config, target_of
from ranking_det.engine.safe_config import is_saved_config
from ranking_det.engine.schedule import Schedule, fit_schedule
from ranking_det.files import partial_path, rename_whole, write_whole
from ranking_det.modeling.interface import interface_of
from ranking_det.modeling.yaml_keys import num_classes_keys
from ranking_det.user_errors import UserError

logger = logging.getLogger(__name__)

SCHEDULE_KEYS = {
    "max_iter": "train.max_iter",
    "epoch": "train.iterations_per_epoch",
    "lr": "optimizer.lr",
    "checkpoint_period": "train.checkpointer.period",
    "eval_period": "train.eval_period",
}
"""Where a field of a schedule is in the config."""

Records = list[dict[str, Any]]


def load_config(path: str, overrides: Sequence[str], *, trust: bool = False) -> RunConfig:
    """Load a config of either kind.

    Args:
        path: a .py file, which is a program, or a yaml file, which is not.
        overrides: of its keys; they may name any function or class.
        trust: whether a yaml file may, too.

    Raises:
        UserError: it is missing or faulty, or an override is.
    """
    if not path.endswith((".py", ".yaml", ".yml")):
        raise UserError(f"--config-file must end in .py, .yaml or .yml, got {path!r}")
    # The config that a run of a LazyConfig leaves in its folder is yaml too.
    if path.endswith(".py") or is_saved_config(path):
        nodes = load_lazy_config(path, overrides, trust=trust)
        return RunConfig(nodes, {override.partition("=")[0] for override in overrides})
    cfg = yaml_config.load_yaml_config(path, overrides, trust=trust)
    overridden = {key for key, _ in yaml_config.split_overrides(overrides)}
    return RunConfig(yaml_config.translate(cfg), overridden, cfg)


@contextmanager
def named_refusals(where: str) -> Iterator[None]:
    """Turn what a constructor refuses into one line; ``where`` is the node of the config.

    Raises:
        UserError: what the node names cannot be imported, or refuses its arguments.
    """
    try:
        yield
    except UserError:
        raise
    # What constructors and Detectron2's own assertions raise; anything else is a fault of ours.
    except (TypeError, ValueError, KeyError, ImportError, AssertionError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{where} cannot be built: {reason}") from error


class RunConfig:
    """A config, checked when it was loaded.

    Args:
        nodes: ``model``, ``dataloader``, ``optimizer``, ``lr_multiplier`` and ``train``.
        overridden: the keys that the command line has set, as the user writes them.
        yaml: the config of Detectron2's that the nodes are a translation of; None for a LazyConfig.
    """

    def __init__(
        self, nodes: DictConfig, overridden: Collection[str] = (), yaml: CfgNode | None = None
    ) -> None:
        self.nodes = nodes
        self.overridden = overridden
        self.yaml = yaml

    @property
    def train(self) -> DictConfig:
        """The settings of the run; a config of the user's own may lack some of the project's."""
        return self.nodes.train

    def written(self, key: str) -> str:
        """A key of a LazyConfig as a user of this kind of config writes it."""
        return key if self.yaml is None else (yaml_config.VALUES | yaml_config.NODES).get(key, key)

    @property
    def batch(self) -> int:
        """Images of an iteration over all processes; 0 if it cannot be told."""
        return self._select("dataloader.train.total_batch_size") or 0

    @property
    def num_classes_keys(self) -> Sequence[str]:
        """The user's keys of the number of classes; none if only the model knows it."""
        if self.yaml is not None:
            with named_refusals("MODEL"):
                return num_classes_keys(self.yaml)
        return _shallowest(self.nodes.model, "num_classes", "model")

    def names_key(self, split: str) -> str:
        """The user's key of the data sets of "train" or "test"."""
        return self.written(f"{self._source(split)}.names")

    def names(self, split: str) -> list[str]:
        """The data sets of "train" or "test"; none if the loader is not of the usual form."""
        names = self._select(f"{self._source(split)}.names")
        return [names] if isinstance(names, str) else list(names or [])

    def test_sets(self) -> list[str]:
        """The test sets that are evaluated, one after the other.

        An evaluator that has no ``dataset_name`` is for all of them. Another one is for the
        loader's, and perhaps it alone knows the name.
        """
        return self.names("test") if self._evaluates_each else self.names("test")[:1] or [""]

    def class_names(self) -> tuple[list[str] | None, list[int] | None]:
        """The names of the classes, and their ids in the annotations, if the data sets tell."""
        for name in (*self.names("train"), *self.names("test")):
            metadata = MetadataCatalog.get(name)
            names = metadata.get("thing_classes")
            if names is not None:
                class_of = metadata.get("thing_dataset_id_to_contiguous_id") or {}
                ids = sorted(class_of, key=class_of.__getitem__)
                return list(names), ids if len(ids) == len(names) else list(range(len(names)))
        return None, None

    def set_names(self, split: str, name: str) -> None:
        """Take another data set for "train" or "test"."""
        if self.yaml is None and not self.names(split):
            raise UserError(f"dataloader.{split} has no dataset.names to set")
        self._set(f"{self._source(split)}.names", name)

    def keep_empty_images(self) -> None:
        """Train on images without objects too."""
        self._set(f"{self._source('train')}.filter_empty", False)

    def num_classes(self, model: nn.Module) -> int | None:
        """K of a model or, if it does not tell, of its config; None if neither does."""
        keys = [] if self.yaml is not None else self.num_classes_keys
        return interface_of(model).num_classes or (self._select(keys[0]) if keys else None)

    def set_num_classes(self, num_classes: int) -> None:
        """Give the model so many classes."""
        keys = self.num_classes_keys
        if not keys:
            raise UserError("model has no num_classes to set")
        for key in keys:
            self._set(key, num_classes)

    def schedule(self) -> tuple[Schedule, Collection[str]]:
        """The schedule as it is written, and the fields that the user has set for this run."""
        written = Schedule(*(self._select(key) or 0 for key in SCHEDULE_KEYS.values()))
        fixed = [name for name, key in SCHEDULE_KEYS.items() if self._is_overridden(key)]
        epochs = self.train.get("epochs", 0) * written.epoch
        if epochs and written.max_iter != round(epochs) and not self._is_overridden("train.epochs"):
            fixed.append("max_iter")  # a config of the user's own, which sets only this
        return written, fixed

    def fitted_schedule(self, num_images: int) -> tuple[Schedule, list[str]]:
        """The schedule for so many images, and a line for every change."""
        written, fixed = self.schedule()
        epochs, reference = (self.train.get(key, 0) for key in ("epochs", "reference_batch"))
        sizes = {"num_images": num_images, "batch": self.batch, "reference_batch": reference}
        return fit_schedule(written, epochs=epochs, fixed=fixed, **sizes)

    def fit_to_data(self, num_images: int) -> None:
        """Set the schedule for so many images, if the batch is known, and log what changes."""
        if not self.batch:
            return
        schedule, lines = self.fitted_schedule(num_images)
        for line in lines:
            logger.info("%s", line)
        if self.yaml is not None:
            yaml_config.scale_steps(self.yaml, schedule.max_iter, self.overridden)
        for key, value in zip(SCHEDULE_KEYS.values(), schedule, strict=True):
            self._set(key, value)
        # What is saved is not to be scaled again.
        if self.train.get("reference_batch"):
            self._set("train.reference_batch", self.batch)

    def model(self) -> nn.Module:
        """Build the model, on the CPU."""
        model: nn.Module = self._build(self.nodes.model, "model")
        return model

    def augment(self, model: nn.Module) -> nn.Module:
        """The model to run: with test-time augmentation if the config has it enabled.

        Raises:
            UserError: the model cannot be augmented, or the sizes are no sizes.
        """
        options = dict(self.train.get("tta") or {})
        if not options.pop("enabled", False):
            return model
        with named_refusals(self.written("train.tta")):
            return interface_of(model).augment_inference(**options)

    def records(self) -> Records | None:
        """Load the training set; None if the loader is not of the usual form."""
        if not self.names("train"):
            return None
        return list(self._build(self.nodes.dataloader.train.dataset, "dataloader.train.dataset"))

    def mapper(self, split: str) -> Callable[[dict[str, Any]], Any]:
        """From a record to what the model takes; errors name the image."""
        key = f"dataloader.{split}.mapper"
        return NamedErrors(self._build(self.nodes.dataloader[split].mapper, key))

    def train_loader(self, records: Records | None, start_iter: int) -> Any:
        """The training loader over :meth:`records`, from an iteration on if it can."""
        node = self._loader_node("train")
        if records is not None:
            node["dataset"] = records
        target = target_of(node)
        if target is not None and "start_iter" in inspect.signature(target).parameters:
            node["start_iter"] = start_iter
        return self._build(node, "dataloader.train")

    def test_loader(self, name: str) -> Any:
        """The loader of one of the test sets."""
        node = self._loader_node("test")
        if self._evaluates_each:
            node["dataset"] = {**node["dataset"], "names": [name]}
        return self._build(node, "dataloader.test")

    def evaluator(self, name: str) -> Any:
        """Detectron2's evaluator of one of the test sets."""
        node = self.nodes.dataloader.evaluator
        if self._evaluates_each:
            several = len(self.test_sets()) > 1
            # The names of the files have the rules only.
            folder = str(Path(node.output_dir, name)) if several else node.output_dir
            node = OmegaConf.merge(node, {"dataset_name": name, "output_dir": folder})
        return self._build(node, "dataloader.evaluator")

    def check_test_sets(self) -> None:
        """Load the test sets and build their evaluators, which would end a training otherwise.

        Raises:
            UserError: a file is missing or faulty, a set needs a package that is not there, or an
                evaluator refuses its arguments.
        """
        for name in self.names("test"):
            with named_refusals(f"the data set {name!r}"):
                DatasetCatalog.get(name)
        for name in self.test_sets():
            self.evaluator(name)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Build the optimizer of the model."""
        node = self.nodes.optimizer
        node = {**node, "params": {**node.params, "model": model}}
        optimizer: torch.optim.Optimizer = self._build(node, "optimizer")
        return optimizer

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        """What Detectron2's LRScheduler hook takes."""
        node = self.nodes.lr_multiplier
        if isinstance(node, DictConfig) and "optimizer" in node:
            node = {**node, "optimizer": optimizer}
        return self._build(node, "lr_multiplier")

    def save(self, path: Path) -> None:
        """Write the config as it is now, whole or not at all, so that it can be loaded again."""
        if self.yaml is not None:
            write_whole(path, self.yaml.dump())
            return
        partial = partial_path(path)
        LazyConfig.save(self.nodes, str(partial))
        rename_whole(partial, path)
        pickled = Path(f"{partial}.pkl")  # of a config that yaml cannot hold
        if pickled.is_file():
            rename_whole(pickled, Path(f"{path}.pkl"))

    @property
    def _evaluates_each(self) -> bool:
        node = self.nodes.dataloader.evaluator
        return isinstance(node, DictConfig) and OmegaConf.is_missing(node, "dataset_name")

    def _loader_node(self, split: str) -> dict[str, Any]:
        """The arguments of a loader, whose mapper is built."""
        node = {str(key): value for key, value in self.nodes.dataloader[split].items()}
        return node | {"mapper": self.mapper(split)} if "mapper" in node else node

    def _build(self, node: Any, key: str) -> Any:
        with named_refusals(self.written(key)):
            return instantiate(node)

    def _source(self, split: str) -> str:
        """The key of the node that names the data sets, in whatever repeats their images."""
        key = f"dataloader.{split}.dataset"
        while self._select(f"{key}.names") is None and self._select(f"{key}.dataset") is not None:
            key += ".dataset"
        return key

    def _is_overridden(self, key: str) -> bool:
        return self.written(key) in self.overridden

    def _select(self, key: str) -> Any:
        return OmegaConf.select(self.nodes, key)

    def _set(self, key: str, value: Any) -> None:
        """Change a value, which is in the yaml config if there is one: nodes only translate it."""
        if self.yaml is None:
            OmegaConf.update(self.nodes, key, value)
        elif self.written(key) != key or key in self.num_classes_keys:
            yaml_config.set_value(self.yaml, self.written(key), value)
            self.nodes = yaml_config.translate(self.yaml)


def _shallowest(node: DictConfig, name: str, key: str) -> list[str]:
    """The key of the shallowest plain entry of a name; one that refers to another is none."""
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
