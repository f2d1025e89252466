"""Turn a command into a checked plan, without writing any file.

All errors that can be detected before a run are detected here. Missing shapes data sets are
generated when they are loaded. A plan generates them only if the length of a resumed run depends on
the number of images.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from omegaconf import OmegaConf
from torch import nn

from ranking_det.data.catalog import missing_shapes, prepare_registered
from ranking_det.data.conversion_plan import ConversionPlan
from ranking_det.data.images import set_max_pixels
from ranking_det.data.stream import seeded
from ranking_det.engine import run_checks
from ranking_det.engine.checkpoint import (
    Checkpoint,
    find_last,
    find_resumable,
    find_weights,
    load_weights,
)
from ranking_det.engine.command import Command
from ranking_det.engine.custom_data import (
    NAMES,
    CustomData,
    check_custom_names,
    convert_custom_data,
    missing_custom_data,
    prepare_custom_data,
    read_custom_masks,
    register_custom_data,
)
from ranking_det.engine.fitted_scores_lookup import find_fitted
from ranking_det.engine.output_folder import (
    check_names,
    check_no_training,
    check_not_put_aside,
    where_put,
)
from ranking_det.engine.resuming import check_states
from ranking_det.engine.run_config import Records, RunConfig, load_config
from ranking_det.evaluation.fitted_scores import FittedScores
from ranking_det.modeling.interface import interface_of
from ranking_det.modeling.yaml_keys import check_masks
from ranking_det.path_checks import check_apart, check_file, check_output_dir
from ranking_det.user_errors import UserError, disable_log, listed, record_log

logger = logging.getLogger(__name__)


@dataclass
class Plan:
    """A checked command with its config, weights and model.

    Attributes:
        command: the parsed command line.
        config: the config, adapted to the custom data.
        data: summaries of the custom data.
        weights: the checkpoint to start from, to resume, to evaluate or to predict with; its path
            may be "".
        model: the model on its device. It is built once, and the run continues with the random
            state after its initialization.
        dtype: the half precision of a training run: "float16", "bfloat16" or "" for none.
        records: the training set, if it was loaded to count its images.
        sources: the conversion of the user's data, for :meth:`write_data`; None without one.
        training_data: facts about the training set for checkpoints, such as the number of images.
        messages: the log of the data sets, which the run repeats in its log file.
        fitted: the calibrators and thresholds of ``--fitted``; None without it.
    """

    command: Command
    config: RunConfig
    data: CustomData
    weights: Checkpoint
    model: nn.Module
    dtype: str
    records: Records | None = None
    sources: ConversionPlan | None = None
    training_data: dict[str, Any] = field(default_factory=dict)
    messages: list[logging.LogRecord] = field(default_factory=list)
    fitted: FittedScores | None = None

    @property
    def output_dir(self) -> str:
        """The output folder of a training run or an evaluation."""
        return str(self.config.train.output_dir)

    @property
    def learns_masks(self) -> bool:
        """Whether the model learns masks."""
        return interface_of(self.model).learns_masks

    @property
    def resume_at(self) -> int | None:
        """The iteration at which a resumed run starts; None for a new run."""
        return self.weights.next_iteration if self.command.resume else None

    def classes(self) -> tuple[list[str] | None, list[int] | None]:
        """Return the names of the model's classes and their category ids; None if unknown.

        They are those of the checkpoint, else those of the config's data sets.
        """
        extras = self.weights.extras
        names, ids = extras.get("class_names"), extras.get("category_ids")
        if names is None:
            names, ids = self.config.class_names()
        count = self.config.num_classes(self.model)
        if names is not None and count is not None and len(names) != count:
            return None, None  # the config's data set has other classes than the weights
        return names, ids

    def write_data(self) -> None:
        """Write the user's converted data, once per machine, and free their memory."""
        if self.sources is not None and comm.get_local_rank() == 0:
            self.sources.write()
        self.sources = None
        comm.synchronize()

    def load_weights(self) -> None:
        """Load the weights into the model; log those that are missing or unused.

        Raises:
            UserError: the weights do not fit the model.
        """
        command = self.command
        strict = command.resume or command.eval_only or bool(command.predict)
        load_weights(self.model, self.weights, strict=strict)

    def prepare_inference(self) -> None:
        """Load the weights for inference, and generate the missing test sets of an evaluation.

        A warning is logged if the test images are preprocessed differently than in the run of the
        weights.

        Raises:
            UserError: the weights do not fit the model, or a file of the data is faulty.
        """
        if self.command.eval_only:
            make_missing_sets(missing_shapes(self.config.names("test")))
        self.load_weights()
        changes = self.config.input_changes(self.weights.extras.get("config") or "")
        if changes:
            logger.warning(
                "The images are preprocessed differently than in the run that trained %s, which "
                "can make the detections worse: %s; repeat the overrides of the run, or use its "
                "config.yaml",
                self.weights.path,
                listed(changes),
            )

    def take_records(self) -> Records | None:
        """Return the training set, loading it if needed, and keep no reference to it."""
        records, self.records = self.records, None
        return self.config.records() if records is None else records


