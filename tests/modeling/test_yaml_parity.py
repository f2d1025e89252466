import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling import build_model

from ranking_det.engine.yaml_config import load_yaml_config
from tests.modeling.conftest import CONFIGS, make_batch


@pytest.mark.parametrize("name", ["retinanet", "fcos"])
def test_the_yaml_twin_builds_the_model_of_the_lazyconfig(name):
    cfg = LazyConfig.load(str(CONFIGS / "common" / f"{name}_r18.py")).model
    cfg.num_classes = 12
    lazy = instantiate(cfg)
    file = {"retinanet": "retinanet_atss_rs.yaml", "fcos": "fcos_fcos_rs.yaml"}[name]
    yaml_cfg = load_yaml_config(str(CONFIGS / "shapes" / file), ["MODEL.DEVICE", "cpu"])
    twin = build_model(yaml_cfg)
    assert str(twin) == str(lazy)
    twin.load_state_dict(lazy.state_dict(), strict=True)
    batch = make_batch((3, 0, 5))
    # The yaml's anchor sizes are rounded to a thousandth of a pixel.
    torch.testing.assert_close(twin(batch), lazy(batch), rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        found = [model.eval()(batch)[0]["instances"] for model in (twin, lazy)]
    torch.testing.assert_close(found[0].scores, found[1].scores, rtol=1e-3, atol=1e-5)
    assert len(found[0]) == len(found[1]) > 0
