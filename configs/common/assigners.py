"""Assigners with the settings of a paper that differ from the defaults."""

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from ranking_det.assigners import PAA


def paa_rank_sort() -> DictConfig:
    """PAA with the settings of RS-PAA (Oksuz et al., ICCV 2021).

    The defaults of ``PAA`` come from Kim and Lee, ECCV 2020.
    """
    return L(PAA)(
        topk=9,
        min_iou=0.1,
        single_candidate="none",
        box_weight=1.0,
        low_quality="object",
        empty_component="none",
        reg_covar=1e-5,
    )
