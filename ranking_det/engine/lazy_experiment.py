"""A LazyConfig as the engine sees it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig
from omegaconf import OmegaConf
from torch import nn

from ranking_det.config import parameters
from ranking_det.data.mapper import NamedErrors
from ranking_det.engine.errors import build
from ranking_det.engine.experiment import Experiment, Keys, Settings
from ranking_det.engine.lazy_config import load_lazy_config, target_of
from ranking_det.engine.precision import choose_dtype
from ranking_det.engine.schedule import Schedule
from ranking_det.files import partial_path, rename_whole
from ranking_det.user_errors import UserError

# What a field of a schedule is called in the config.
FIELDS = {
    "max_iter": "train.max_iter",
    "epoch": "train.iterations_per_epoch",
    "lr": "optimizer.lr",
    "checkpoint_period": "train.checkpointer.period",
    "eval_period": "train.eval_period",
}


class LazyExperiment(Experiment):
    """Of a file that defines model, dataloader, optimizer, lr_multiplier and train."""

    keys = Keys(
        output_dir="train.output_dir",
        weights="train.init_checkpoint",
        device="train.device",
        max_iter="train.max_iter",
        classes="model.num_classes",
        train_names="dataloader.train.dataset.names",
        test_names="dataloader.test.dataset.names",
        tta="train.tta",
    )

    def __init__(self, path: str, overrides: Sequence[str], *, trust: bool = False) -> None:
        self.cfg = load_lazy_config(path, overrides, trust=trust)
        self.overridden = {override.partition("=")[0] for override in overrides}
        self.keys = self.keys._replace(train_names=f"{self._source('train')}.names")
        if "num_classes" not in self.cfg.model and "roi_heads" in self.cfg.model:
            self.keys = self.keys._replace(classes="model.roi_heads.num_classes")

    def settings(self) -> Settings:
        """What ``train`` says, a config of one's own perhaps less than the project's."""
        train = self.cfg.train
        tta = dict(train.get("tta") or {})
        return Settings(
            output_dir=train.output_dir,
            weights=train.init_checkpoint,
            device=train.device,
            seed=train.get("seed", 0),
            cudnn_benchmark=train.get("cudnn_benchmark", False),
            batch=self._select("dataloader.train.total_batch_size") or 0,
            reference_batch=train.get("reference_batch", 0),
            epochs=train.get("epochs", 0),
            log_period=train.log_period,
            max_to_keep=train.checkpointer.get("max_to_keep"),
            amp=choose_dtype(train.get("amp") or {}, train.device),
            # Processes evaluate different numbers of images, in which buffers cannot be shared.
            ddp={**(train.get("ddp") or {}), "broadcast_buffers": False},
            tta=tta if tta.pop("enabled", False) else None,
            num_classes=self._select(self.keys.classes),
        )

    def schedule(self) -> tuple[Schedule, Collection[str]]:
        """See :class:`Experiment`."""
        written = Schedule(*(self._select(key) or 0 for key in FIELDS.values()))
        fixed = [name for name, key in FIELDS.items() if key in self.overridden]
        epochs = self.cfg.train.get("epochs", 0) * written.epoch
        if epochs and written.max_iter != round(epochs) and "train.epochs" not in self.overridden:
            fixed.append("max_iter")  # a config of the user's own, which sets only this
        return written, fixed

    def set_schedule(self, schedule: Schedule) -> None:
        """See :class:`Experiment`."""
        for key, value in zip(FIELDS.values(), schedule, strict=True):
            OmegaConf.update(self.cfg, key, value)
        # What is saved is not to be scaled again.
        if self.cfg.train.get("reference_batch"):
            self.cfg.train.reference_batch = self.settings().batch

    def names(self, split: str) -> list[str]:
        """See :class:`Experiment`."""
        names = self._select(f"{self._source(split)}.names")
        return [names] if isinstance(names, str) else list(names or [])

    def test_sets(self) -> list[str]:
        """The loader's; an evaluator has one, whose name may be known to it alone."""
        return self.names("test")[:1] or [""]

    def set_data(
        self, train: str | None, test: str | None, num_classes: int, *, keep_empty: bool
    ) -> None:
        """See :class:`Experiment`."""
        for split, name in (("train", train), ("test", test)):
            if name is not None:
                if not self.names(split):
                    raise UserError(f"dataloader.{split} has no dataset.names to set")
                OmegaConf.update(self.cfg, f"{self._source(split)}.names", name)
        if keep_empty:
            OmegaConf.update(self.cfg, f"{self._source('train')}.filter_empty", False)
        if self._select(self.keys.classes) is None:
            raise UserError("model has no num_classes to set")
        OmegaConf.update(self.cfg, self.keys.classes, num_classes)

    def learns_masks(self) -> bool:
        """See :class:`Experiment`."""
        heads = ("model.roi_heads.mask_head", "model.roi_heads.mask_heads")
        return any(self._select(key) is not None for key in heads)

    def model(self) -> nn.Module:
        """See :class:`Experiment`."""
        model: nn.Module = build(self.cfg.model, "model")
        return model.to(self.cfg.train.device)

    def records(self) -> list[dict[str, Any]] | None:
        """See :class:`Experiment`."""
        if not self.names("train"):
            return None
        return list(build(self.cfg.dataloader.train.dataset, "dataloader.train.dataset"))

    def mapper(self, split: str) -> Callable[[dict[str, Any]], Any]:
        """See :class:`Experiment`; errors name the image."""
        return NamedErrors(build(self.cfg.dataloader[split].mapper, f"dataloader.{split}.mapper"))

    def train_loader(self, records: list[dict[str, Any]] | None, start_iter: int) -> Any:
        """See :class:`Experiment`."""
        return self._loader("train", records, start_iter=start_iter)

    def test_loader(self, name: str) -> Any:
        """See :class:`Experiment`."""
        return self._loader("test", None)

    def _loader(self, split: str, records: list[dict[str, Any]] | None, **arguments: Any) -> Any:
        node = {str(key): self.cfg.dataloader[split][key] for key in self.cfg.dataloader[split]}
        if "mapper" in node:
            node["mapper"] = self.mapper(split)
        if records is not None:
            node["dataset"] = records
        target = target_of(self.cfg.dataloader[split])
        accepted = parameters(target) if target is not None else None
        node.update({key: value for key, value in arguments.items() if key in (accepted or ())})
        return build(node, f"dataloader.{split}")

    def evaluator(self, name: str) -> Any:
        """See :class:`Experiment`."""
        return build(self.cfg.dataloader.evaluator, "dataloader.evaluator")

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """See :class:`Experiment`."""
        self.cfg.optimizer.params.model = model
        try:
            optimizer: torch.optim.Optimizer = build(self.cfg.optimizer, "optimizer")
        finally:
            self.cfg.optimizer.params.model = None  # not a part of the config to be saved
        return optimizer

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        """See :class:`Experiment`."""
        return build(self.cfg.lr_multiplier, "lr_multiplier")

    def save(self, path: str) -> None:
        """See :class:`Experiment`."""
        partial = partial_path(Path(path))
        LazyConfig.save(self.cfg, str(partial))
        rename_whole(partial, Path(path))
        pickled = Path(f"{partial}.pkl")  # of a config that yaml cannot hold
        if pickled.is_file():
            rename_whole(pickled, Path(f"{path}.pkl"))

    def _source(self, split: str) -> str:
        """The key of the node that names the data sets, in whatever repeats their images."""
        key = f"dataloader.{split}.dataset"
        while self._select(f"{key}.names") is None and self._select(f"{key}.dataset") is not None:
            key += ".dataset"
        return key

    def _select(self, key: str) -> Any:
        return OmegaConf.select(self.cfg, key)
