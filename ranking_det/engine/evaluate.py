"""Evaluation of a config's model on its test sets."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from torch import distributed, nn

from ranking_det.engine.results import write_per_class, write_results
from ranking_det.engine.run_checks import check_classes, named_refusals
from ranking_det.engine.run_config import RunConfig
from ranking_det.modeling.interface import interface_of
from ranking_det.modeling.score_watch import watch_scores


def evaluate(config: RunConfig, model: nn.Module) -> dict[str, Any]:
    """Log the metrics; write results.json and the AP of each class.

    Args:
        config: has the test sets, their loaders and evaluators.
        model: plain or distributed; every process takes a part of the images.

    Returns:
        The metrics by task, and by test set before that if there are several; empty on all
        processes but the main one.
    """
    by_set, num_classes = OrderedDict(), interface_of(model).num_classes
    for name in config.test_sets():
        loader = config.test_loader(name)
        check_classes(config.names("test"), num_classes, config.num_classes_key)
        evaluator = config.evaluator(name)
        _share_statistics(model)
        with watch_scores():
            metrics = inference_on_dataset(augment(config, model), loader, evaluator)
        if comm.is_main_process():
            print_csv_format(metrics)
            by_set[name] = metrics
    results = next(iter(by_set.values())) if len(by_set) == 1 else by_set
    write_results(results, config.train.output_dir)
    if config.names("test"):
        write_per_class(results, config.train.output_dir, config.test_sets())
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


def augment(config: RunConfig, model: nn.Module) -> nn.Module:
    """The model to evaluate: with test-time augmentation if the config has it enabled.

    Raises:
        UserError: the model cannot be augmented, or the sizes are no sizes.
    """
    options = dict(config.train.get("tta") or {})
    if not options.pop("enabled", False):
        return model
    with named_refusals(config.written("train.tta")):
        return interface_of(model).augment_inference(**options)
