"""Run the command line: train, evaluate, predict or preview."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.events import EventStorage
from detectron2.utils.logger import setup_logger
from torch.distributed import is_torchelastic_launched

import ranking_det.modeling  # noqa: F401 - registers the models in Detectron2
from ranking_det.data.catalog import missing_shapes, release_sets
from ranking_det.data.mapper import BoxMapper, UnreadableImages
from ranking_det.engine.checkpoint import how_to_continue
from ranking_det.engine.command import Command, parse
from ranking_det.engine.custom_data import log_custom_data, warn_of_equal_files, write_faults
from ranking_det.engine.evaluate import evaluate
from ranking_det.engine.failures import lost_connection, run_failure
from ranking_det.engine.heartbeats import TIMEOUT
from ranking_det.engine.launching import GRACE, check_processes, start, watched
from ranking_det.engine.output_folder import check_still_no_training, remove_partial, sole_writer
from ranking_det.engine.part_errors import one_line_errors
from ranking_det.engine.plan import Plan, check_records, make_missing_sets, make_plan
from ranking_det.engine.predict import predict_images
from ranking_det.engine.preview import draw_previews
from ranking_det.engine.resuming import describe_training_data
from ranking_det.engine.stopping import CheckpointRequest, Stopped, on_signals, stop
from ranking_det.engine.training import distribute, train_model
from ranking_det.user_errors import RunError, UserError, line_of, quantity

logger = logging.getLogger(__name__)

SHORT_RUN = 200
"""A schedule that is fitted to the user's data gives a warning if it has fewer iterations."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status.

    A user error is printed as one line on stderr, and so is the signal that stops the command.

    Args:
        argv: the arguments; None for ``sys.argv[1:]``.

    Returns:
        0 on success, 2 for a user error, 1 for another failure such as a loss that became NaN, a
        full disk or a process that was killed, 128 + the number of the signal if Ctrl-C (130),
        SIGTERM (143) or SIGUSR1 (138) has stopped the command.
    """
    try:
        with on_signals(stop, signal.SIGINT, signal.SIGTERM):
            command = parse(argv)
            if command.num_processes > 1 and not is_torchelastic_launched():
                return _start_several(command)
            return start(_work, command)
    except (UserError, RunError) as error:
        return _report_error(error)
    except KeyboardInterrupt as interrupt:  # the code of a config can raise one too
        stopped = interrupt if isinstance(interrupt, Stopped) else Stopped(signal.SIGINT)
        if not is_torchelastic_launched() or os.environ["RANK"] == "0":
            sys.stderr.write(f"train_net.py: {stopped}\n")
        return stopped.status


def _start_several(command: Command) -> int:
    """Check the command once, and run it in several processes."""
    check_processes(command)
    plan = make_plan(command, starts_others=True)
    output_dir = plan.output_dir
    try:
        plan.write_data()
    except OSError as error:
        raise (
            run_failure(error, [output_dir], lambda: "start the command again") or error
        ) from error
    # From here on this process only waits, so free the memory of the parsed files.
    release_sets([*plan.config.names("train"), *plan.config.names("test")])
    command = replace(plan.command, custom_data=plan.data)
    del plan
    return start(_work, command, output_dir=output_dir if command.trains else "")


def _work(command: Command) -> int:
    """Run the command in this process; print the folder with the results as the last line."""
    folder = run(command)
    if comm.is_main_process():
        sys.stdout.write(f"{folder}\n")
    return 0


def _report_error(error: UserError | RunError) -> int:
    """Write the error as one line, and return the exit status: 2 for a user error, else 1."""
    sys.stderr.write(f"train_net.py: error: {line_of(error)}\n")
    return 2 if isinstance(error, UserError) else 1


def run(command: Command) -> str:
    """Train, evaluate, predict or preview, depending on the command.

    Args:
        command: the parsed command line.

    Returns:
        The folder with the results.

    Raises:
        UserError: the command, the config or a file is wrong.
        RunError: a loss became NaN or infinite, or a process was killed.
    """
    plan = make_plan(command)
    comm.synchronize()  # a slow process must not check a folder that a faster one has changed

    def advice() -> str:
        return how_to_continue(plan.output_dir) if command.trains else "start the command again"

    with one_line_errors(plan.model, [command.output, plan.output_dir], advice):
        try:
            with watched(plan.config.train.get("timeout", TIMEOUT), advice):
                return _run_plan(plan)
        except Exception as error:
            if lost_connection(error):
                # If another process of this machine is the cause, the parent ends this one now.
                time.sleep(2 * GRACE)
            raise


def _run_plan(plan: Plan) -> str:
    """Train, evaluate, predict or preview; return the folder with the results."""
    command = plan.command
    if command.predict:
        return predict(plan)
    if command.preview is not None:
        return preview(plan)
    if command.eval_only:
        return evaluate_weights(plan)
    request = CheckpointRequest()
    with sole_writer(plan.output_dir), on_signals(request.receive, signal.SIGUSR1):
        return train(plan, request)


def train(plan: Plan, request: CheckpointRequest) -> str:
    """Train a model; the caller must hold the lock of the output folder.

    Args:
        plan: the checked command.
        request: the request for a checkpoint and an early end.

    Returns:
        The output folder.

    Raises:
        UserError: another command has trained in the folder in the meantime, a file of the data is
            faulty, or the checkpoint does not fit the model.
        RunError: the disk is full, or a loss became NaN or infinite.
    """
    config, command = plan.config, plan.command
    if comm.is_main_process():
        if not (command.resume or command.overwrite):
            check_still_no_training(plan.output_dir, config.user_key("train.output_dir"))
        remove_partial(plan.output_dir)
    plan.write_data()
    set_up(plan)
    if plan.weights.note:
        logger.warning(
            "The last checkpoint is missing or broken (%s): resuming from an earlier one",
            plan.weights.note,
        )
    make_missing_sets(missing_shapes([*config.names("train"), *config.names("test")]))
    if plan.records is None:  # the training set was missing, or the config's loader has its own
        plan.records = config.records()
        check_records(plan, plan.records)
    loader, statistics_loader, skipped = _train_loaders(plan)
    train_model(plan, loader, statistics_loader, request)
    skipped.log_total()
    return plan.output_dir


def evaluate_weights(plan: Plan) -> str:
    """Evaluate the weights of a plan on its test sets.

    Args:
        plan: the checked command.

    Returns:
        The output folder.

    Raises:
        UserError: the checkpoint does not fit the model, or a file of the data is faulty.
    """
    plan.write_data()
    set_up(plan)
    plan.prepare_inference()
    logger.info("Evaluating %s", plan.weights.path)
    if plan.fitted is not None:
        logger.info("The scores are calibrated with --fitted")
    evaluate(plan.config, distribute(plan.model, plan.config.train.device), plan.fitted)
    return plan.output_dir


def predict(plan: Plan) -> str:
    """Detect objects in the user's images.

    Args:
        plan: the checked command.

    Returns:
        The folder with the predictions.

    Raises:
        UserError: the checkpoint does not fit the model, or an image cannot be read.
    """
    setup_logger(name="ranking_det")
    config = plan.config
    names, ids = plan.classes()
    if ids is None:
        ids = range(config.num_classes(plan.model) or 0)
    plan.prepare_inference()
    model, mapper = config.augment(plan.model), config.mapper("test")
    output_dir = plan.command.output or str(Path(plan.output_dir, "predictions"))
    classes = {"class_names": names, "category_ids": ids}
    options = classes | {"mapper": mapper, "fitted": plan.fitted}
    predict_images(model, plan.command.predict, output_dir, **options)
    return output_dir


def preview(plan: Plan) -> str:
    """Draw training images with their ground-truth objects and positives.

    Args:
        plan: the checked command.

    Returns:
        The folder with the images.

    Raises:
        UserError: the checkpoint does not fit the model, the data are missing or faulty, or there
            are fewer images than requested.
    """
    setup_logger(name="ranking_det")
    config, num_images = plan.config, plan.command.preview or 0
    _check_preview(plan, num_images)
    plan.write_data()
    log_custom_data(plan.data, masks=plan.learns_masks)
    folder = plan.command.output or str(Path(plan.output_dir, "preview"))
    write_faults(plan.data.faults, folder)
    model = plan.model.train()
    plan.load_weights()
    records = plan.take_records()
    skipped = UnreadableImages(str(record.get("file_name")) for record in records or ())
    loader = config.train_loader(records, 0, skipped)
    with EventStorage():
        draw_previews(model, loader, num_images, folder, config.class_names()[0])
    return folder


def _check_preview(plan: Plan, num_images: int) -> None:
    """Raise UserError if the training set has fewer images than the preview should draw."""
    if plan.data.train is not None:
        available = plan.data.train.num_images
    else:
        make_missing_sets(plan.config.names("train"))
        plan.records = plan.take_records()
        available = num_images if plan.records is None else len(plan.records)
    if num_images > available:
        raise UserError(
            f"--preview: expected at most {available}, the number of training images, got "
            f"{num_images}"
        )


def set_up(plan: Plan) -> None:
    """Set up loggers and cuDNN as Detectron2's ``default_setup`` does, without writing the config.

    An evaluation in the folder of a training run must not overwrite the config of the run.
    :func:`make_plan` has set the seed.

    Args:
        plan: the checked command.
    """
    settings = plan.config.train
    # On a full disk the log would print a traceback for each line; other files report the disk.
    logging.raiseExceptions = False
    for name in ("fvcore", "detectron2", "ranking_det"):
        setup_logger(plan.output_dir, distributed_rank=comm.get_rank(), name=name)
    logger.info("Process %d of %d", comm.get_rank(), comm.get_world_size())
    # Without torch's build flags, which fill a screen.
    logger.info("Environment:\n%s", collect_env_info().partition("\nPyTorch built with")[0])
    logger.info("Command line: %s", plan.command)
    for record in plan.messages:
        logging.getLogger(record.name).handle(record)
    if settings.get("seed", 0) < 0:
        logger.info("Using a generated random seed %s", os.environ["PYTHONHASHSEED"])
    # Benchmarking costs more than it saves in a short evaluation with many image sizes.
    if plan.command.trains:
        torch.backends.cudnn.benchmark = settings.get("cudnn_benchmark", False)
    log_custom_data(plan.data, masks=plan.learns_masks)
    warn_of_equal_files(plan.command)
    if comm.is_main_process():
        evaluated = [summary.json_file for summary in plan.data.summaries if summary is not None]
        replaced = None if plan.command.trains else evaluated
        write_faults(plan.data.faults, plan.output_dir, replaced)


def _train_loaders(plan: Plan) -> tuple[Any, Any, UnreadableImages]:
    """Fit the schedule to the training set, and build the loaders.

    Returns the training loader, the loader of PreciseBN or None, and the counts of the skipped
    images. No reference to the records remains after the call.
    """
    config, records = plan.config, plan.take_records()
    if records and comm.is_main_process():
        plan.training_data = describe_training_data(records)
    if records:
        mapper = config.mapper("train").mapper
        dropped = mapper.count_dropped(records) if isinstance(mapper, BoxMapper) else 0
        if dropped:
            logger.warning(
                "%s smaller than %g px and not learned",
                quantity(dropped, "object is", "objects are"),
                mapper.min_side,
            )
        config.fit_to_data(len(records))
    _warn_of_a_short_run(plan)
    skipped = UnreadableImages(str(record.get("file_name")) for record in records or ())
    loader = config.train_loader(records, plan.resume_at or 0, skipped)
    uses_precise_bn = (config.train.get("precise_bn") or {}).get("enabled", False)
    statistics_loader = config.train_loader(records, 0, skipped) if uses_precise_bn else None
    release_sets(set(config.names("train")) - set(config.names("test")))
    return loader, statistics_loader, skipped


def _warn_of_a_short_run(plan: Plan) -> None:
    """Warn if the schedule of a config, fitted to the user's few images, is too short to learn."""
    config, max_iter = plan.config, plan.config.train.max_iter
    is_chosen = "max_iter" in config.schedule()[1]
    if plan.data.train is not None and max_iter < SHORT_RUN and not is_chosen:
        logger.warning(
            "The run has only %d iterations (%.4g epochs of your images), too few to learn much: "
            "raise %s, or set %s=1000 or more",
            max_iter,
            max_iter / config.schedule()[0].epoch,
            config.user_key("train.epochs"),
            config.user_key("train.max_iter"),
        )
