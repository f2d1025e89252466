"""Convert weights of other libraries: the names of layers and the order of rows."""

import itertools
import pathlib
import re

import convert_weights
import pytest
import torch
from convert_weights import BACKBONE, compare, convert, main
from detectron2.config import instantiate
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock
from torchvision.models import resnet

from ranking_det.engine.checkpoint import load_weights
from ranking_det.layers import deform_convolutions
from ranking_det.user_errors import UserError
from tests.modeling.cases import CONFIGS, load

CONFIG = f"""
from detectron2.config import LazyConfig

_quick = LazyConfig.load("{CONFIGS}/shapes/quick/mask_ce.py")
model, dataloader, optimizer = _quick.model, _quick.dataloader, _quick.optimizer
lr_multiplier, train = _quick.lr_multiplier, _quick.train
model.backbone.norm = ""
"""
BLOCK = {
    "conv1": "conv1",
    "bn1": "conv1.norm",
    "conv2": "conv2",
    "bn2": "conv2.norm",
    "downsample.0": "shortcut",
    "downsample.1": "shortcut.norm",
}
FPN = {
    **{f"neck.lateral_convs.{i}.conv": f"backbone.fpn_lateral{i + 3}" for i in range(3)},
    **{f"neck.fpn_convs.{i}.conv": f"backbone.fpn_output{i + 3}" for i in range(3)},
    "neck.fpn_convs.3.conv": "backbone.top_block.p6",
    "neck.fpn_convs.4.conv": "backbone.top_block.p7",
}
RETINANET = {
    "bbox_head.cls_convs.0.conv": "head.cls_subnet.0",
    "bbox_head.cls_convs.1.conv": "head.cls_subnet.2",
    "bbox_head.reg_convs.0.conv": "head.bbox_subnet.0",
    "bbox_head.reg_convs.1.conv": "head.bbox_subnet.2",
    "bbox_head.retina_cls": "head.cls_score",
    "bbox_head.retina_reg": "head.bbox_pred",
}
ATSS = {
    "bbox_head.cls_convs.0.conv": "head.cls_subnet.0",
    "bbox_head.cls_convs.0.gn": "head.cls_subnet.1",
    "bbox_head.cls_convs.1.conv": "head.cls_subnet.3",
    "bbox_head.cls_convs.1.gn": "head.cls_subnet.4",
    "bbox_head.reg_convs.0.conv": "head.bbox_subnet.0",
    "bbox_head.reg_convs.0.gn": "head.bbox_subnet.1",
    "bbox_head.reg_convs.1.conv": "head.bbox_subnet.3",
    "bbox_head.reg_convs.1.gn": "head.bbox_subnet.4",
    "bbox_head.atss_cls": "head.cls_score",
    "bbox_head.atss_reg": "head.bbox_pred",
    "bbox_head.atss_centerness": "head.branch",
}
RCNN_FPN = {
    f"neck.{source_layer}.{i}.conv": f"backbone.{layer}{i + 2}"
    for i in range(4)
    for source_layer, layer in (("lateral_convs", "fpn_lateral"), ("fpn_convs", "fpn_output"))
}
FASTER = {
    "rpn_head.rpn_conv": "proposal_generator.rpn_head.conv",
    "rpn_head.rpn_cls": "proposal_generator.rpn_head.objectness_logits",
    "rpn_head.rpn_reg": "proposal_generator.rpn_head.anchor_deltas",
    "roi_head.bbox_head.shared_fcs.0": "roi_heads.box_head.fc1",
    "roi_head.bbox_head.shared_fcs.1": "roi_heads.box_head.fc2",
    "roi_head.bbox_head.fc_cls": "roi_heads.box_predictor.cls_score",
    "roi_head.bbox_head.fc_reg": "roi_heads.box_predictor.bbox_pred",
}
MASKS = {
    "roi_head.mask_head.convs.0.conv": "roi_heads.mask_head.mask_fcn1",
    "roi_head.mask_head.convs.1.conv": "roi_heads.mask_head.mask_fcn2",
    "roi_head.mask_head.upsample": "roi_heads.mask_head.deconv",
    "roi_head.mask_head.conv_logits": "roi_heads.mask_head.predictor",
}


