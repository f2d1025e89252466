"""Evaluation of a config's model on its test sets."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from torch import distributed, nn

from ranking_det.engine.errors import build, check_classes
from ranking_det.engine.experiment import Experiment
from ranking_det.engine.per_class import write_per_class
from ranking_det.engine.results import write_results
from ranking_det.modeling.interface import interface_of
from ranking_det.modeling.score_watch import watch_scores


def evaluate(experiment: Experiment, model: nn.Module) -> dict[str, Any]:
    """Log the metrics; write results.json and the AP of each class.

    Args:
        experiment: the config.
        model: plain or distributed; every process takes a part of the images.

    Returns:
        The metrics by task, and by test set before that if there are several; empty on all
        processes but the main one.
    """
    settings, found = experiment.settings(), OrderedDict()
    for name in experiment.test_sets():
        loader = experiment.test_loader(name)
        check_classes(experiment.names("test"), settings.num_classes, experiment.keys.classes)
        evaluator = experiment.evaluator(name)
        _share_statistics(model)
        with watch_scores():
            metrics = inference_on_dataset(augment(experiment, model), loader, evaluator)
        if comm.is_main_process():
            print_csv_format(metrics)
            found[name] = metrics
    results = next(iter(found.values())) if len(found) == 1 else found
    write_results(results, settings.output_dir)
    if experiment.names("test"):
        write_per_class(results, settings.output_dir, experiment.test_sets())
    return results


def _share_statistics(model: nn.Module) -> None:
    """Give all processes the main one's batch norm statistics, those that a checkpoint has.

    Each gathers its own in training, which needs none; the criterion's memories stay.
    """
    if comm.get_world_size() > 1:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                for buffer in module.buffers(recurse=False):
                    distributed.broadcast(buffer, 0)


def augment(experiment: Experiment, model: nn.Module) -> nn.Module:
    """The model to evaluate: with test-time augmentation if the config has it enabled.

    Raises:
        UserError: it is neither a dense detector nor an R-CNN, or the sizes are no sizes.
    """
    tta = experiment.settings().tta
    if tta is None:
        return model
    augmented: nn.Module = build(
        {"_target_": interface_of(model).augment_inference, **tta}, experiment.keys.tta
    )
    return augmented
