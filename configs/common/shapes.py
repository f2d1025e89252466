"""Data loaders, optimizer and schedule for the shapes data set: minutes of training on a CPU."""

import detectron2.data.transforms as T
import torch
from detectron2.config import LazyCall as L
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.solver.build import get_default_optimizer_params
from fvcore.common.param_scheduler import CosineParamScheduler
from omegaconf import DictConfig, OmegaConf

from ranking_det.data.mapper import BoxMapper
from ranking_det.data.shapes import CATEGORIES
from ranking_det.data.stream import build_train_loader
from ranking_det.evaluation import DetectionEvaluator
from ranking_det.solver import warm_up

from .models.backbones import resnet_18_half
from .train import train


def build_dataloader(size: int, *, masks: bool = False) -> DictConfig:
    """Build the data loaders for images of ``size`` pixels, and the evaluator.

    Args:
        size: length of the longer side.
        masks: whether the training loader gives the masks of the objects.
    """
    dataloader = OmegaConf.create()
    dataloader.train = L(build_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="shapes_train"),
        mapper=L(DatasetMapper)(
            is_train=True,
            augmentations=[
                L(T.ResizeShortestEdge)(short_edge_length=size, max_size=size),
                L(T.RandomFlip)(),
            ],
            image_format="RGB",
        ),
        total_batch_size=8,
        num_workers=0,
        seed="${train.seed}",
    )
    if masks:
        augmentations = dataloader.train.mapper.augmentations
        dataloader.train.mapper = L(BoxMapper)(
            augmentations=augmentations, image_format="RGB", masks=True
        )
    dataloader.test = L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="shapes_val", filter_empty=False),
        mapper=L(DatasetMapper)(
            is_train=False,
            augmentations=[L(T.ResizeShortestEdge)(short_edge_length=size, max_size=size)],
            image_format="RGB",
        ),
        num_workers=0,
    )
    dataloader.evaluator = L(DetectionEvaluator)(
        dataset_name="${..test.dataset.names}", output_dir="${train.output_dir}"
    )
    return dataloader


def schedule(iterations: int, scheduler: DictConfig | None = None) -> DictConfig:
    """Warm up for ``iterations``, then follow a half cosine or the given scheduler."""
    if scheduler is None:
        scheduler = L(CosineParamScheduler)(start_value=1.0, end_value=0.0)
    return L(warm_up)(
        scheduler=scheduler, factor=0.01, iterations=iterations, max_iter="${train.max_iter}"
    )


def length(epochs: float) -> dict[str, float]:
    """Return the entries of ``train`` for ``epochs`` of 1,000 images; evaluate at the end."""
    max_iter = round(epochs * 125)
    return {"epochs": epochs, "max_iter": max_iter, "eval_period": max_iter}


def fit_to_shapes(model: DictConfig) -> DictConfig:
    """Fit a dense detector to the shapes: half-width ResNet-18, group normalization, 12 classes."""
    model.backbone.bottom_up = resnet_18_half(first=3)
    model.backbone.top_block.in_channels = model.backbone.bottom_up.stages[-1].out_channels
    model.head.norm = "GN"
    model.num_classes = NUM_CLASSES
    return model


NUM_CLASSES = len(CATEGORIES["shapes"])

optimizer = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(weight_decay_norm=0.0),
    lr=2e-3,
    weight_decay=1e-4,
)

train.reference_batch = 8
train.iterations_per_epoch = 125  # 1,000 images