def make_plan(command: Command, *, starts_others: bool = False) -> Plan:
    """Load and check the config, data and weights of a command, and build the model.

    Args:
        command: the parsed command line.
        starts_others: whether this process only launches the worker processes. It then makes the
            same checks once, uses no GPU, leaves the model on the CPU, and sets no seed.

    Raises:
        UserError: any user error that can be detected before a file is written.
    """
    set_max_pixels(command.max_pixels)
    path = command.config_file
    if command.overwrite and not Path(path).exists():
        path = where_put(str(Path(path).parent), path)
    config = load_config(path, command.overrides, trust=command.trust_config)
    _check_apart(config, command)
    command, sources = convert_custom_data(config, command)
    data = prepare_custom_data(config, command, sources)
    settings = config.train
    _check_folders(config, command)
    if not (starts_others and torch.cuda.is_available()):
        run_checks.check_device(settings.device, config.user_key("train.device"))
    dtype = run_checks.choose_dtype(settings.get("amp") or {}, settings.device)
    weights = _find_weights(config, command)
    splits = ["train"] * (not command.eval_only) + ["test"] * (command.preview is None)
    if not command.predict:
        _check_data(config, command, splits)
    elif weights.extras.get("class_names") is not None and config.num_classes_keys:
        config.set_num_classes(len(weights.extras["class_names"]))
    if command.eval_only or command.resume:
        _check_trained_classes(config, command, data, weights)
    _check_processes(config, command)
    if not starts_others and (command.trains or command.eval_only):
        seed = settings.get("seed", 0)
        seed_all_rng(None if seed < 0 else seed + comm.get_rank())
    model = config.model()
    if not starts_others:
        model.to(settings.device)
    data = read_custom_masks(command, data, model)
    plan = Plan(command, config, data, weights, model, dtype, sources=sources)
    _check_model(plan, [] if command.predict else splits)
    # The converted data are only in the memory of the process that starts the others.
    if (not starts_others or sources is not None) and (command.trains or command.eval_only):
        _load_data(plan)
    if command.resume:
        _check_end(plan)
    evaluator = config.nodes.dataloader.evaluator
    plan.fitted = find_fitted(command, weights, plan.classes()[0], evaluator)
    _try_weights(plan)
    return plan


def make_missing_sets(names: Sequence[str]) -> None:
    """Generate the shapes data sets that are missing; check the annotation files of the others.

    Args:
        names: registered data sets.

    Raises:
        UserError: the path of a shapes data set is occupied, or an annotation file is missing.
    """
    try:
        prepare_registered(names)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    for name in names:
        path = MetadataCatalog.get(name).get("json_file")
        if path:
            check_file(path, f"the annotation file of {name!r}")


def _check_folders(config: RunConfig, command: Command) -> None:
    """Raise UserError if the output folder is not writable or already has a training run."""
    output_dir, key = config.train.output_dir, config.user_key("train.output_dir")
    only_draws = command.predict or command.preview is not None
    if only_draws and command.output:
        check_output_dir(command.output, "--output")
        return
    check_output_dir(output_dir, key)
    if only_draws:
        folder = "predictions" if command.predict else "preview"
        check_output_dir(str(Path(output_dir, folder)), key)
        return
    check_names(output_dir, key)
    results = OmegaConf.select(config.nodes, "dataloader.evaluator.output_dir")
    if isinstance(results, str):
        check_output_dir(results, config.user_key("dataloader.evaluator.output_dir"))
    if command.resume:
        check_not_put_aside(output_dir, key)
    elif command.trains and not command.overwrite:
        check_no_training(output_dir, key, resumable=find_resumable(output_dir) is not None)


