import pytest
import torch
from detectron2.config import instantiate

from tests.modeling.cases import load


@pytest.fixture
def build():
    """Return a function that builds the model of a shapes config, always with the same weights."""

    def _build(name="retinanet_atss_rs.py", **changes):
        cfg = load(name).model
        for key, value in changes.items():
            cfg[key] = value
        torch.manual_seed(0)
        return instantiate(cfg)

    return _build
