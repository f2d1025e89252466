#!/usr/bin/env python3
"""Convert weights of torchvision, timm, Res2Net and mmdetection to Detectron2's names.

python tools/convert_weights.py resnet101-63fe2227.pth R-101.pkl
python tools/convert_weights.py SOURCE.pth OUTPUT.pth --config-file CONFIG

The names of the tensors show the format:

- ResNet and ResNeXt of torchvision (timm has the same names);
- Res2Net with a deep stem (v1b, v1d) of its authors, timm or mmdetection;
- RetinaNet, ATSS, PAA, Faster and Mask R-CNN of mmdetection 2 and 3, with or without deformable
  convolutions v2;
- other networks of mmdetection: only their backbone, FPN and RPN.

With a config, the result is compared with its model. A run loads the result with
train.init_checkpoint=OUTPUT. No code in the source file is run.
"""

from __future__ import annotations

import argparse
import pickle
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ranking_det.library_warnings import hide_library_warnings, shorten_interrupts
from ranking_det.path_checks import check_file

if __name__ == "__main__":
    hide_library_warnings()  # before the imports that cause them
    shorten_interrupts()

# ruff: noqa: E402
import torch
from torch import Tensor, nn

from ranking_det.criteria import CriterionBase
from ranking_det.engine.checkpoint import UNREADABLE
from ranking_det.engine.run_config import load_config
from ranking_det.engine.safe_unpickling import read_torch
from ranking_det.files import partial_path, rename_whole
from ranking_det.user_errors import UserError, listed, reason_of, run_command

PROGRAM = "tools/convert_weights.py"
SHOWN = 10
"""The number of names in a list of the report."""

BACKBONE = "backbone.bottom_up"
STEM = ("conv1", "conv1.norm", "", "conv2", "conv2.norm", "", "conv3", "conv3.norm")
"""Our layers of a deep stem, by their index in the source's nn.Sequential."""
BLOCK = (
    (r"conv(\d)", r"conv\1"),
    (r"bn(\d)", r"conv\1.norm"),
    (r"conv(\d)\.conv_offset", r"conv\1_offset"),
    (r"convs\.(\d)", r"convs.\1"),
    (r"bns\.(\d)", r"convs.\1.norm"),
    (r"convs\.(\d)\.conv_offset", r"convs_\1_offset"),
)
"""Patterns of the layers of a residual block, and our names."""
HEADS = {
    "rpn_head.rpn_conv": "proposal_generator.rpn_head.conv",
    "rpn_head.rpn_cls": "proposal_generator.rpn_head.objectness_logits",
    "rpn_head.rpn_reg": "proposal_generator.rpn_head.anchor_deltas",
    "roi_head.bbox_head.fc_cls": "roi_heads.box_predictor.cls_score",
    "roi_head.bbox_head.fc_reg": "roi_heads.box_predictor.bbox_pred",
    "roi_head.mask_head.upsample": "roi_heads.mask_head.deconv",
    "roi_head.mask_head.conv_logits": "roi_heads.mask_head.predictor",
    "bbox_head": "head",  # the factors of the levels
    "bbox_head.retina_cls": "head.cls_score",
    "bbox_head.retina_reg": "head.bbox_pred",
    "bbox_head.atss_cls": "head.cls_score",
    "bbox_head.atss_reg": "head.bbox_pred",
    "bbox_head.atss_centerness": "head.branch",
}
"""Layers of mmdetection's heads, and our names. PAA's IoU branch is called centerness too."""
ANCHOR_LAYERS = (
    ("bbox_head.retina_cls", "bbox_head.retina_reg"),
    ("rpn_head.rpn_cls", "rpn_head.rpn_reg"),
)
"""Class and box layers of mmdetection with several anchors per cell."""
DETECTORS = {
    "roi_head.mask_head.conv_logits": "Mask R-CNN of mmdetection",
    "roi_head.bbox_head.fc_cls": "Faster R-CNN of mmdetection",
    "bbox_head.retina_cls": "RetinaNet of mmdetection",
    "bbox_head.atss_cls": "ATSS or PAA of mmdetection",
}
"""The layer by which a detector is recognized; the first match is used."""
SETTING = re.compile(
    r"\b(style|mean|std|to_rgb|bgr_to_rgb|target_stds|ratios|add_extra_convs"
    r"|relu_before_extra_convs)\s*=\s*(\[[^]]*\]|'\w+'|True|False)"
)
"""Settings in mmdetection's configs that must agree with ours but are not visible in weights."""