def _check_apart(config: RunConfig, command: Command) -> None:
    """Raise UserError if the output folder is a folder of the user's data or of their JSON file."""
    names = ("train", "val", "train_json", "val_json", "train_images", "val_images")
    inputs = {f"--{name.replace('_', '-')}": vars(command)[name] for name in names}
    key = config.user_key("train.output_dir")
    check_apart(config.train.output_dir, inputs, key)


def _find_weights(config: RunConfig, command: Command) -> Checkpoint:
    output_dir, key = config.train.output_dir, config.user_key("train.init_checkpoint")
    weights = config.train.init_checkpoint
    # An evaluation prefers the last checkpoint of the run to the weights that the run started from.
    if (command.eval_only or command.predict) and key not in config.overridden:
        weights = "" if find_last(output_dir) else weights
    if command.overwrite:
        weights = where_put(output_dir, weights)
    keys = key, config.user_key("train.output_dir")
    return find_weights(command, weights, output_dir, keys)


def _check_data(config: RunConfig, command: Command, splits: Sequence[str]) -> None:
    for split in splits:
        names = config.names(split)
        if not names and config.yaml is not None and (split == "train" or command.eval_only):
            raise UserError(f"{config.names_key(split)}: expected at least one data set, got none")
        check_custom_names(names)
        run_checks.check_datasets(names, config.names_key(split))
    name = OmegaConf.select(config.nodes, "dataloader.evaluator.dataset_name")
    if "test" in splits and isinstance(name, str):
        run_checks.check_datasets([name], "dataloader.evaluator.dataset_name")


def _check_trained_classes(
    config: RunConfig, command: Command, data: CustomData, weights: Checkpoint
) -> None:
    class_names = weights.extras.get("class_names")
    if command.eval_only and data.val is not None and class_names is not None:
        register_custom_data(config, command, data, class_names, weights.path)
    names = config.names("test" if command.eval_only else "train")
    try:
        run_checks.check_trained_classes(names, class_names, weights.path)
    except UserError:
        split = "val" if command.eval_only else "train"
        is_of_custom_data = re.search(rf"\b{NAMES[split]}\b", weights.extras.get("config") or "")
        if is_of_custom_data and NAMES[split] not in names:
            raise missing_custom_data(split, f"{weights.path!r} was trained") from None
        raise


def _check_processes(config: RunConfig, command: Command) -> None:
    # In the process that launches the others, the world size is 1.
    world = max(comm.get_world_size(), command.num_processes)
    if world > 1 and (command.predict or command.preview is not None):
        flag = "--predict" if command.predict else "--preview"
        raise UserError(f"{flag}: expected one process, got {world}")
    batch = 0 if command.eval_only else config.batch
    keys = config.user_key("dataloader.train.total_batch_size"), config.user_key("train.device")
    run_checks.check_batch(batch, config.train.device, world, keys)
    if command.preview is not None and command.preview < 1:
        raise UserError(f"--preview: expected at least 1, got {command.preview}")


def _check_model(plan: Plan, splits: Sequence[str]) -> None:
    """Raise UserError unless the model fits the data and the test-time augmentation."""
    config = plan.config
    for split in splits:
        num_classes, keys = config.num_classes(plan.model), config.num_classes_keys
        run_checks.check_num_classes(config.names(split), num_classes, keys)
    config.augment(plan.model)
    _check_tensors(plan.model)
    if config.yaml is not None:
        check_masks(config.yaml)
    try:
        interface_of(plan.model).check_parts()
    except ValueError as error:
        raise UserError(f"{config.user_key('model')}: {error}") from error
    config.check_parts(plan.model, trains=plan.command.trains)
    run_checks.check_detector(plan.model, config.user_key("model"))


