"""Check devices, data sets and classes before a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from numbers import Real
from typing import Any

import torch
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.evaluation import inference_context
from torch import nn

from ranking_det.checks import check_at_least, check_integer, check_that
from ranking_det.data.mapper import BoxMapper
from ranking_det.data.stream import seeded
from ranking_det.engine.part_errors import ONE_VALUE, part_error
from ranking_det.user_errors import UserError, nearest, quantity, show

DTYPES = ("auto", "float16", "bfloat16")

LARGEST = 2**31 - 1
"""Maximum of a number of iterations, epochs, images or processes, and of a seed."""

BLANK_SIDE = 256
"""Side in pixels of the blank image on which the inference of a model is tried."""

LIMITS = {f"dataloader.{split}.num_workers": 256 for split in ("train", "test")}
"""Lower maxima of some numbers: each data loading worker is a process."""

NUMBERS: dict[str, Callable[[str, Any], None]] = {
    "train.epochs": partial(check_at_least, low=0.0),
    "train.reference_batch": partial(check_integer, low=0),
    "train.iterations_per_epoch": partial(check_integer, low=0),
    "train.max_iter": partial(check_integer, low=1),
    "train.clip_grad_norm": partial(check_at_least, low=0.0),
    "train.eval_period": partial(check_integer, low=0),
    "train.log_period": partial(check_integer, low=1),
    "train.timeout": partial(check_at_least, low=1.0),
    "train.checkpointer.period": partial(check_integer, low=1),
    "train.checkpointer.max_to_keep": partial(check_integer, low=1),
    "train.seed": partial(check_integer, low=-LARGEST),  # below 0: a random seed
    "dataloader.train.total_batch_size": partial(check_integer, low=1),
    "dataloader.train.num_workers": partial(check_integer, low=0),
    "dataloader.test.num_workers": partial(check_integer, low=0),
    "dataloader.train.dataset.threshold": partial(check_at_least, low=0.0),  # of rare classes
    "optimizer.lr": partial(check_at_least, low=0.0, strictly=True),
}
"""The check of each number of a LazyConfig that the engine uses."""


def check_number(key: str, name: str, value: Any) -> None:
    """Check a number of the config.

    Args:
        key: one of :data:`NUMBERS`.
        name: the key as the user writes it, for the message.
        value: the value; None for a key that the config does not have.

    Raises:
        UserError: the value is not a number, is NaN, or is out of range.
    """
    if value is None:
        return
    try:
        NUMBERS[key](name, value)
        limit = LIMITS.get(key, LARGEST)
        check_that(value <= limit, name, f"at most {limit}", value)
    except ValueError as error:
        raise UserError(str(error)) from None


def check_optimizer(optimizer: torch.optim.Optimizer, key: str) -> None:
    """Check the learning rate and the weight decay of each group of parameters.

    A weight decay above 1 / learning rate would reverse the weights in each step.

    Args:
        optimizer: any; settings that it does not have are not checked.
        key: the config key of the optimizer, for the message.

    Raises:
        UserError: one of them is negative, not finite, or too large.
    """
    for group in optimizer.param_groups:
        rate, decay = group.get("lr", 0.0), group.get("weight_decay", 0.0)
        try:
            check_at_least(f"{key}: learning rate of a parameter", rate, 0.0)
            check_at_least(f"{key}: weight decay of a parameter", decay, 0.0)
        except ValueError as error:
            raise UserError(str(error)) from None
        if decay * rate > 1:
            raise UserError(
                f"{key}: expected a weight decay of at most {1 / rate:g} (1 / learning rate), got "
                f"{decay:g}"
            )


def check_freeze_at(key: str, value: Any) -> None:
    """Check the number of frozen stages of one of Detectron2's backbones, which accepts any.

    Args:
        key: the key of the value as the user writes it, for the message.
        value: 0 for none, 1 for the stem, 2 for the stem and res2, and so on.

    Raises:
        UserError: the backbone has no such stage.
    """
    if type(value) is not int or not 0 <= value <= 5:
        raise UserError(f"{key}: expected 0 (nothing is frozen) to 5 (up to res5), got {value!r}")


def check_size(key: str, value: Any) -> None:
    """Check that an integer fits into 64 bits, which torch and numpy need.

    Args:
        key: the key of the value as the user writes it, for the message.
        value: a value of the config; values of other types are not checked.

    Raises:
        UserError: the integer is too large.
    """
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise UserError(f"{key}: expected an integer of at most 64 bits, got {show(value)}")


def check_device(device: str, key: str) -> None:
    """Check that torch can compute on a device.

    Args:
        device: such as "cuda" or "cpu".
        key: the config key of the device, for the message.

    Raises:
        UserError: torch cannot use the device, or it is a CPU with an index above 0, which torch
            would ignore.
    """
    if device.startswith("cpu:") and device != "cpu:0":
        raise UserError(f"{key}: expected 'cpu', which has no index, got {device!r}")
    try:
        torch.zeros(1, device=device).item()  # the device "meta" has no values
    except (RuntimeError, AssertionError, ImportError, AttributeError) as error:
        usable = "cpu"
        if torch.cuda.is_available():
            usable += f" or cuda:0 to cuda:{torch.cuda.device_count() - 1}"
        # torch lists all its backends after the first sentence.
        reason = str(error).strip().splitlines()[0].partition(". ")[0]
        raise UserError(
            f"{key}: expected a device that works here, {usable}, got {device!r} ({reason})"
        ) from None


def choose_dtype(amp: Mapping[str, Any], device: str) -> str:
    """Choose the data type of mixed-precision training (AMP).

    Args:
        amp: the config node ``train.amp`` with ``enabled`` and ``dtype``. The default dtype "auto"
            is float16 on a GPU, as in Detectron2, and bfloat16 otherwise.
        device: such as "cuda" or "cpu".

    Returns:
        "float16", "bfloat16", or "" for full precision.

    Raises:
        UserError: the dtype is unknown, or is float16 without a GPU, where torch has no loss
            scaling.
    """
    if not amp.get("enabled", False):
        return ""
    dtype = amp.get("dtype", "auto")
    on_gpu = str(device).startswith("cuda")
    if dtype not in DTYPES:
        raise UserError(f"train.amp.dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    if dtype == "auto":
        return "float16" if on_gpu else "bfloat16"
    if dtype == "float16" and not on_gpu:
        raise UserError(
            f"train.amp.dtype: expected auto or bfloat16 on {device}, got 'float16', which needs a "
            "GPU"
        )
    return str(dtype)


def check_batch(batch: int, device: str, world: int, keys: tuple[str, str]) -> None:
    """Check that the processes can share a batch, and that the device suits their number.

    Args:
        batch: images per iteration over all processes; 0 if nothing is trained.
        device: the device in the config, such as "cuda" or "cpu".
        world: the number of processes.
        keys: the config keys of the batch and the device, for the message.

    Raises:
        UserError: the batch is not a multiple of the number of processes, or several processes
            cannot use the device.
    """
    batch_key, device_key = keys
    if batch % world:
        raise UserError(
            f"{batch_key}: expected a multiple of {world}, the number of processes, got {batch}"
        )
    if world > 1 and device.startswith("cuda:"):
        raise UserError(f"{device_key}: expected 'cuda' for several processes, got {device!r}")
    if world > 1 and device == "cpu" and torch.cuda.is_available():
        raise UserError(
            f"{device_key}: expected 'cuda' for several processes on a machine with GPUs, got "
            "'cpu'; to use the CPU, write CUDA_VISIBLE_DEVICES= before the command"
        )


def check_batch_norm(model: nn.Module, inputs: dict[str, Any], key: str) -> None:
    """Check that batch normalization gets more than one value per channel from a single image.

    The model runs on torch's meta device, where nothing is computed, as far as it can.

    Args:
        model: the model of the run.
        inputs: an image of the training set in Detectron2's format.
        key: the config key of the batch size, for the message.

    Raises:
        UserError: a map has a single cell.
    """
    tensors = dict((*model.named_parameters(), *model.named_buffers()))
    on_meta = {name: tensor.to("meta") for name, tensor in tensors.items()}
    try:
        with torch.no_grad():
            torch.func.functional_call(model, on_meta, ([inputs],))
    except Exception as error:  # the assigner, at the latest, needs actual values
        if ONE_VALUE in str(error):
            height, width = inputs["image"].shape[-2:]
            raise UserError(
                f"{key}: expected at least 2 images per process, got 1; batch normalization needs "
                f"more than the single cell that it gets from the image "
                f"{inputs.get('file_name')!r} of {width} x {height} px (or train on larger images)"
            ) from None


def check_detector(model: nn.Module, key: str) -> None:
    """Check that the model is a detector: run its inference on a blank image.

    The engine asks every model for Detectron2's inputs and outputs, whatever else it can do; see
    :mod:`ranking_det.modeling.interface`. Without this check, a part that only the inference uses
    would fail after the training.

    Args:
        model: the model of the run, on its device.
        key: the config key of the model, for the message.

    Raises:
        UserError: a layer fails, or the model returns something else than a dict for each image.
    """
    mean = dict(model.named_buffers()).get("pixel_mean")
    image = torch.zeros(3 if mean is None else len(mean), BLANK_SIDE, BLANK_SIDE)
    inputs = {"image": image, "height": BLANK_SIDE, "width": BLANK_SIDE}
    text = "expected a detector, which takes a list of images as dicts and returns a dict for each"
    text = f"{key}: {text}, got {type(model).__name__}"
    with named_parts(model, text), inference_context(model), torch.no_grad(), seeded(0, 0):
        outputs = model([inputs])
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise UserError(f"{text}: it returns {show(outputs)}")


@contextmanager
def named_parts(model: nn.Module, what: str) -> Iterator[None]:
    """Turn an error that a library raises for a part of the run into a UserError.

    Args:
        model: the model of the run.
        what: the start of the message.

    Raises:
        UserError: a part of the run fails in a library; other errors stay as they are.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a library can raise anything
        fault = part_error(error, model)
        if fault is None:
            raise
        raise UserError(f"{what}: {fault}") from error