def randomized(model):
    """Give a model random weights, so that all its tensors differ."""
    torch.manual_seed(0)
    state = {
        name: torch.rand_like(tensor) if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model


def named_as_mmdetection(model, *tables):
    """Return the state dict of a detector on ResNet-18 under mmdetection's names."""
    names = {f"{BACKBONE}.stem.conv1": "conv1", f"{BACKBONE}.stem.conv1.norm": "bn1"}
    for stage, block in itertools.product(range(1, 5), range(2)):
        for source_layer, layer in BLOCK.items():
            names[f"{BACKBONE}.res{stage + 1}.{block}.{layer}"] = (
                f"layer{stage}.{block}.{source_layer}"
            )
    names = {layer: f"backbone.{source_layer}" for layer, source_layer in names.items()}
    names |= {layer: source_layer for table in tables for source_layer, layer in table.items()}
    result = {}
    for name, tensor in model.state_dict().items():
        module, _, parameter = name.rpartition(".")
        if module in names:
            result[f"{names[module]}.{parameter}"] = tensor
    return result


def add_background(tensors):
    """Give the class layer of a Faster R-CNN a row for background, without changing the softmax."""
    for parameter in ("weight", "bias"):
        name = f"roi_head.bbox_head.fc_cls.{parameter}"
        background = torch.ones_like(tensors[name][:1])
        tensors[name] = torch.cat([tensors[name] + background, background])


def without_counters(state):
    return {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}


def assert_same(weights, model):
    expected = without_counters(model.state_dict())
    expected = {name: t for name, t in expected.items() if not name.startswith("criterion.")}
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(weights[name], tensor, atol=1e-6), name


def build(name, **head):
    """Build a quick config's model without norms in the FPN, because mmdetection's has none."""
    node = load(f"quick/{name}.py").model
    node.backbone.norm = ""
    for key, value in head.items():
        node.head[key] = value
    return randomized(instantiate(node))


@pytest.fixture(scope="module")
def mask_rcnn():
    return build("mask_ce")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "mask_ce.py"
    path.write_text(CONFIG)
    return str(path)


@pytest.fixture
def mask_tensors(mask_rcnn):
    tensors = named_as_mmdetection(mask_rcnn, RCNN_FPN, FASTER, MASKS)
    add_background(tensors)
    return tensors


@pytest.fixture
def source(mask_tensors, tmp_path):
    path = tmp_path / "mask_rcnn.pth"
    config = (
        "model = dict(backbone=dict(style='pytorch'), bbox_coder=dict(target_stds=[0.1,\n 0.2]))"
    )
    meta = {"mmdet_version": "2.8.0", "config": config}
    torch.save({"meta": meta, "state_dict": mask_tensors}, path)
    return path


@pytest.mark.parametrize(
    "block, block_class, groups, width",
    [(resnet.BasicBlock, BasicBlock, 1, 64), (resnet.Bottleneck, BottleneckBlock, 4, 8)],
    ids=["ResNet", "ResNeXt"],
)
def test_features_agree_with_torchvision_on_the_same_weights(block, block_class, groups, width):
    torchvision_model = randomized(
        resnet.ResNet(block, [2] * 4, groups=groups, width_per_group=width)
    ).eval()
    expansion, stages, channels = block.expansion, [], 64
    for i in range(4):
        options = {}
        if expansion > 1:
            inner = groups * width * 2**i
            options = {"bottleneck_channels": inner, "num_groups": groups, "stride_in_1x1": False}
        stages.append(
            ResNet.make_stage(
                block_class,
                2,
                stride_per_block=[1 if i == 0 else 2, 1],
                in_channels=channels,
                out_channels=expansion * 64 * 2**i,
                norm="BN",
                **options,
            )
        )
        channels = expansion * 64 * 2**i
    names = [f"res{i}" for i in range(2, 6)]
    network = ResNet(BasicStem(norm="BN"), stages, out_features=names).eval()
    conversion = convert(torchvision_model.state_dict())
    assert conversion.kind == "ResNet or ResNeXt"
    assert conversion.unmapped == ["fc.weight", "fc.bias"]
    weights = conversion.weights.items()
    network.load_state_dict({name.removeprefix(f"{BACKBONE}."): t for name, t in weights})
    features = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        outputs = network(features)
        features = torchvision_model.maxpool(
            torchvision_model.relu(torchvision_model.bn1(torchvision_model.conv1(features)))
        )
        for i in range(4):
            features = getattr(torchvision_model, f"layer{i + 1}")(features)
            assert torch.allclose(outputs[f"res{i + 2}"], features, rtol=1e-4)


def test_all_weights_of_mmdetections_retinanet_are_converted():
    model = build("retinanet_maxiou_rs", norm="")
    conversion = convert(named_as_mmdetection(model, FPN, RETINANET))
    assert conversion.kind == "RetinaNet of mmdetection" and not conversion.unmapped
    assert_same(conversion.weights, model)


def test_all_weights_of_mmdetections_atss_are_converted():
    model = build("retinanet_paa_focal", norm="GN", num_scales=5)
    tensors = named_as_mmdetection(model, FPN, ATSS)
    for level, factor in enumerate(model.head.scales):
        tensors[f"bbox_head.scales.{level}.scale"] = factor.detach()
    conversion = convert(tensors)
    assert conversion.kind == "ATSS or PAA of mmdetection" and not conversion.unmapped
    assert_same(conversion.weights, model)


def test_all_weights_of_mmdetections_mask_rcnn_are_converted(mask_rcnn, mask_tensors):
    conversion = convert(mask_tensors)
    assert conversion.kind == "Mask R-CNN of mmdetection" and not conversion.unmapped
    assert_same(conversion.weights, mask_rcnn)


def test_the_class_layer_of_a_faster_rcnn_with_sigmoids_is_unchanged(mask_rcnn):
    conversion = convert(named_as_mmdetection(mask_rcnn, RCNN_FPN, FASTER))
    assert conversion.kind == "Faster R-CNN of mmdetection"
    name = "roi_heads.box_predictor.cls_score.weight"
    assert torch.equal(conversion.weights[name], mask_rcnn.state_dict()[name])


def test_rows_of_anchors_are_reordered_from_mmdetection_to_detectron2(mask_rcnn):
    sizes, ratios, num_classes = [32.0, 40.0, 50.0], [0.5, 1.0, 2.0], 4
    # mmdetection: all sizes of an aspect ratio, then the next ratio.
    order = [(ratio, size) for ratio in ratios for size in sizes]
    boxes = torch.tensor([[ratio, size] * 2 for ratio, size in order]).flatten()
    scores = torch.tensor([[100 * k + size + ratio for k in range(4)] for ratio, size in order])
    tensors = named_as_mmdetection(mask_rcnn)
    for layer, rows in (("retina_cls", scores.flatten()), ("retina_reg", boxes)):
        tensors[f"bbox_head.{layer}.bias"] = rows
        tensors[f"bbox_head.{layer}.weight"] = rows[:, None, None, None].expand(-1, 2, 3, 3)
    weights = convert(tensors).weights
    generator = DefaultAnchorGenerator(sizes=[sizes], aspect_ratios=ratios, strides=[8])
    x1, y1, x2, y2 = next(generator.buffers()).unbind(1)
    ratio, size = (y2 - y1) / (x2 - x1), ((y2 - y1) * (x2 - x1)).sqrt()
    assert torch.allclose(weights["head.bbox_pred.bias"].view(9, 2, 2)[:, 0, 0], ratio)
    assert torch.allclose(weights["head.bbox_pred.bias"].view(9, 2, 2)[:, 0, 1], size)
    expected = 100 * torch.arange(num_classes) + (size + ratio)[:, None]
    assert torch.allclose(weights["head.cls_score.bias"].view(9, num_classes), expected)
    assert torch.equal(weights["head.cls_score.weight"][:, 0, 0, 0], weights["head.cls_score.bias"])


def test_anchors_of_unknown_order_and_class_agnostic_boxes_are_left_out(mask_rcnn, mask_tensors):
    tensors = named_as_mmdetection(mask_rcnn)
    tensors["bbox_head.retina_cls.bias"], tensors["bbox_head.retina_reg.bias"] = (
        torch.zeros(20),
        torch.zeros(16),
    )
    conversion = convert(tensors)
    assert conversion.unmapped == ["bbox_head.retina_cls.bias", "bbox_head.retina_reg.bias"]
    assert any("order of 4 anchors per cell is unknown" in note for note in conversion.notes)
    name = "roi_head.bbox_head.fc_reg"
    for parameter in ("weight", "bias"):
        mask_tensors[f"{name}.{parameter}"] = mask_tensors[f"{name}.{parameter}"][:4]
    conversion = convert(mask_tensors)
    classes = "roi_head.bbox_head.fc_cls"
    assert conversion.unmapped == [f"{classes}.weight", f"{classes}.bias"]


def deformable_network(block=BottleneckBlock):
    stages = [
        ResNet.make_stage(
            BottleneckBlock,
            1,
            in_channels=64 if i == 0 else 4,
            out_channels=4,
            bottleneck_channels=4,
            norm="BN",
        )
        for i in range(2)
    ]
    network = ResNet(BasicStem(norm="BN"), stages, out_features=["res3"])
    return randomized(deform_convolutions(network, ["res3"], deformable_groups=2))


def named_as_deformable(network):
    """Return the state dict of a network of one block per stage under mmdetection's names."""
    result = {}
    for name, tensor in network.state_dict().items():
        name = name.replace("stem.conv1.norm", "bn1").replace("stem.", "")
        name = re.sub(r"res(\d)", lambda match: f"layer{int(match[1]) - 1}", name)
        name = re.sub(r"conv(\d).norm", r"bn\1", name)
        name = name.replace("shortcut.norm", "downsample.1").replace("shortcut", "downsample.0")
        result[f"backbone.{name.replace('conv2_offset', 'conv2.conv_offset')}"] = tensor
    return result


def test_offset_layers_of_deformable_convolutions_are_mapped():
    network = deformable_network()
    conversion = convert(named_as_deformable(network))
    assert not conversion.unmapped
    expected = {f"{BACKBONE}.{n}": t for n, t in network.state_dict().items()}
    expected = without_counters(expected)
    assert conversion.weights.keys() == expected.keys()
    assert all(torch.equal(conversion.weights[name], expected[name]) for name in expected)
    assert f"{BACKBONE}.res3.0.conv2_offset.weight" in expected


def test_offsets_without_a_mask_are_left_out():
    tensors = named_as_deformable(deformable_network())
    name = "backbone.layer2.0.conv2.conv_offset"
    for parameter in ("weight", "bias"):
        tensors[f"{name}.{parameter}"] = tensors[f"{name}.{parameter}"][:36]
    assert convert(tensors).unmapped == [f"{name}.weight", f"{name}.bias"]


def test_a_neck_with_unknown_layers_is_left_out(mask_tensors):
    mask_tensors["neck.upsample_modules.0.weight"] = torch.zeros(1)
    conversion = convert(mask_tensors)
    assert len(conversion.unmapped) == 17
    assert all(name.startswith("neck.") for name in conversion.unmapped)


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_the_written_file_is_a_complete_checkpoint_of_the_config(
    suffix, source, config, mask_rcnn, tmp_path, capsys
):
    output = tmp_path / f"converted{suffix}"
    options = ["--config-file", config] if suffix == ".pth" else []
    assert main([str(source), str(output), *options]) == 0
    report = capsys.readouterr().out
    assert "0 tensors of the source not mapped\n" in report
    assert ("0 tensors of the model are not in the file\n" in report) == bool(options)
    assert "the source's config has style='pytorch', target_stds=[0.1, 0.2]" in report
    assert f"train.init_checkpoint={output}" in report
    model = build("mask_ce")
    model.load_state_dict({name: torch.zeros_like(t) for name, t in model.state_dict().items()})
    load_weights(model, str(output), strict=True)
    assert_same(without_counters(model.state_dict()), mask_rcnn)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([output.name, source.name])


def test_the_report_counts_unmapped_missing_and_misshapen_weights(
    mask_rcnn, mask_tensors, tmp_path, capsys
):
    path = tmp_path / "source.pth"
    for name in [name for name in mask_tensors if "mask_head" in name]:
        del mask_tensors[name]
    mask_tensors["rpn_head.rpn_cls.bias"] = torch.zeros(5)
    mask_tensors |= {f"roi_head.keypoint_head.{i}.weight": torch.zeros(1) for i in range(12)}
    mask_tensors["backbone.layer1.2.conv1.weight"] = torch.zeros(1)
    torch.save(mask_tensors, path)
    assert main([str(path), str(tmp_path / "converted.pth")]) == 0
    layer_list = ", ".join(f"roi_head.keypoint_head.{i}.weight" for i in range(10))
    expected = f"12 tensors of the source not mapped: {layer_list} and 2 more\n"
    assert expected in capsys.readouterr().out
    matched, missing, misshapen, left_over = compare(convert(mask_tensors).weights, mask_rcnn)
    assert matched == "129 of the model's 138 tensors are in the file"
    assert missing.startswith("8 tensors of the model are not in the file: roi_heads.mask_head.mas")
    assert misshapen.endswith(
        ": proposal_generator.rpn_head.objectness_logits.bias ((5,), not (3,))"
    )
    assert left_over == f"1 are not in the model: {BACKBONE}.res2.2.conv1.weight"


def test_weights_that_do_not_match_the_model_raise_user_error(mask_rcnn):
    with pytest.raises(UserError, match="none of the 1 weights has the name and shape"):
        compare({"res2.0.conv1.weight": torch.zeros(1)}, mask_rcnn)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"no checkpoint", "cannot be read"),
        ({"state_dict": {"path": pathlib.PurePosixPath("x")}}, "got pathlib.PurePosixPath"),
        ([1, 2], "expected a state dict with tensors, got none"),
        ({"vgg.0.weight": torch.zeros(1)}, "expected weights of a ResNet, ResNeXt, Res2Net or of"),
        ({"backbone.bottom_up.res2.0.conv1.weight": torch.zeros(1)}, "Detectron2's names already"),
        ({"bbox_head.fc_cls.weight": torch.zeros(1)}, "got weights of mmdetection 1"),
    ],
    ids=["text", "code", "no dict", "other network", "converted", "mmdetection 1"],
)
def test_a_wrong_source_file_gives_one_line_and_writes_nothing(content, words, tmp_path, capsys):
    path, output = tmp_path / "source.pth", tmp_path / "converted.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    assert main([str(path), str(output)]) == 2
    printed = capsys.readouterr()
    assert words in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "source_name, output_name, words",
    [
        ("missing.pth", "converted.pth", "SOURCE: 'missing.pth' does not exist"),
        (".", "converted.pth", "SOURCE: expected a file, got the folder"),
        ("mask_rcnn.pth", "converted.onnx", "OUTPUT: expected a .pth or .pkl file"),
        ("mask_rcnn.pth", "mask_rcnn.pth", "OUTPUT: expected a file other than SOURCE"),
        ("mask_rcnn.pth", "missing/converted.pth", "OUTPUT: cannot write 'missing/converted.pth'"),
    ],
)
def test_wrong_paths_give_one_line_and_write_nothing(
    source_name, output_name, words, source, monkeypatch, tmp_path, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main([source_name, output_name]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [source]


def test_a_failed_write_keeps_the_earlier_output(source, tmp_path, monkeypatch, capsys):
    output = tmp_path / "converted.pth"
    output.write_text("earlier")

    def fill_disk(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert_weights.torch, "save", fill_disk)
    assert main([str(source), str(output)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert output.read_text() == "earlier"
    assert len(list(tmp_path.iterdir())) == 2


def test_weights_written_by_mmdetection_1_are_reported(mask_tensors, tmp_path, capsys):
    path = tmp_path / "old.pth"
    torch.save({"meta": {"mmdet_version": "1.2.0"}, "state_dict": mask_tensors}, path)
    assert main([str(path), str(tmp_path / "converted.pth")]) == 0
    assert "mmdetection 1.2.0 wrote the file" in capsys.readouterr().out


RES2NET = {
    "{stem}.0": "stem.conv1",
    "{stem}.1": "stem.conv1.norm",
    "{stem}.3": "stem.conv2",
    "{stem}.4": "stem.conv2.norm",
    "{stem}.6": "stem.conv3",
    "{last_norm}": "stem.conv3.norm",
    "layer3.22.conv1": "res4.22.conv1",
    "layer3.22.bn1": "res4.22.conv1.norm",
    "layer1.0.convs.0": "res2.0.convs.0",
    "layer1.0.convs.2": "res2.0.convs.2",
    "layer1.0.bns.2": "res2.0.convs.2.norm",
    "layer1.0.convs.2.conv_offset": "res2.0.convs_2_offset",
    "layer1.0.conv3": "res2.0.conv3",
    "layer1.0.bn3": "res2.0.conv3.norm",
    "layer1.0.downsample.1": "res2.0.shortcut.1",
    "layer1.0.downsample.2": "res2.0.shortcut.1.norm",
    "layer1.0.conv1": "res2.0.conv1",
}


@pytest.mark.parametrize(
    "prefix, stem, last_norm, pools",
    [("", "conv1", "bn1", True), ("", "stem", "stem.7", False), ("backbone.", "stem", "stem.7", 0)],
    ids=["timm and the authors", "mmdetection's backbone", "mmdetection's detector"],
)
def test_res2net_weights_are_mapped_from_the_names_of_each_library(prefix, stem, last_norm, pools):
    tensors, expected = {}, {}
    for index, (source_layer, layer) in enumerate(RES2NET.items()):
        tensor = torch.full((27, 1, 1, 1), float(index))
        tensors[prefix + source_layer.format(stem=stem, last_norm=last_norm) + ".weight"] = tensor
        expected[f"{BACKBONE}.{layer}.weight"] = tensor
    conversion = convert(tensors)
    assert not conversion.unmapped and conversion.weights.keys() == expected.keys()
    assert all(torch.equal(conversion.weights[name], expected[name]) for name in expected)
    assert any(f"pools_at_stride_1={bool(pools)}" in note for note in conversion.notes)