def _load_data(plan: Plan) -> None:
    """Load the training set and the test sets, whose errors show only then.

    The user's converted data are still in memory. Missing shapes have no errors and are generated
    by the run.
    """
    config, trains = plan.config, plan.command.trains
    names = [*(config.names("train") if trains else ()), *config.names("test")]
    missing = missing_shapes(names)
    with record_log() as plan.messages:
        if plan.sources is None:
            make_missing_sets([name for name in names if name not in missing])
        elif config.evaluator_reads_files:
            missing += config.names("test")  # their files are still to be written
        if trains and not set(config.names("train")) & set(missing):
            plan.records = config.records()
        config.check_test_sets(missing)
    check_records(plan, plan.records)


def check_records(plan: Plan, records: Records | None) -> None:
    """Check that the model can learn from the training set.

    Args:
        plan: the plan of a training run.
        records: the training set; None if the loader has none.

    Raises:
        UserError: there are no images, the objects have no masks although the model learns them,
            the mapper of the config fails, or batch normalization gets a single value from the
            smallest image alone.
    """
    config = plan.config
    if records is None:
        return
    if not records:
        raise UserError(f"{config.names_key('train')}: expected images to train on, got none")
    mapper = config.mapper("train")
    run_checks.check_for_masks(records, mapper.mapper, config.names("train"))
    smallest = min(records, key=lambda record: max(record.get("height", 0), record.get("width", 0)))
    key = config.user_key("dataloader.train.mapper")
    with seeded(0, 0), run_checks.named_parts(plan.model, key):
        try:
            inputs = mapper(smallest)
        except UserError:  # an unreadable image, which the training skips
            return
    if config.batch <= max(comm.get_world_size(), plan.command.num_processes):
        key = config.user_key("dataloader.train.total_batch_size")
        run_checks.check_batch_norm(plan.model, inputs, key)


def _check_tensors(model: nn.Module) -> None:
    """Raise UserError for a weight without entries, a flat anchor or wrong pixel statistics."""
    for name, weight in model.named_parameters():
        if not weight.numel():
            shape = tuple(weight.shape)
            raise UserError(f"model: expected weights with entries, got {name} of shape {shape}")
    buffers = dict(model.named_buffers())
    for name in (name for name in buffers if "cell_anchors" in name):
        sides = buffers[name][:, 2:] - buffers[name][:, :2]
        if not len(sides) or not (sides > 0).all():
            raise UserError(f"model.{name}: expected anchors with a width and height")
    for name, low in (("pixel_mean", -math.inf), ("pixel_std", 0.0)):
        for value in buffers[name].flatten().tolist() if name in buffers else ():
            if not low < value < math.inf:
                above = " above 0" if low == 0 else ""
                raise UserError(f"model.{name}: expected finite numbers{above}, got {value:g}")


def _try_weights(plan: Plan) -> None:
    """Load the weights without a log, so that a file that does not fit is an error of the plan.

    The run loads them into the model again and logs what is missing. The file is read only once.
    """
    with disable_log():
        plan.load_weights()
    if plan.command.resume:
        config = plan.config
        optimizer = config.optimizer(plan.model)
        scheduler = config.scheduler(optimizer)
        key = config.user_key("train.init_checkpoint")
        check_states(plan.weights, optimizer, scheduler, key, scales=plan.dtype == "float16")


def _check_end(plan: Plan) -> None:
    """Raise UserError if the checkpoint to resume has more iterations than the run."""
    config, iterations = plan.config, plan.weights.next_iteration
    (length, *_), fixed = config.schedule()
    names, key = config.names("train"), config.user_key("train.max_iter")
    if "max_iter" not in fixed and config.batch and names:
        num_images = 1  # the number matters only for a length in epochs
        if config.train.get("epochs", 0):
            if plan.records is None:
                make_missing_sets(names)
                plan.records = config.records() or []
            num_images = len(plan.records)
        length = config.fitted_schedule(num_images)[0].max_iter
    if iterations > length:
        raise UserError(
            f"{key}: expected at least {iterations}, the iterations of {plan.weights.path}, to "
            f"resume, got {length}; raise {key}, evaluate the checkpoint with --eval-only, or "
            "start again with --overwrite or with another "
            f"{config.user_key('train.output_dir')}=FOLDER"
        )
