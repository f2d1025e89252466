"""Load yaml configs safely: a file may call only the classes and functions on a list.

The config that a run of a LazyConfig saves is yaml that names functions to call. Importing a name
can run code, and a name such as ``torch.hub.os.system`` begins like a harmless package.
Each name is therefore compared as text with :data:`ALLOWED_TARGETS` before anything is imported.

The list has two halves:

- :data:`COMPONENT_TARGETS`: the components of this project, that is assigners, criteria, layers
  and models;
- :data:`CONFIG_TARGETS`: the other classes and functions that the project's configs call:
  Detectron2's, fvcore's and torch's, and this project's data loading, evaluation and schedule.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO, Any

import yaml
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf

from ranking_det import assigners, criteria, layers, modeling
from ranking_det.components import component_names
from ranking_det.modeling.allowed_callables import CALLABLE_ARGUMENTS, CALLABLE_NAMES
from ranking_det.user_errors import UserError

COMPONENT_TARGETS = frozenset(
    f"{package.__name__}.{name}"
    for package in (assigners, criteria, layers, modeling)
    for name in component_names(package)
)
"""First half of the list: all components of this project, as ``package.Class``."""

_DATA_AND_SOLVER_NAMES = {
    "detectron2.data": "DatasetMapper build_detection_test_loader get_detection_dataset_dicts",
    "detectron2.data.transforms": "RandomFlip Resize ResizeShortestEdge",
    "detectron2.solver": "get_default_optimizer_params",
    "fvcore.common.param_scheduler": "CompositeParamScheduler CosineParamScheduler "
    "MultiStepParamScheduler",
    "ranking_det.data": "mapper.BoxMapper repeat.repeat_rare stream.build_train_loader",
    "ranking_det.data.augmentation": "Expand MinIoURandomCrop PhotometricDistortion",
    "ranking_det.layers": "deform_convolutions",
    "ranking_det.solver": "PerEpoch warm_up",
    "ranking_det.evaluation": "DetectionEvaluator",
    "torch.optim": "AdamW SGD",
}
CONFIG_TARGETS = frozenset(
    f"{module}.{name}"
    for module, names in (_DATA_AND_SOLVER_NAMES | CALLABLE_NAMES).items()
    for name in names.split()
)
"""Second half of the list: the functions of Detectron2, fvcore and torch that the configs call, and
this project's data loading, evaluation and schedule. The names are written as in a saved config."""

ALLOWED_TARGETS = COMPONENT_TARGETS | CONFIG_TARGETS
"""All classes and functions that a yaml config may call without ``--trust-config``."""

ALLOWED_ARGUMENTS = frozenset(CALLABLE_ARGUMENTS)
"""The classes that a yaml config may pass as arguments. It calls them indirectly: the functions
that receive them call them with other arguments from the file."""

NO_PROPOSALS = "no proposal files, which are pickles and can run code"
_STANDARD = "tag:yaml.org,2002:"  # the prefix that "!!" stands for
# A "$" at the start of anything except a plain ${path.of.a.key}. A "$" at the end of a text counts:
# the text could be continued by an interpolation.
_RESOLVER = re.compile(r"\$(?!\{[\w.\[\]-]+\})(?=[{$]|\Z)")


class _Tag(str):
    """A yaml tag that makes Python import or call something; it replaces the tagged value."""


# The one in C is several times faster, but not every build of PyYAML has it.
_SafeLoader: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


class _Loader(_SafeLoader):
    """Load plain yaml values and Python tuples; keep other tags as text for the check."""


_Loader.add_constructor(
    f"{_STANDARD}python/tuple",
    lambda loader, node: tuple(loader.construct_sequence(node, deep=True)),
)
_Loader.add_multi_constructor("", lambda _, tag, node: _Tag(tag.replace(_STANDARD, "!!")))