def check_datasets(names: Sequence[str], key: str) -> None:
    """Check that data sets are registered in Detectron2's catalog.

    Args:
        names: names of data sets.
        key: the config key of the names, for the message.

    Raises:
        UserError: a data set is not registered.
    """
    for name in names:
        if name not in DatasetCatalog:
            hint = nearest(str(name), DatasetCatalog.list())  # a yaml config may give a number
            raise UserError(f"{key}: expected a registered data set, got {name!r}{hint}")


def check_num_classes(names: Sequence[str], num_classes: int | None, keys: Sequence[str]) -> None:
    """Check that the model has as many classes as each data set.

    Args:
        names: names of data sets; sets that are not loaded yet are not checked.
        num_classes: the number of classes of the model; None if it is unknown.
        keys: the config keys of the number of classes, for the message.

    Raises:
        UserError: the model and a data set have different numbers of classes.
    """
    for name in names:
        classes = MetadataCatalog.get(name).get("thing_classes")
        if classes is not None and num_classes is not None and len(classes) != num_classes:
            raise UserError(
                f"{' or '.join(keys) or 'the number of classes of the model'}: expected "
                f"{len(classes)}, the number of classes of the data set {name!r}, got {num_classes}"
            )


def check_trained_classes(names: Sequence[str], trained: list[str] | None, weights: str) -> None:
    """Check that weights were trained on the classes of the data sets, in the same order.

    Args:
        names: names of data sets.
        trained: the class names in the checkpoint; None if it has none.
        weights: the path of the checkpoint, for the message.

    Raises:
        UserError: the classes or their order differ.
    """
    for name in names:
        classes = MetadataCatalog.get(name).get("thing_classes")
        if trained is not None and classes is not None and list(trained) != list(classes):
            pairs = enumerate(zip(trained, classes, strict=False))
            i = next((i for i, (a, b) in pairs if a != b), None)
            first_difference = (
                ""
                if i is None
                else f" (class {i} is {trained[i]!r} there and {classes[i]!r} in the data set)"
            )
            raise UserError(
                f"{weights!r}: expected weights trained on the "
                f"{quantity(len(classes), 'class', 'classes')} of the data set {name!r}, got "
                f"weights trained on {quantity(len(trained), 'class', 'classes')}{first_difference}"
            )


