"""What a process does before it trains or evaluates: log to the output folder, and seed itself."""

from __future__ import annotations

import argparse
import logging

import torch
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from ranking_det.engine.experiment import Settings

logger = logging.getLogger(__name__)


def set_up(settings: Settings, args: argparse.Namespace) -> None:
    """Do what Detectron2's ``default_setup`` does, but write no config.

    An evaluation in the folder of a training must leave the config of the training there.

    Args:
        settings: of the config.
        args: of the command line.
    """
    rank = comm.get_rank()
    for name in ("fvcore", "detectron2", "ranking_det"):
        setup_logger(settings.output_dir, distributed_rank=rank, name=name)
    logger.info("Process %d of %d", rank, comm.get_world_size())
    logger.info("Environment:\n%s", collect_env_info())
    logger.info("Command line: %s", args)
    seed_all_rng(None if settings.seed < 0 else settings.seed + rank)
    # It costs more than it saves in a short evaluation of images of many sizes.
    if not args.eval_only:
        torch.backends.cudnn.benchmark = settings.cudnn_benchmark
