import pickle

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.layers import FrozenBatchNorm2d, get_norm
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from torch import nn

from ranking_det.modeling.backbones.backbone_parts import ExtraLevels, FrozenStatisticsBatchNorm2d


def resnet(norm=FrozenStatisticsBatchNorm2d, freeze_at=2):
    torch.manual_seed(0)
    return ResNet(
        BasicStem(norm=norm),
        ResNet.make_default_stages(18, norm=norm),
        out_features=["res3", "res4", "res5"],
        freeze_at=freeze_at,
    )


def test_running_statistics_are_frozen_while_weight_and_bias_train():
    norm = get_norm(FrozenStatisticsBatchNorm2d, 4)
    norm.running_mean.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0]))
    norm.running_var.copy_(torch.tensor([1.0, 4.0, 9.0, 16.0]))
    before = {name: value.clone() for name, value in norm.named_buffers()}
    model = nn.Sequential(norm)
    model.train()
    x = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    features = model(x)
    mean, deviation = before["running_mean"], (before["running_var"] + norm.eps).sqrt()
    expected = (x - mean[:, None, None]) / deviation[:, None, None]
    torch.testing.assert_close(features, expected)
    features.square().sum().backward()
    assert norm.weight.grad.abs().sum() > 0 and norm.bias.grad.abs().sum() > 0
    for name, value in norm.named_buffers():
        assert torch.equal(value, before[name]), name
    assert model.training and not norm.training


def test_the_state_dict_has_the_keys_and_shapes_of_a_batch_norm():
    state, batch_norm_state = (
        FrozenStatisticsBatchNorm2d(4).state_dict(),
        nn.BatchNorm2d(4).state_dict(),
    )
    assert {k: v.shape for k, v in state.items()} == {
        k: v.shape for k, v in batch_norm_state.items()
    }


def test_freeze_at_2_freezes_the_stem_and_res2_completely():
    model = resnet().train()
    for name, module in model.named_modules():
        frozen = name.startswith(("stem", "res2"))
        if isinstance(module, (FrozenStatisticsBatchNorm2d, FrozenBatchNorm2d)):
            assert isinstance(module, FrozenBatchNorm2d) == frozen, name
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (not name.startswith(("stem", "res2"))), name
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "res3.0.conv1.norm.weight" in trainable and "res5.1.conv2.norm.bias" in trainable


def test_checkpoints_in_the_format_of_detectron2s_model_zoo_can_be_loaded(tmp_path):
    """Detectron2's conversion of torchvision's ResNets has arrays and no num_batches_tracked."""
    source = resnet("BN", freeze_at=0)
    for module in source.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight.data, module.bias.data, module.running_mean):
                value.normal_()
            module.running_var.uniform_(0.5, 2.0)
    arrays = {k: v.numpy() for k, v in source.state_dict().items() if "num_batches" not in k}
    assert all(isinstance(v, np.ndarray) for v in arrays.values())
    path = tmp_path / "R-18.pkl"
    path.write_bytes(
        pickle.dumps({"model": arrays, "__author__": "torchvision", "matching_heuristics": True})
    )
    model = FPN(resnet(), ["res3", "res4", "res5"], 8)
    DetectionCheckpointer(model).load(str(path))
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model.train()
    for name, feature in source.eval()(x).items():
        torch.testing.assert_close(model.bottom_up(x)[name], feature, msg=name)


@pytest.mark.parametrize("in_feature", ["res5", "p5"])
def test_extra_levels_with_relu_equal_those_of_detectron2(in_feature):
    channels = 512 if in_feature == "res5" else 8
    torch.manual_seed(0)
    reference = LastLevelP6P7(channels, 8, in_feature)
    torch.manual_seed(0)
    levels = ExtraLevels(channels, 8, in_feature, relu=True)
    for name, value in reference.state_dict().items():
        assert torch.equal(value, levels.state_dict()[name]), name
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    bottom_up = resnet()
    outputs = []
    for top_block in (reference, levels):
        torch.manual_seed(1)
        fpn = FPN(bottom_up, ["res3", "res4", "res5"], 8, top_block=top_block)
        outputs.append(fpn(x))
    assert list(outputs[0]) == ["p3", "p4", "p5", "p6", "p7"]
    for name, feature in outputs[0].items():
        assert torch.equal(feature, outputs[1][name]), name


def test_p7_depends_on_the_negative_values_of_p6_without_relu():
    levels = ExtraLevels(8, 8)
    p6, p7 = levels(torch.randn(1, 8, 9, 6, generator=torch.Generator().manual_seed(0)))
    assert p6.shape == (1, 8, 5, 3) and p7.shape == (1, 8, 3, 2)
    assert torch.equal(p7, levels.p7(p6))
    assert not torch.allclose(p7, levels.p7(p6.relu()))
