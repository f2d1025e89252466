"""The shapes data set and the schedule that trains on it in minutes on a CPU."""

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
from omegaconf import OmegaConf

from ranking_det.data.shapes import categories_of
from ranking_det.data.stream import build_train_loader
from ranking_det.engine.schedule import warm_up
from ranking_det.evaluation import DetectionEvaluator

from .train import train

dataloader = OmegaConf.create()

dataloader.train = L(build_train_loader)(
    dataset=L(get_detection_dataset_dicts)(names="shapes_train"),
    mapper=L(DatasetMapper)(
        is_train=True,
        augmentations=[
            L(T.ResizeShortestEdge)(short_edge_length=160, max_size=160),
            L(T.RandomFlip)(),
        ],
        image_format="RGB",
    ),
    total_batch_size=8,
    num_workers=0,
    seed="${train.seed}",
)

dataloader.test = L(build_detection_test_loader)(
    dataset=L(get_detection_dataset_dicts)(names="shapes_val", filter_empty=False),
    mapper=L(DatasetMapper)(
        is_train=False,
        augmentations=[L(T.ResizeShortestEdge)(short_edge_length=160, max_size=160)],
        image_format="RGB",
    ),
    num_workers=0,
)

dataloader.evaluator = L(DetectionEvaluator)(
    dataset_name="${..test.dataset.names}", output_dir="${train.output_dir}"
)

optimizer = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(weight_decay_norm=0.0),
    lr=2e-3,
    weight_decay=1e-4,
)

lr_multiplier = L(warm_up)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.0),
    factor=0.01,
    iterations=75,
    max_iter="${train.max_iter}",
)

NUM_CLASSES = len(categories_of("shapes"))

train.reference_batch = 8
train.iterations_per_epoch = 125  # 1,000 images
