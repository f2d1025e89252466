#!/usr/bin/env python
"""Count the parameters and the training memory of each published config.

From the root of the repository: ``python -m benchmarks.config_memory [FOLDER/NAME ...]``, for
example ``coco/mask_rs_r50_12ep``. Writes ``benchmarks/results/config_memory.json`` after each
config. Without names, it counts the configs that the file lacks.

Activations are counted at full size, not extrapolated. One image of the config's largest
training size passes forward through the model on the CPU, and a hook adds up what autograd saves
for the backward pass. Nothing is actually saved, so the count needs little memory itself. The image
has as many objects as the most masks that a mask head trains on. With random weights hardly any
proposal except the ground-truth boxes is positive, so fewer objects would need too little memory.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from ranking_det.criteria import CriterionSchedule

ROOT = Path(__file__).parents[1]
PATH = ROOT / "benchmarks" / "results" / "config_memory.json"
FOLDERS = ("coco", "lvis", "cityscapes")
OBJECTS = 200  # the largest number of positives that get a mask


def published_configs(folder: str) -> list[Path]:
    """Return the paths of the configs in a folder of ``configs/`` that are rows of papers.

    ViTDet's config is left out: it is not a row of a paper, and needs Detectron2's main branch.
    """
    paths = sorted((ROOT / "configs" / folder).glob("*.py"))
    return [path for path in paths if "vitdet" not in path.stem]


def saved_bytes(forward: Callable[[], Any], excluded: Iterable[Tensor] = ()) -> int:
    """Count the bytes that autograd saves in a forward pass for the backward pass.

    A storage counts once and as a whole, because operations often save the same tensor, or views
    of it. Nothing is kept, so a backward pass is not possible.

    Args:
        forward: the forward pass; its result is dropped.
        excluded: tensors that do not count, such as the parameters.

    Returns:
        The number of bytes.
    """
    # Weak references, because the address of a freed storage is soon reused.
    seen_storages = {StorageWeakRef(tensor.untyped_storage()) for tensor in excluded}
    total = 0

    def count(tensor: Tensor) -> None:
        nonlocal total
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)
        if reference not in seen_storages:
            seen_storages.add(reference)
            total += storage.nbytes()

    def restore(_: None) -> Tensor:
        raise RuntimeError("a pass that only counts has no backward")

    with torch.autograd.graph.saved_tensors_hooks(count, restore):
        forward()
    return total


def largest_image(augmentations: Iterable[Any]) -> tuple[int, int]:
    """Return height and width, in pixels, of the largest training image of a mapper's config."""
    for node in augmentations:
        if "short_edge_length" in node:
            edges = node.short_edge_length
            return (edges if isinstance(edges, int) else max(edges)), node.max_size
        if "shape" in node:
            height, width = node.shape
            return height, width
    raise ValueError("augmentations: expected one that sets the size of the image, got none")


def make_image(height: int, width: int, num_classes: int) -> dict[str, Any]:
    """Make a training image of noise with :data:`OBJECTS` objects of 16 to 400 pixels."""
    sides = torch.rand(OBJECTS, 2).mul(3.2).exp() * 16
    corners = torch.rand(OBJECTS, 2) * torch.tensor([width - 16, height - 16])
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.cat([corners, corners + sides], dim=1))
    instances.gt_boxes.clip((height, width))
    instances.gt_classes = torch.randint(num_classes, (OBJECTS,))
    masks = torch.zeros(OBJECTS, height, width, dtype=torch.bool)
    corners_of_boxes = instances.gt_boxes.tensor.long().tolist()
    for mask, (x1, y1, x2, y2) in zip(masks, corners_of_boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    instances.gt_masks = BitMasks(masks)
    image = torch.randint(256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "height": height, "width": width, "instances": instances}


def count_memory(path: Path) -> dict[str, Any]:
    """Count the parameters and the training memory of a config.

    Returns:
        The size of the image, the numbers of all and of trainable parameters, the bytes of weights,
        gradients and momentum, and the bytes that autograd saves for one image. If the criterion
        has several stages, this is the largest number of all stages.
    """
    cfg = LazyConfig.load(str(path))
    torch.manual_seed(0)
    model = instantiate(cfg.model).train()
    height, width = largest_image(cfg.dataloader.train.mapper.augmentations)
    heads = cfg.model.get("roi_heads", cfg.model)
    batch = [make_image(height, width, heads.num_classes)]
    state = [*model.parameters(), *model.buffers()]
    criterion = getattr(model, "criterion", None)
    activations = []
    for stage in criterion.stages if isinstance(criterion, CriterionSchedule) else [criterion]:
        if stage is not None:
            model.criterion = stage
        with EventStorage(0):
            activations.append(saved_bytes(lambda: model(batch), state))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {
        "image": [height, width],
        "parameters": parameters,
        "trainable": trainable,
        "weights_gradients_momentum": 4 * (parameters + 2 * trainable),
        "activations_per_image": max(activations),
    }


def main() -> None:
    """Count the selected configs, and update the results after each."""
    paths = {
        f"{folder}/{path.stem}": path for folder in FOLDERS for path in published_configs(folder)
    }
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "names", nargs="*", metavar="FOLDER/NAME", help="default: those not counted"
    )
    names = parser.parse_args().names
    for name in names:
        if name not in paths:
            parser.error(f"FOLDER/NAME: expected a config of {', '.join(FOLDERS)}, got {name}")
    configs = json.loads(PATH.read_text())["configs"] if PATH.exists() else {}
    for name in names or [name for name in paths if name not in configs]:
        configs[name] = count_memory(paths[name])
        row = configs[name]
        print(
            f"{name:<50} {row['parameters'] / 1e6:6.1f} M parameters  "
            f"{row['weights_gradients_momentum'] / 1e9:5.2f} GB + "
            f"{row['activations_per_image'] / 1e9:5.2f} GB per image",
            flush=True,
        )
        known_configs = {name: configs[name] for name in paths if name in configs}
        report = {"objects": OBJECTS, "torch": torch.__version__, "configs": known_configs}
        PATH.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
