"""The neck of the papers' "+" detectors: an FPN with CARAFE (Wang et al., ICCV 2019)."""

from copy import deepcopy

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from ranking_det.modeling import CARAFEFPN


def with_carafe(model: DictConfig) -> DictConfig:
    """The same R-CNN on another neck, which has a p6 of its own."""
    plus, own = deepcopy(model), model.backbone
    plus.backbone = L(CARAFEFPN)(
        bottom_up=own.bottom_up, in_features=own.in_features, out_channels=own.out_channels
    )
    return plus
