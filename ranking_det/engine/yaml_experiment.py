"""A yaml config as the engine sees it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.samplers import TrainingSampler
from detectron2.engine import hooks
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from torch import nn

from ranking_det.data.mapper import BoxMapper, NamedErrors
from ranking_det.data.repeat import repeat_rare
from ranking_det.data.stream import RecordList
from ranking_det.engine.errors import build
from ranking_det.engine.experiment import Experiment, Keys, Settings
from ranking_det.engine.precision import choose_dtype
from ranking_det.engine.schedule import Schedule
from ranking_det.engine.yaml_config import load_yaml_config, split_overrides
from ranking_det.evaluation import DetectionEvaluator
from ranking_det.files import write_whole
from ranking_det.user_errors import UserError

# What a field of a schedule is called in the config.
FIELDS = {
    "max_iter": "SOLVER.MAX_ITER",
    "lr": "SOLVER.BASE_LR",
    "checkpoint_period": "SOLVER.CHECKPOINT_PERIOD",
    "eval_period": "TEST.EVAL_PERIOD",
}


class YamlExperiment(Experiment):
    """Of Detectron2's keys and the project's, with the loaders and solvers of Detectron2."""

    keys = Keys(
        output_dir="OUTPUT_DIR",
        weights="MODEL.WEIGHTS",
        device="MODEL.DEVICE",
        max_iter="SOLVER.MAX_ITER",
        classes="MODEL.RETINANET.NUM_CLASSES",
        train_names="DATASETS.TRAIN",
        test_names="DATASETS.TEST",
        tta="TEST.AUG",
    )

    def __init__(self, path: str, overrides: Sequence[str], *, trust: bool = False) -> None:
        self.cfg = load_yaml_config(path, overrides, trust=trust)
        self.overridden = {key for key, _ in split_overrides(overrides)}
        if self.cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN":
            self.keys = self.keys._replace(classes="MODEL.ROI_HEADS.NUM_CLASSES")

    def settings(self) -> Settings:
        """See :class:`Experiment`."""
        cfg, aug = self.cfg, self.cfg.TEST.AUG
        tta = {"min_sizes": aug.MIN_SIZES, "max_size": aug.MAX_SIZE, "flip": aug.FLIP}
        # Only the model knows the key of another one's classes.
        classes = {
            "RankingRetinaNet": cfg.MODEL.RETINANET,
            "RankingFCOS": cfg.MODEL.RETINANET,
            "GeneralizedRCNN": cfg.MODEL.ROI_HEADS,
        }.get(cfg.MODEL.META_ARCHITECTURE)
        return Settings(
            output_dir=cfg.OUTPUT_DIR,
            weights=cfg.MODEL.WEIGHTS,
            device=cfg.MODEL.DEVICE,
            seed=cfg.SEED,
            cudnn_benchmark=cfg.CUDNN_BENCHMARK,
            batch=cfg.SOLVER.IMS_PER_BATCH,
            reference_batch=cfg.SOLVER.REFERENCE_BATCH,
            epochs=cfg.SOLVER.EPOCHS,
            log_period=20,
            max_to_keep=None,
            amp=choose_dtype({"enabled": cfg.SOLVER.AMP.ENABLED}, cfg.MODEL.DEVICE),
            ddp={"broadcast_buffers": False},
            tta=tta if aug.ENABLED else None,
            num_classes=None if classes is None else int(classes.NUM_CLASSES),
        )

    def schedule(self) -> tuple[Schedule, Collection[str]]:
        """See :class:`Experiment`."""
        cfg = self.cfg
        written = Schedule(
            cfg.SOLVER.MAX_ITER,
            0,
            cfg.SOLVER.BASE_LR,
            cfg.SOLVER.CHECKPOINT_PERIOD,
            cfg.TEST.EVAL_PERIOD,
        )
        return written, [name for name, key in FIELDS.items() if key in self.overridden]

    def set_schedule(self, schedule: Schedule) -> None:
        """See :class:`Experiment`.

        The steps of the rate keep their share of the whole, and the warm-up takes a third at most.
        """
        share = schedule.max_iter / self.cfg.SOLVER.MAX_ITER
        self.cfg.defrost()
        if "SOLVER.STEPS" not in self.overridden:
            steps = {round(step * share) for step in self.cfg.SOLVER.STEPS}
            kept = sorted(step for step in steps if 0 < step < schedule.max_iter)
            self.cfg.SOLVER.STEPS = tuple(kept)
        if "SOLVER.WARMUP_ITERS" not in self.overridden:
            longest = max(1, schedule.max_iter // 3)
            self.cfg.SOLVER.WARMUP_ITERS = min(self.cfg.SOLVER.WARMUP_ITERS, longest)
        for name, key in FIELDS.items():
            self.cfg.merge_from_list([key, getattr(schedule, name)])
        # What is saved is not to be scaled again.
        if self.cfg.SOLVER.REFERENCE_BATCH:
            self.cfg.SOLVER.REFERENCE_BATCH = self.cfg.SOLVER.IMS_PER_BATCH
        self.cfg.freeze()

    def names(self, split: str) -> list[str]:
        """See :class:`Experiment`."""
        return list(self.cfg.DATASETS.TRAIN if split == "train" else self.cfg.DATASETS.TEST)

    def test_sets(self) -> list[str]:
        """All of DATASETS.TEST."""
        return self.names("test")

    def set_data(
        self, train: str | None, test: str | None, num_classes: int, *, keep_empty: bool
    ) -> None:
        """See :class:`Experiment`."""
        self.cfg.defrost()
        if train is not None:
            self.cfg.DATASETS.TRAIN = (train,)
        if test is not None:
            self.cfg.DATASETS.TEST = (test,)
        if keep_empty:
            self.cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
        self.cfg.MODEL.RETINANET.NUM_CLASSES = num_classes
        self.cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
        self.cfg.freeze()

    def learns_masks(self) -> bool:
        """See :class:`Experiment`."""
        model = self.cfg.MODEL
        return model.META_ARCHITECTURE == "GeneralizedRCNN" and bool(model.MASK_ON)

    def model(self) -> nn.Module:
        """See :class:`Experiment`."""
        model: nn.Module = build({"_target_": partial(build_model, self.cfg)}, "MODEL")
        return model

    def records(self) -> list[dict[str, Any]] | None:
        """See :class:`Experiment`."""
        node = {
            "_target_": get_detection_dataset_dicts,
            "names": list(self.cfg.DATASETS.TRAIN),
            "filter_empty": self.cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        }
        if self._repeats:
            own = self.cfg.DATALOADER
            if not own.get("REPEAT_SQRT", True):  # Detectron2 0.6 has no such key
                raise UserError("DATALOADER.REPEAT_SQRT must be True, as in the paper of LVIS")
            if own.REPEAT_THRESHOLD <= 0:
                raise UserError(
                    "DATALOADER.REPEAT_THRESHOLD must be above 0 to repeat images (LVIS: 0.001), "
                    f"got {own.REPEAT_THRESHOLD}"
                )
            node = {"_target_": repeat_rare, "dataset": node, "threshold": own.REPEAT_THRESHOLD}
        return list(build(node, "DATASETS.TRAIN"))

    def mapper(self, split: str) -> Callable[[dict[str, Any]], Any]:
        """See :class:`Experiment`; errors name the image."""
        if split == "test" or not self.learns_masks():
            return NamedErrors(DatasetMapper(self.cfg, is_train=split == "train"))
        # Masks may be of several forms, or missing, at which Detectron2's mapper fails.
        theirs = DatasetMapper.from_config(self.cfg, is_train=True)
        taken = {name: theirs[name] for name in ("augmentations", "image_format")}
        return NamedErrors(BoxMapper(**taken, masks=True))

    def train_loader(self, records: list[dict[str, Any]] | None, start_iter: int) -> Any:
        """See :class:`Experiment`; Detectron2's loader begins its order of images anew."""
        records = self.records() or [] if records is None else records
        # The records are repeated already, and Detectron2 would do it again.
        sampler = TrainingSampler(len(records)) if self._repeats else None
        return build_detection_train_loader(
            self.cfg, mapper=self.mapper("train"), dataset=RecordList(records), sampler=sampler
        )

    @property
    def _repeats(self) -> bool:
        """Whether images of rare classes are repeated, by this project's function."""
        return self.cfg.DATALOADER.SAMPLER_TRAIN == "RepeatFactorTrainingSampler"

    def test_loader(self, name: str) -> Any:
        """See :class:`Experiment`."""
        # On the config it is no function of keywords alone, as a LazyConfig's node has it.
        loader = partial(build_detection_test_loader, self.cfg, name, mapper=self.mapper("test"))
        return build({"_target_": loader}, "DATASETS.TEST")

    def evaluator(self, name: str) -> Any:
        """COCO's metrics or LVIS's, as the set is, of as many detections as the model keeps."""
        kept, folder = self.cfg.TEST.DETECTIONS_PER_IMAGE, self.cfg.OUTPUT_DIR
        node = {
            "_target_": DetectionEvaluator,
            "dataset_name": name,
            # The names of the files have the rules only.
            "output_dir": folder if len(self.test_sets()) == 1 else str(Path(folder, name)),
        }
        # COCO's own number is 100, also for a model that keeps fewer; LVIS's is 300.
        return build(node | {"max_dets_per_image": kept if kept > 100 else None}, "DATASETS.TEST")

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """See :class:`Experiment`."""
        return build_optimizer(self.cfg, model)

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        """See :class:`Experiment`."""
        return build_lr_scheduler(self.cfg, optimizer)

    def hooks(self, model: nn.Module) -> list[Any]:
        """Exact statistics of batch norms, where TEST.PRECISE_BN asks for them."""
        node = self.cfg.TEST.PRECISE_BN
        if not node.ENABLED:
            return []
        return [
            hooks.PreciseBN(
                self.cfg.TEST.EVAL_PERIOD, model, self.train_loader(None, 0), node.NUM_ITER
            )
        ]

    def save(self, path: str) -> None:
        """See :class:`Experiment`."""
        write_whole(Path(path), self.cfg.dump())
