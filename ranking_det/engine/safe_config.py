"""Safe reading of yaml configs: what they name is called only if it is on a list.

The config that a run of a LazyConfig leaves is yaml that names functions to call. Only names on a
list are accepted, and compared as text, before anything is imported: importing a name can run code,
and names like ``torch.hub.os.system`` begin with those of harmless packages.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf

from ranking_det import assigners, criteria, layers, modeling
from ranking_det.components import component_names
from ranking_det.modeling.callable_names import CALLABLE_ARGUMENTS, CALLABLE_NAMES
from ranking_det.user_errors import UserError

_OTHERS = {
    "detectron2.data": "DatasetMapper build_detection_test_loader get_detection_dataset_dicts",
    "detectron2.data.transforms": "RandomFlip Resize ResizeShortestEdge",
    "detectron2.solver": "get_default_optimizer_params",
    "fvcore.common.param_scheduler": "CompositeParamScheduler CosineParamScheduler "
    "MultiStepParamScheduler",
    "ranking_det.data": "mapper.BoxMapper repeat.repeat_rare stream.build_train_loader",
    "ranking_det.data.augmentation": "Expand MinIoURandomCrop PhotometricDistortion",
    "ranking_det.solver": "warm_up",
    "ranking_det.evaluation": "DetectionEvaluator",
    "torch.optim": "AdamW SGD",
}
_CALLED = {module: names.split() for module, names in (_OTHERS | CALLABLE_NAMES).items()}
_CALLED |= {
    part.__name__: component_names(part) for part in (assigners, criteria, layers, modeling)
}
TARGETS = frozenset(f"{module}.{name}" for module, names in _CALLED.items() for name in names)
"""What a file may call: the components, and what configs/ call, as a run's config names them."""

ARGUMENTS = frozenset(CALLABLE_ARGUMENTS)
"""The classes that configs/ hand on as arguments. They get arguments of the file's, so that these
are not all that it may call."""

PROPOSALS = "and files of proposals are pickles, which can run code"
_STANDARD = "tag:yaml.org,2002:"  # what "!!" stands for
# A "$" that begins, alone or with what is put beside it, anything but a plain ${path.of.a.key}.
_RESOLVER = re.compile(r"\$(?!\{[\w.\[\]-]+\})(?=[{$]|\Z)")


class _Tag(str):
    """A tag of yaml that has Python import or call something, in the place of its value."""


class _Loader(yaml.SafeLoader):
    """Yaml's plain values and Python's tuples; other tags are left for a check to name."""


_Loader.add_constructor(
    f"{_STANDARD}python/tuple",
    lambda loader, node: tuple(loader.construct_sequence(node, deep=True)),
)
_Loader.add_multi_constructor("", lambda _, tag, node: _Tag(tag.replace(_STANDARD, "!!")))


def is_saved_config(path: str) -> bool:
    """Whether a local yaml file is the config of a run of a LazyConfig: its content calls."""
    if not Path(path).is_file():
        return False
    try:
        return _calls(_parse(path), set())
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return False  # whoever reads it as a plain yaml config says what is wrong


def load_saved_config(path: str) -> DictConfig:
    """Load the config of a run, if all that it calls is on the list.

    Args:
        path: a local yaml file.

    Raises:
        UserError: it names something else, or wants something computed.
        Exception: it is no yaml, or no config; as yaml and OmegaConf raise it.
    """
    config: DictConfig = OmegaConf.create(
        _check(_parse(path), path, ""), flags={"allow_objects": True}
    )
    return config


def check_name(name: Any, path: str, key: str) -> None:
    """Raise UserError unless a file may call ``name``.

    Args:
        name: as ``module.Class``; anything but a text is refused.
        path: of the file, for the message.
        key: where the file has it, for the message.
    """
    _locate(name, TARGETS, path, key)


def refusal(path: str, key: str, text: Any, reason: str) -> UserError:
    """What is said of a file that needs ``--trust-config``."""
    return UserError(
        f"{path}: {key} is {text!r}, {reason}; if you trust whoever wrote the file: --trust-config"
    )


def _parse(path: str) -> Any:
    with Path(path).open(encoding="utf-8") as file:
        return yaml.load(file, _Loader)  # noqa: S506 - a SafeLoader


def _calls(value: Any, seen: set[int]) -> bool:
    """Whether there is a ``_target_`` somewhere; aliases can make a value hold itself."""
    if not isinstance(value, (dict, list, tuple)) or id(value) in seen:
        return False
    seen.add(id(value))
    entries = value.values() if isinstance(value, dict) else value
    return (isinstance(value, dict) and "_target_" in value) or any(
        _calls(entry, seen) for entry in entries
    )


def _check(value: Any, path: str, key: str) -> Any:
    """The value with the classes that it names in the place of their tags."""
    last = key.rpartition(".")[2]
    if last == "_target_":
        check_name(value, path, key)
        return value
    if last == "proposal_files" and value:
        raise refusal(path, key, value, PROPOSALS)
    if isinstance(value, dict):
        where = f"a key of {key or 'the file'}"
        return {
            _check(name, path, where): _check(entry, path, f"{key}.{name}".lstrip("."))
            for name, entry in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_check(entry, path, f"{key}.{i}") for i, entry in enumerate(value)]
    if isinstance(value, _Tag):
        return _locate(value.removeprefix("!!python/name:"), ARGUMENTS, path, key)
    if isinstance(value, str) and _RESOLVER.search(value):
        raise refusal(path, key, value, "and only plain interpolations like ${train.seed} are safe")
    return value


def _locate(name: Any, known: frozenset[str], path: str, key: str) -> Any:
    """What a name on the list stands for."""
    reason = "which is not on the list of what a config may call"
    if str(name).startswith("ranking_det."):
        reason += " in this version"
    if type(name) is not str or name not in known:
        raise refusal(path, key, name, reason)
    target = locate(name)
    place = name.removesuffix(target.__qualname__)
    # The list is the guard; that a name on it leads elsewhere would be a fault of the list.
    if place == name or not f"{target.__module__}.".startswith(place):
        raise refusal(path, key, name, reason)
    return target