def is_saved_config(path: str) -> bool:
    """Return whether a yaml file is the saved config of a LazyConfig: it has a ``_target_``.

    Args:
        path: a local file; it may be missing or faulty.
    """
    if not Path(path).is_file():
        return False
    try:
        return _has_target(_parse(path), set())
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return False  # reading it as a plain yaml config gives the error message


def load_saved_config(path: str) -> DictConfig:
    """Load the saved config of a run, if it calls only names on the list.

    Args:
        path: a local yaml file.

    Raises:
        UserError: the file names something else, or has an interpolation other than of a plain key.
        Exception: the file is not yaml or not a config; whatever yaml and OmegaConf raise.
    """
    config: DictConfig = OmegaConf.create(
        _check(_parse(path), path, ""), flags={"allow_objects": True}
    )
    return config


def check_name(name: Any, path: str, key: str) -> None:
    """Check that a yaml config may call a class or function.

    Args:
        name: as ``module.Class``; a value that is not a string is refused.
        path: the file, for the message.
        key: the config key of the name, for the message.

    Raises:
        UserError: the name is not in :data:`ALLOWED_TARGETS`.
    """
    _locate(name, ALLOWED_TARGETS, path, key)


def refusal(path: str, key: str, expected: str, value: Any) -> UserError:
    """Return the error for a value that needs ``--trust-config``.

    Args:
        path: the file.
        key: the config key of the value.
        expected: what would be allowed without the flag.
        value: the value.
    """
    return UserError(
        f"{path}: {key}: expected {expected}, got {value!r}; if you trust the author of the file, "
        "give --trust-config"
    )


def parse_plain(text: str | IO[str]) -> Any:
    """Parse yaml without importing anything: tags that name Python objects stay text.

    Args:
        text: the text or an open file.

    Raises:
        Exception: it is not yaml; whatever yaml raises.
    """
    return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader


def _parse(path: str) -> Any:
    with Path(path).open(encoding="utf-8") as file:
        return parse_plain(file)


def _has_target(value: Any, seen: set[int]) -> bool:
    """Return whether a value has a ``_target_``; ``seen`` stops at self-referring aliases."""
    if not isinstance(value, (dict, list, tuple)) or id(value) in seen:
        return False
    seen.add(id(value))
    entries = value.values() if isinstance(value, dict) else value
    return (isinstance(value, dict) and "_target_" in value) or any(
        _has_target(entry, seen) for entry in entries
    )


def _check(value: Any, path: str, key: str) -> Any:
    """Check a value recursively; return it with allowed classes in place of their tags."""
    last = key.rpartition(".")[2]
    if last == "_target_":
        check_name(value, path, key)
        return value
    if last == "proposal_files" and value:
        raise refusal(path, key, NO_PROPOSALS, value)
    if isinstance(value, dict):
        where = f"a key of {key or 'the file'}"
        return {
            _check(name, path, where): _check(entry, path, f"{key}.{name}".lstrip("."))
            for name, entry in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_check(entry, path, f"{key}.{i}") for i, entry in enumerate(value)]
    if isinstance(value, _Tag):
        return _locate(value.removeprefix("!!python/name:"), ALLOWED_ARGUMENTS, path, key)
    if isinstance(value, str) and _RESOLVER.search(value):
        raise refusal(path, key, "only plain interpolations such as ${train.seed}", value)
    return value


def _locate(name: Any, allowed: frozenset[str], path: str, key: str) -> Any:
    """Import a name, if it is on the list."""
    expected = "a name on the list of what a config may call"
    if str(name).startswith("ranking_det."):
        expected += " in this version"
    if type(name) is not str or name not in allowed:
        raise refusal(path, key, expected, name)
    target = locate(name)
    place = name.removesuffix(target.__qualname__)
    # The list protects; this second check finds a listed name that resolves to something else.
    if place == name or not f"{target.__module__}.".startswith(place):
        raise refusal(path, key, expected, name)
    return target