def check_categories(name: str, records: Iterable[dict[str, Any]]) -> None:
    """Check the class of each object of a data set with class names.

    Args:
        name: the name of the data set.
        records: its images in Detectron2's format.

    Raises:
        UserError: a class is out of range; the message names the image and the annotation.
    """
    classes = MetadataCatalog.get(name).get("thing_classes")
    for record in records if classes is not None else ():
        for i, annotation in enumerate(record.get("annotations", ())):
            index = annotation.get("category_id")
            is_known = isinstance(index, Real) and 0 <= index < len(classes)
            if not is_known and not annotation.get("iscrowd", 0):
                last = len(classes) - 1
                expected = (
                    f"expected a category_id from 0 to {last}" if last else "expected category_id 0"
                )
                raise UserError(
                    f"the data set {name!r}: annotation {i} of the image "
                    f"{record.get('file_name')!r}: {expected}, got {show(index)}"
                )


def check_for_masks(records: Sequence[dict[str, Any]], mapper: Any, names: Sequence[str]) -> None:
    """Check that a training set has masks if its mapper loads masks.

    Args:
        records: the training set in Detectron2's format.
        mapper: the mapper of the training loader.
        names: names of the data sets, for the message.

    Raises:
        UserError: the mapper loads masks, but no object has one.
    """
    loads_masks = (isinstance(mapper, BoxMapper) and mapper.masks) or (
        isinstance(mapper, DatasetMapper) and mapper.use_instance_mask
    )
    if loads_masks and not any("segmentation" in a for r in records for a in r["annotations"]):
        raise UserError(
            f"{', '.join(names)}: expected masks, got only boxes; the config trains masks, so use "
            "a config without masks or annotations with 'segmentation'"
        )