PIXELS = (
    "the weights need RGB pixels, mean 123.675, 116.28, 103.53 and std 58.395, 57.12, 57.375 "
    "(IMAGENET_RGB in configs/common/models/backbones.py), and the stride in the 3x3 convolutions "
    "(stride_in_1x1=False)"
)
UNPOOLED = "weights of mmdetection's Res2Net need res2net_101(..., pools_at_stride_1=False)"
POOLED = "weights of timm's and the authors' Res2Net need res2net_101(..., pools_at_stride_1=True)"
MMDETECTION = (
    "a source with style='caffe' needs BGR, its own mean, std 1 and stride_in_1x1=True instead; "
    "target_stds of .1, .1, .2, .2 are box coder weights of 10, 10, 5, 5, and 1, 1, 1, 1 stay; "
    "the order of the classes is kept, and COCO's order is the same in Detectron2"
)


class Conversion(NamedTuple):
    """Converted weights, and what the user must know about them."""

    kind: str
    """The network of the source, such as "Mask R-CNN of mmdetection"."""
    weights: dict[str, Tensor]
    """The tensors by their names in Detectron2."""
    unmapped: list[str]
    """Names of the source that have no counterpart."""
    notes: list[str]
    """What the model must have so that the weights mean the same."""


def read_source(path: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint without running code from the file.

    Args:
        path: a torch file: a state dict, or a checkpoint with ``state_dict`` or ``model``.

    Returns:
        The tensors by name, without the prefix ``module.`` of distributed models, and
        mmdetection's ``meta`` (empty if there is none).

    Raises:
        UserError: the file does not exist, cannot be read, contains objects other than weights, or
            has no tensors.
    """
    check_file(path, "SOURCE")
    try:
        content = read_torch(path)
    except UNREADABLE as error:
        remedy = ""
        if isinstance(error, pickle.UnpicklingError):
            remedy = "; in the environment that wrote it, save only its state_dict"
        raise UserError(f"{path!r} cannot be read ({reason_of(error)}){remedy}") from error
    meta: Any = None
    if isinstance(content, Mapping):
        meta = content.get("meta")
        content = next((content[key] for key in ("state_dict", "model") if key in content), content)
    entries = content.items() if isinstance(content, Mapping) else ()
    tensors = {
        str(name).removeprefix("module."): value.detach()
        for name, value in entries
        if isinstance(value, Tensor)
    }
    if not tensors:
        raise UserError(f"{path!r}: expected a state dict with tensors, got none")
    return tensors, dict(meta) if isinstance(meta, Mapping) else {}


def recognize(modules: Collection[str]) -> str:
    """Recognize the network from the names of its layers.

    Args:
        modules: the names of the layers of the source.

    Returns:
        A name for the report.

    Raises:
        UserError: the names are of another format.
    """
    for module, kind in DETECTORS.items():
        if module in modules:
            return kind
    if {"bbox_head.fc_cls", "bbox_head.0.fc_cls"} & set(modules):
        raise UserError(
            "SOURCE: expected weights of mmdetection 2 or 3, got weights of mmdetection 1, which "
            "has another order of classes; convert them with mmdetection's "
            "tools/model_converters/upgrade_model_version.py first"
        )
    if "backbone.layer1.0.conv1" in modules:
        return "another network of mmdetection; only its backbone, FPN and RPN can be mapped"
    if "layer1.0.conv1" in modules:
        return "Res2Net" if "layer1.0.convs.0" in modules else "ResNet or ResNeXt"
    if any(module.startswith((BACKBONE, "stem.conv1", "res2.")) for module in modules):
        raise UserError("SOURCE: expected weights to convert, got Detectron2's names already")
    raise UserError(
        "SOURCE: expected weights of a ResNet, ResNeXt, Res2Net or of a detector of mmdetection, "
        f"got the layers {listed(sorted(modules))}"
    )


def map_backbone(module: str, modules: Collection[str]) -> str | None:
    """Translate the name of a layer of a ResNet, ResNeXt or Res2Net.

    Args:
        module: the name of the layer.
        modules: the names of all layers of the backbone.

    Returns:
        The name in Detectron2's ResNet; None if it has no counterpart.
    """
    if module == "conv1":
        return "stem.conv1"
    if module == "bn1":
        return "stem.conv3.norm" if "conv1.0" in modules else "stem.conv1.norm"
    stem = re.fullmatch(r"(?:stem|conv1)\.([0-7])", module)
    if stem and STEM[int(stem[1])]:
        return f"stem.{STEM[int(stem[1])]}"
    block = re.fullmatch(r"(layer(\d)\.(\d+))\.(.+)", module)
    if not block:
        return None
    prefix = f"res{int(block[2]) + 1}.{block[3]}"
    # In a Res2Net the first layer of the shortcut is a pooling.
    pooled = f"{block[1]}.downsample.2" in modules
    shortcut = ["", "shortcut.1", "shortcut.1.norm"] if pooled else ["shortcut", "shortcut.norm"]
    for index, name in enumerate(shortcut):
        if block[4] == f"downsample.{index}" and name:
            return f"{prefix}.{name}"
    for pattern, name in BLOCK:
        part = re.fullmatch(pattern, block[4])
        if part:
            return f"{prefix}.{part.expand(name)}"
    return None


def map_fpn(module: str, modules: Collection[str]) -> str | None:
    """Translate the name of a layer of mmdetection's FPN on C2 or C3 to C5.

    Args:
        module: the name of the layer.
        modules: the names of all layers of the detector.

    Returns:
        The name in Detectron2's FPN; None for other layers and for other necks.
    """
    pattern = r"neck\.(lateral|fpn)_convs\.(\d)\.conv"
    neck = [name for name in modules if name.startswith("neck.")]
    laterals = sum(name.startswith("neck.lateral_convs.") for name in neck)
    layer = re.fullmatch(pattern, module)
    if not layer or laterals not in (3, 4) or not all(re.fullmatch(pattern, n) for n in neck):
        return None
    level = 6 - laterals + int(layer[2])
    if layer[1] == "lateral":
        return f"backbone.fpn_lateral{level}"
    return f"backbone.fpn_output{level}" if level < 6 else f"backbone.top_block.p{level}"


def map_head(module: str, modules: Collection[str]) -> str | None:
    """Translate the name of a layer of the heads of a detector of mmdetection.

    Args:
        module: the name of the layer.
        modules: the names of all layers of the detector.

    Returns:
        Our name; None for other layers.
    """
    if module in HEADS:
        return HEADS[module]
    layer = re.fullmatch(r"bbox_head\.(cls|reg)_convs\.(\d)\.(conv|gn)", module)
    if layer and {"bbox_head.retina_cls", "bbox_head.atss_cls"} & set(modules):
        # Convolution, norm if there is one, ReLU.
        period = 3 if "bbox_head.cls_convs.0.gn" in modules else 2
        tower = {"cls": "cls_subnet", "reg": "bbox_subnet"}[layer[1]]
        return f"head.{tower}.{period * int(layer[2]) + (layer[3] == 'gn')}"
    layer = re.fullmatch(r"roi_head\.bbox_head\.shared_fcs\.(\d)", module)
    if layer:
        return f"roi_heads.box_head.fc{int(layer[1]) + 1}"
    layer = re.fullmatch(r"roi_head\.mask_head\.convs\.(\d)\.conv", module)
    return f"roi_heads.mask_head.mask_fcn{int(layer[1]) + 1}" if layer else None


def map_layers(modules: Collection[str], prefix: str) -> dict[str, str]:
    """Translate the names of all layers of a source.

    Args:
        modules: the names of the layers.
        prefix: "backbone." for a network of mmdetection, "" for a backbone.

    Returns:
        Our name of each layer that has a counterpart. Those of a backbone are the names that they
        have below an FPN.
    """
    in_backbone = {name.removeprefix(prefix) for name in modules if name.startswith(prefix)}
    names: dict[str, str | None] = {}
    for module in modules:
        names[module] = map_fpn(module, modules) or map_head(module, modules) if prefix else None
        part = map_backbone(module.removeprefix(prefix), in_backbone)
        if part and module.startswith(prefix):
            names[module] = f"{BACKBONE}.{part}"
    return {module: name for module, name in names.items() if name}


def convert(tensors: Mapping[str, Tensor]) -> Conversion:
    """Convert the weights of a source.

    Args:
        tensors: the tensors of the source by name.

    Returns:
        The conversion. It leaves out the counters of batch norms, whose statistics are frozen.

    Raises:
        UserError: the format is unknown.
    """
    tensors = {n: t for n, t in tensors.items() if not n.endswith(".num_batches_tracked")}
    kind = recognize({name.rpartition(".")[0] for name in tensors})
    prefix = "backbone." if "backbone.layer1.0.conv1.weight" in tensors else ""
    notes = [PIXELS]
    if f"{prefix}layer1.0.convs.0.weight" in tensors:
        notes.append(POOLED if f"{prefix}conv1.0.weight" in tensors else UNPOOLED)
    unclear: set[str] = set()
    if prefix:
        notes.append(MMDETECTION)
        join_factors(tensors)
        unclear = order_anchors(tensors, notes) | remove_background(tensors, notes)
    for name, tensor in tensors.items():
        # Deformable convolutions v1 have 18 channels per group: offsets without a mask.
        if name.endswith(".conv_offset.weight") and len(tensor) % 27:
            unclear.add(name.removesuffix(".weight"))
    layers = map_layers({name.rpartition(".")[0] for name in tensors}, prefix)
    weights, unmapped = {}, []
    for name, tensor in tensors.items():
        module, _, parameter = name.rpartition(".")
        if module in layers and module not in unclear:
            weights[f"{layers[module]}.{parameter}"] = tensor
        else:
            unmapped.append(name)
    return Conversion(kind, weights, unmapped, notes)


def join_factors(tensors: dict[str, Tensor]) -> None:
    """Join the factors of the levels of ATSS and PAA to one tensor, bbox_head.scales, in place.

    Args:
        tensors: the tensors of a detector by mmdetection's names.
    """
    factors = [name for name in tensors if re.fullmatch(r"bbox_head\.scales\.\d\.scale", name)]
    if factors and "bbox_head.atss_cls.weight" in tensors:
        tensors["bbox_head.scales"] = torch.stack([tensors.pop(name) for name in sorted(factors)])


def order_anchors(tensors: dict[str, Tensor], notes: list[str]) -> set[str]:
    """Put the anchors of RetinaNet and RPN in Detectron2's order, in place.

    Args:
        tensors: the tensors of a detector by mmdetection's names.
        notes: gets a line for each change.

    Returns:
        The layers whose order is unclear.
    """
    unclear: set[str] = set()
    for layers in ANCHOR_LAYERS:
        num_anchors = _rows(tensors, layers[1]) // 4
        if num_anchors <= 3:  # they have one size or one aspect ratio, and so one order
            continue
        if num_anchors % 3:
            unclear.update(layers)
            notes.append(f"{layers[0]}: the order of {num_anchors} anchors per cell is unknown")
            continue
        for layer in layers:
            _change(tensors, layer, partial(reorder_anchors, num_anchors=num_anchors))
        notes.append(
            f"{layers[0]}: {num_anchors} anchors per cell, taken as {num_anchors // 3} sizes of 3 "
            "aspect ratios, are now in Detectron2's order, size by size"
        )
    return unclear


def remove_background(tensors: dict[str, Tensor], notes: list[str]) -> set[str]:
    """Make background the logit 0 in the class layer of a softmax box head, in place.

    Args:
        tensors: the tensors of a detector by mmdetection's names.
        notes: gets a line if the layer is changed or unclear.

    Returns:
        The layers that may or may not have a background.
    """
    scores, boxes = "roi_head.bbox_head.fc_cls", "roi_head.bbox_head.fc_reg"
    if _rows(tensors, boxes) == 4 * _rows(tensors, scores):
        return set()
    if _rows(tensors, boxes) != 4 * (_rows(tensors, scores) - 1):
        notes.append(
            f"{scores}: boxes are class-agnostic, so it is unknown whether it has a background"
        )
        return {scores}
    _change(tensors, scores, subtract_background)
    notes.append(
        f"{scores}: the background's row was subtracted from the others, which is the same with "
        "softmax=True of the box predictor; sigmoids then compare each class with background"
    )
    return set()


def _rows(tensors: Mapping[str, Tensor], layer: str) -> int:
    return len(tensors.get(f"{layer}.bias", ()))


def _change(tensors: dict[str, Tensor], layer: str, function: Callable[[Tensor], Tensor]) -> None:
    for name in (f"{layer}.weight", f"{layer}.bias"):
        tensors[name] = function(tensors[name])


def reorder_anchors(rows: Tensor, num_anchors: int) -> Tensor:
    """Put the anchors of 3 aspect ratios from mmdetection's order into Detectron2's.

    mmdetection's anchor generator has all sizes of an aspect ratio before the next ratio,
    Detectron2's all ratios of a size before the next size.

    Args:
        rows: (A x n, ...), the rows of a layer, anchors outside.
        num_anchors: A, a multiple of 3.

    Returns:
        The same shape.

    >>> reorder_anchors(torch.arange(6), 6)  # anchors: small, large; small, large; small, large
    tensor([0, 2, 4, 1, 3, 5])
    """
    return rows.unflatten(0, (3, num_anchors // 3, -1)).transpose(0, 1).flatten(0, 2)


def subtract_background(rows: Tensor) -> Tensor:
    """Subtract the last class, background, from the others, so that its logit becomes 0.

    The softmax stays the same.

    Args:
        rows: (K + 1, ...), the rows of a class layer.

    Returns:
        (K, ...).
    """
    return rows[:-1] - rows[-1:]


def compare(weights: Mapping[str, Tensor], model: nn.Module) -> list[str]:
    """Compare converted weights with a model.

    Args:
        weights: the converted weights.
        model: the detector of a config.

    Returns:
        Lines for the report.

    Raises:
        UserError: no weight fits.
    """
    criteria = [f"{n}." for n, m in model.named_modules() if isinstance(m, CriterionBase)]
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if not name.startswith(tuple(criteria)) and not name.endswith("num_batches_tracked")
    }
    weight_shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    fitting = [name for name in weight_shapes if shapes.get(name) == weight_shapes[name]]
    if not fitting:
        raise UserError(
            f"--config-file: none of the {len(weight_shapes)} weights has the name and shape of "
            f"one of the model's (the first: {next(iter(weight_shapes))})"
        )
    mismatched = [
        f"{name} ({weight_shapes[name]}, not {shapes[name]})"
        for name in weight_shapes
        if name in shapes and weight_shapes[name] != shapes[name]
    ]
    return [
        f"{len(fitting)} of the model's {len(shapes)} tensors are in the file",
        _counted_names(
            "tensors of the model are not in the file",
            [n for n in shapes if n not in weight_shapes],
        ),
        _counted_names("have a shape other than the model's, and will not be loaded", mismatched),
        _counted_names(
            "are not in the model", [name for name in weight_shapes if name not in shapes]
        ),
    ]


def _counted_names(phrase: str, names: Sequence[str]) -> str:
    return f"{len(names)} {phrase}" + (f": {listed(names, SHOWN)}" if names else "")


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a checkpoint atomically.

    Args:
        path: a .pth file, or a .pkl file with arrays as in Detectron2's model zoo.
        weights: the tensors by name.

    Raises:
        UserError: the file cannot be written.
    """
    partial_file = partial_path(path)
    try:
        with partial_file.open("wb") as file:
            if path.suffix == ".pkl":
                arrays = {name: tensor.numpy() for name, tensor in weights.items()}
                pickle.dump({"model": arrays, "__author__": PROGRAM}, file, protocol=4)
            else:
                torch.save({"model": dict(weights)}, file)
        rename_whole(partial_file, path)
    except (OSError, RuntimeError) as error:  # torch turns a failed write into a RuntimeError
        raise UserError(f"OUTPUT: cannot write {str(path)!r} ({reason_of(error)})") from error
    finally:
        partial_file.unlink(missing_ok=True)


def convert_file(source: str, output: str, config_file: str | None = None) -> str:
    """Convert a file, and report what was mapped.

    Args:
        source: the file to convert.
        output: the file to write, .pth or .pkl; an existing one is replaced.
        config_file: the config of a model to compare with.

    Returns:
        The report.

    Raises:
        UserError: the source or the config cannot be read or do not fit, or the output cannot be
            written.
    """
    path = Path(output)
    if path.suffix not in (".pth", ".pkl"):
        raise UserError(f"OUTPUT: expected a .pth or .pkl file, got {output!r}")
    if path.resolve() == Path(source).resolve():
        raise UserError(f"OUTPUT: expected a file other than SOURCE, got {output!r}")
    tensors, meta = read_source(source)
    try:
        kind, weights, unmapped, notes = convert(tensors)
    except (IndexError, KeyError, RuntimeError, TypeError) as error:
        raise UserError(f"SOURCE: a layer has an unknown shape ({reason_of(error)})") from error
    lines = [f"{source}: {kind}", f"{len(weights)} tensors mapped"]
    lines.append(_counted_names("tensors of the source not mapped", unmapped))
    if config_file:
        lines += compare(weights, load_config(config_file, []).model())
    version = str(meta.get("mmdet_version", ""))
    if version.startswith(("0.", "1.")):
        notes.append(
            f"mmdetection {version} wrote the file; it must have been converted with "
            "mmdetection's tools/model_converters/upgrade_model_version.py"
        )
    text = meta.get("config") or meta.get("cfg")
    settings = dict.fromkeys("=".join(pair) for pair in SETTING.findall(str(text)))
    if settings:
        notes.append(" ".join(f"the source's config has {', '.join(settings)}".split()))
    write_weights(path, weights)
    lines += [f"check: {note}" for note in notes]
    lines.append(f"wrote {output}; load it with train.init_checkpoint={output}")
    return "".join(f"{line}\n" for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert the file of the command line.

    Args:
        arguments: the command line; None for that of the process.

    Returns:
        The exit status: 2 for a user error, else 0.
    """
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(PROGRAM, description=__doc__, formatter_class=layout)
    parser.add_argument("source", metavar="SOURCE", help="the torch file to convert")
    parser.add_argument(
        "output", metavar="OUTPUT", help=".pth or .pkl (for names such as R-101.pkl)"
    )
    meaning = "compare names and shapes with the model of this config"
    parser.add_argument("--config-file", metavar="CONFIG", help=meaning)
    args = parser.parse_args(arguments)
    return run_command(PROGRAM, lambda: convert_file(args.source, args.output, args.config_file))


if __name__ == "__main__":
    sys.exit(main())
