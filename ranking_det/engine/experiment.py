"""What the engine asks of a config, be it a LazyConfig or yaml."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from ranking_det.engine.schedule import Schedule


class Keys(NamedTuple):
    """How a user of this kind of config writes a setting; messages name it so."""

    output_dir: str
    weights: str
    device: str
    max_iter: str
    classes: str
    train_names: str
    test_names: str
    tta: str


class Settings(NamedTuple):
    """The run settings of a config."""

    output_dir: str
    weights: str
    """A file, a URL, or "" for none."""
    device: str
    seed: int
    """Below 0 for another one at each start."""
    cudnn_benchmark: bool
    """Whether cuDNN tries its algorithms in a training."""
    batch: int
    """Images of an iteration over all processes; 0 if it cannot be told."""
    reference_batch: int
    epochs: float
    log_period: int
    max_to_keep: int | None
    amp: str
    """"" for single precision, "float16" or "bfloat16"."""
    ddp: dict[str, Any]
    tta: dict[str, Any] | None
    num_classes: int | None
    """None if the model is not of the usual form."""


class Experiment(ABC):
    """A config of either kind, checked when it is loaded.

    Attributes:
        keys: how its settings are written.
        overridden: the keys that the command line has set.
    """

    keys: Keys
    overridden: set[str]

    @abstractmethod
    def settings(self) -> Settings:
        """What the config says now."""

    @abstractmethod
    def schedule(self) -> tuple[Schedule, Collection[str]]:
        """The schedule as it is written, and the fields that the user has set for this run."""

    @abstractmethod
    def set_schedule(self, schedule: Schedule) -> None:
        """Change the config to another schedule."""

    @abstractmethod
    def names(self, split: str) -> list[str]:
        """The data sets of "train" or "test"; none if the loader is not of the usual form."""

    @abstractmethod
    def test_sets(self) -> list[str]:
        """The test sets that are evaluated, one after the other."""

    @abstractmethod
    def set_data(
        self, train: str | None, test: str | None, num_classes: int, *, keep_empty: bool
    ) -> None:
        """Take other data sets, those not None, and as many classes as they have."""

    @abstractmethod
    def learns_masks(self) -> bool:
        """Whether the model has masks to learn."""

    @abstractmethod
    def model(self) -> nn.Module:
        """Build the model, on its device."""

    @abstractmethod
    def records(self) -> list[dict[str, Any]] | None:
        """Load the training set; None if the loader is not of the usual form."""

    @abstractmethod
    def mapper(self, split: str) -> Callable[[dict[str, Any]], Any]:
        """From a record to what the model takes."""

    @abstractmethod
    def train_loader(self, records: list[dict[str, Any]] | None, start_iter: int) -> Any:
        """The training loader over :meth:`records`, from an iteration on if it can."""

    @abstractmethod
    def test_loader(self, name: str) -> Any:
        """The loader of one of the test sets."""

    @abstractmethod
    def evaluator(self, name: str) -> Any:
        """Detectron2's evaluator of one of the test sets."""

    @abstractmethod
    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Build the optimizer of the model."""

    @abstractmethod
    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        """What Detectron2's LRScheduler hook takes."""

    def hooks(self, model: nn.Module) -> Sequence[Any]:
        """Further hooks that the config asks for."""
        return ()

    @abstractmethod
    def save(self, path: str) -> None:
        """Write the config as it is now, whole or not at all, so that it can be loaded again."""
