"""From the arguments of the command line to a training, an evaluation, predictions or a preview."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from detectron2.utils.logger import setup_logger

from ranking_det.data import release_sets
from ranking_det.engine.checkpoint import (
    find_last,
    find_resumable,
    find_weights,
    load_weights,
    next_iteration,
    read_extras,
)
from ranking_det.engine.classes import check_trained_classes, classes_of, take_classes
from ranking_det.engine.errors import (
    check_classes,
    check_datasets,
    check_device,
    check_masks,
    check_output_dir,
    check_sets,
    prepare_datasets,
)
from ranking_det.engine.evaluation import augment, evaluate
from ranking_det.engine.experiment import Experiment, Settings
from ranking_det.engine.lazy_experiment import LazyExperiment
from ranking_det.engine.output_folder import (
    check_no_training,
    check_not_put_aside,
    check_still_no_training,
    remove_partial,
    sole_writer,
    where_put,
)
from ranking_det.engine.own_data import OwnData, check_own_names, log_own_data, take_own_data
from ranking_det.engine.predict import predict
from ranking_det.engine.saved_config import is_saved_config
from ranking_det.engine.schedule import Schedule, fit_schedule
from ranking_det.engine.setup import set_up
from ranking_det.engine.training import distribute, train
from ranking_det.engine.yaml_experiment import YamlExperiment
from ranking_det.user_errors import UserError
from ranking_det.visualization.preview import preview

logger = logging.getLogger(__name__)


def load_experiment(path: str, overrides: list[str], *, trust: bool = False) -> Experiment:
    """Load a config of either kind.

    Args:
        path: a .py file, which is a program, or a yaml file, which is not.
        overrides: of its keys; they may name any function or class.
        trust: whether a yaml file may, too.

    Raises:
        UserError: it is missing or faulty, or an override is.
    """
    if path.endswith((".yaml", ".yml")):
        # The config that a run of a LazyConfig leaves in its folder is yaml too.
        kind = LazyExperiment if is_saved_config(path) else YamlExperiment
        return kind(path, overrides, trust=trust)
    if not path.endswith(".py"):
        raise UserError(f"--config-file must end in .py, .yaml or .yml, got {path!r}")
    return LazyExperiment(path, overrides)


def prepare(args: argparse.Namespace) -> tuple[Experiment, OwnData, str]:
    """The config, the user's data and the weights, all checked; nothing is written.

    Raises:
        UserError: whatever can be known to be wrong before anything is written.
    """
    experiment = load_experiment(args.config_file, args.opts, trust=args.trust_config)
    data = take_own_data(experiment, args)
    settings, keys = experiment.settings(), experiment.keys
    writes_elsewhere = args.output and (args.predict or args.preview is not None)
    if writes_elsewhere:
        check_output_dir(args.output, "--output")
    else:
        check_output_dir(settings.output_dir, keys.output_dir)
    _check_folder(experiment, args)
    check_device(settings.device, keys.device)
    # To evaluate, what a run has trained comes before what its config started from.
    trained = (args.eval_only or args.predict) and find_last(settings.output_dir)
    given = "" if trained and keys.weights not in experiment.overridden else settings.weights
    if args.overwrite:
        given = where_put(settings.output_dir, given)
    weights = find_weights(
        args, given, settings.output_dir, (f"{keys.weights}=FILE", keys.output_dir)
    )
    splits = ["train"] * (not args.eval_only) + ["test"] * (args.preview is None)
    if args.predict:
        take_classes(experiment, weights)
    else:
        _check_data(experiment, splits)
    if args.eval_only or args.resume:
        check_trained_classes(experiment, weights, splits[-1] if args.eval_only else "train")
    if experiment.schedule()[0].lr <= 0:
        raise UserError(f"the learning rate must be > 0, got {experiment.schedule()[0].lr}")
    _check_processes(settings, args)
    if args.preview is not None and args.preview < 1:
        raise UserError(f"--preview must be at least 1, got {args.preview}")
    if args.resume:
        _check_end(experiment, weights)
    # The constructors refuse what the config has wrong.
    augment(experiment, experiment.model())
    return experiment, data, weights


def check_first(args: argparse.Namespace) -> None:
    """Check once what several processes would each complain about.

    Raises:
        UserError: as :func:`prepare` does.
    """
    if torch.cuda.is_available():  # which this process, that only waits, must not hold
        experiment = load_experiment(args.config_file, args.opts, trust=args.trust_config)
        take_own_data(experiment, args)
        _check_folder(experiment, args)
    else:
        prepare(args)


def run(args: argparse.Namespace) -> str:
    """Do what the command line asks for; return the folder where the results are."""
    experiment, data, weights = prepare(args)
    comm.synchronize()  # a process that is late must not find what another has written
    if args.predict:
        return _predict(experiment, weights, args)
    if args.preview is not None:
        return _preview(experiment, data, weights, args)
    if args.eval_only:
        return _evaluate(experiment, data, weights, args)
    with sole_writer(experiment.settings().output_dir):
        return _train(experiment, data, weights, args)


def _evaluate(experiment: Experiment, data: OwnData, weights: str, args: argparse.Namespace) -> str:
    settings = experiment.settings()
    set_up(settings, args)
    log_own_data(data, masks=experiment.learns_masks())
    prepare_datasets(experiment.names("test"))
    model = experiment.model()
    load_weights(model, weights, whole=True)
    logger.info("Evaluating %s", weights)
    evaluate(experiment, distribute(model, settings.device))
    return settings.output_dir


def _train(experiment: Experiment, data: OwnData, weights: str, args: argparse.Namespace) -> str:
    output_dir = experiment.settings().output_dir
    if comm.is_main_process():
        if not (args.resume or args.overwrite):
            check_still_no_training(output_dir, experiment.keys.output_dir)
        remove_partial(output_dir)
    set_up(experiment.settings(), args)
    if args.resume and weights != find_last(output_dir):
        logger.warning("The last checkpoint is missing or broken: an earlier one is resumed")
    log_own_data(data, masks=experiment.learns_masks())
    prepare_datasets([*experiment.names("train"), *experiment.names("test")])
    check_sets(experiment.names("test"))
    for name in experiment.test_sets():
        experiment.evaluator(name)  # what it refuses would end the training at an evaluation
    start = next_iteration(weights) if args.resume else None
    loader = _train_loader(experiment, start or 0)
    train(experiment, loader, weights, lambda model: evaluate(experiment, model), resume_at=start)
    return output_dir


def _check_folder(experiment: Experiment, args: argparse.Namespace) -> None:
    """Raise UserError if a training would lose another one, or resume an unclear one."""
    output_dir, key = experiment.settings().output_dir, experiment.keys.output_dir
    if args.resume:
        check_not_put_aside(output_dir, key)
    elif not (args.overwrite or args.eval_only or args.predict or args.preview is not None):
        check_no_training(output_dir, key, resumable=bool(find_resumable(output_dir)))


def _check_end(experiment: Experiment, weights: str) -> None:
    """Raise UserError if the checkpoint to resume is past the end of the training."""
    done, length, keys = next_iteration(weights), _length(experiment), experiment.keys
    if done > length:
        raise UserError(
            f"--resume: {weights} has {done} iterations, more than {keys.max_iter}={length}: give "
            f"{keys.max_iter} of at least {done}, evaluate it with --eval-only, or start again "
            f"with --overwrite or another {keys.output_dir}=FOLDER"
        )


def _length(experiment: Experiment) -> int:
    """The iterations of a training, its schedule fitted to the data; only epochs need them."""
    settings, names = experiment.settings(), experiment.names("train")
    written, fixed = experiment.schedule()
    if "max_iter" in fixed or not settings.batch or not names:
        return written.max_iter
    num_images = 1
    if settings.epochs:
        prepare_datasets(names)
        num_images = len(experiment.records() or [])
    return _fit(experiment, num_images)[0].max_iter


def _check_processes(settings: Settings, args: argparse.Namespace) -> None:
    # Before they are started there is one.
    world = max(comm.get_world_size(), args.num_gpus * args.num_machines)
    if world > 1 and (args.predict or args.preview is not None):
        raise UserError("--predict and --preview take one process")
    if settings.batch % world and not args.eval_only:
        raise UserError(f"a batch of {settings.batch} cannot be shared by {world} processes")
    if world > 1 and settings.device.startswith("cuda:"):
        raise UserError(f"several processes need the device 'cuda', got {settings.device!r}")
    if world > 1 and settings.device == "cpu" and torch.cuda.is_available():
        raise UserError(
            "several processes on the CPU of a machine with GPUs need "
            "CUDA_VISIBLE_DEVICES= in front of the command"
        )


def _check_data(experiment: Experiment, splits: Sequence[str]) -> None:
    settings, keys = experiment.settings(), experiment.keys
    for split in splits:
        names = experiment.names(split)
        check_own_names(names)
        check_datasets(names, keys.train_names if split == "train" else keys.test_names)
        check_classes(names, settings.num_classes, keys.classes)


def _train_loader(experiment: Experiment, start: int) -> Any:
    """The loader, once the schedule fits what it loads; the records do not outlive this call."""
    records, names = experiment.records(), experiment.names("train")
    if records:
        check_masks(records, experiment.mapper("train").mapper, names)
        fit_to_data(experiment, len(records))
    loader = experiment.train_loader(records, start)
    release_sets(set(names) - set(experiment.names("test")))
    return loader


def fit_to_data(experiment: Experiment, num_images: int) -> None:
    """Set the schedule for so many images, and log what changes."""
    if not experiment.settings().batch:
        return
    fitted, lines = _fit(experiment, num_images)
    for line in lines:
        logger.info("%s", line)
    experiment.set_schedule(fitted)


def _fit(experiment: Experiment, num_images: int) -> tuple[Schedule, list[str]]:
    settings = experiment.settings()
    written, fixed = experiment.schedule()
    return fit_schedule(
        written,
        epochs=settings.epochs,
        num_images=num_images,
        batch=settings.batch,
        reference_batch=settings.reference_batch,
        fixed=fixed,
    )


def _predict(experiment: Experiment, weights: str, args: argparse.Namespace) -> str:
    setup_logger(name="ranking_det")
    extras = read_extras(weights)
    names, ids = extras.get("class_names"), extras.get("category_ids")
    if names is None:
        names, ids = classes_of(experiment)
    count = experiment.settings().num_classes
    if names is not None and count is not None and len(names) != count:
        names, ids = None, None  # those of a data set that the weights are not for
    model = experiment.model()
    load_weights(model, weights, whole=True)
    output_dir = args.output or str(Path(experiment.settings().output_dir, "predictions"))
    predict(
        augment(experiment, model),
        args.predict,
        output_dir,
        class_names=names,
        category_ids=ids if ids is not None else range(count or 0),
        mapper=experiment.mapper("test"),
    )
    return output_dir


def _preview(experiment: Experiment, data: OwnData, weights: str, args: argparse.Namespace) -> str:
    setup_logger(name="ranking_det")
    log_own_data(data, masks=experiment.learns_masks())
    prepare_datasets(experiment.names("train"))
    model = experiment.model().train()
    load_weights(model, weights, whole=False)
    folder = args.output or str(Path(experiment.settings().output_dir, "preview"))
    with EventStorage():
        summary = preview(
            model,
            experiment.train_loader(experiment.records(), 0),
            args.preview,
            folder,
            classes_of(experiment)[0],
        )
    if summary.without_positive:
        logger.warning(
            "%d of %d objects have no positive: the assigner finds no anchor for them",
            summary.without_positive,
            summary.objects,
        )
    return folder
