"""Yaml configs: loading them, and checking their keys, their values and the overrides."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg

from ranking_det.engine.errors import check_file
from ranking_det.engine.saved_config import PROPOSALS, check_name, refusal
from ranking_det.modeling import COMPONENTS, add_ranking_config
from ranking_det.user_errors import UserError, nearest


def load_yaml_config(path: str, overrides: Sequence[str], *, trust: bool = False) -> CfgNode:
    """Load a yaml config over Detectron2's defaults and the project's keys.

    Args:
        path: a .yaml file.
        overrides: ``KEY value`` pairs or ``KEY=value``. They are the user's own, and may name
            anything.
        trust: whether the file, too, may call whatever it names.

    Returns:
        The frozen config.

    Raises:
        UserError: the file is missing or faulty, a key is unknown, or a value has a wrong type;
            or the file names a component that is not this project's, or files of proposals.
    """
    check_file(path, "the config file")
    cfg = get_cfg()
    add_ranking_config(cfg)
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    pairs = split_overrides(overrides)
    try:
        cfg.merge_from_file(path, allow_unsafe=False)
        if not trust:
            _check_calls(cfg, path)
        for key, value in pairs:
            _add_component_key(cfg, key)
            cfg.merge_from_list([key, _as_declared(cfg, key, value)])
    except UserError:
        raise
    except (KeyError, AssertionError) as error:
        raise UserError(_unknown_key(cfg, str(error))) from error
    except (
        ValueError,
        AttributeError,
        TypeError,
        OSError,
        RecursionError,
        yaml.YAMLError,
    ) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from error
    cfg.freeze()
    return cfg


def _check_calls(cfg: CfgNode, path: str) -> None:
    """Raise UserError if what the file has, with its bases, could run code that is not ours."""
    for key, name in _names(cfg, ""):
        # One without a dot is looked up among the components.
        if "." in str(name):
            check_name(name, path, key)
    for split in ("TRAIN", "TEST"):
        key = f"PROPOSAL_FILES_{split}"
        if cfg.DATASETS[key]:
            raise refusal(path, f"DATASETS.{key}", cfg.DATASETS[key], PROPOSALS)


def _names(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Every NAME in a config, with its key."""
    if isinstance(value, Mapping):
        entries = list(value.items())
    else:
        entries = list(enumerate(value)) if isinstance(value, (list, tuple)) else []
    for name, entry in entries:
        where = f"{key}.{name}".lstrip(".")
        if name == "NAME":
            yield where, entry
        yield from _names(entry, where)


def _as_declared(cfg: CfgNode, key: str, value: str) -> str:
    """An integer as a float where the config has one, which yacs refuses."""
    node = cfg
    for part in key.split("."):
        node = node.get(part) if isinstance(node, CfgNode) else None
    return f"{value}.0" if isinstance(node, float) and re.fullmatch(r"[+-]?\d+", value) else value


def split_overrides(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """``KEY value`` and ``KEY=value`` as pairs."""
    words = [word for item in overrides for word in (item.split("=", 1) if "=" in item else [item])]
    if len(words) % 2:
        raise UserError(f"overrides of a yaml config are pairs KEY value, got {' '.join(words)}")
    return list(zip(words[::2], words[1::2], strict=True))


def _add_component_key(cfg: CfgNode, key: str) -> None:
    """Make room for an argument of a component that the file does not mention.

    The component's constructor says later whether there is such an argument.
    """
    *parents, last = key.split(".")
    if parents[:1] != ["MODEL"] or parents[1:2] not in [[name] for name in COMPONENTS]:
        return
    node = cfg
    for part in parents:
        node = node.get(part)
        if not isinstance(node, CfgNode):
            return
    # None takes a value of any type; the constructor's types are checked when it is built.
    node[last] = None


def _unknown_key(cfg: CfgNode, message: str) -> str:
    """What was meant, perhaps, by the unknown key that a message of yacs names."""
    found = re.search(r"[Nn]on-existent (?:config )?key: ([\w.]+)", message)
    if not found:
        return " ".join(message.split())
    node = cfg
    for part in found[1].split("."):
        if not isinstance(node, CfgNode) or part not in node:
            known = node.keys() if isinstance(node, CfgNode) else []
            return f"no key {part!r} in the config, as in {found[1]!r}{nearest(part, known)}"
        node = node[part]
    return message
