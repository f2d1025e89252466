"""Tests of all configs in one file, because loading them takes most of the time."""

import inspect
import pickle
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from benchmarks import docs
from ranking_det import assigners, criteria, layers, modeling
from ranking_det.engine.lazy_config import load_lazy_config
from ranking_det.engine.run_config import RunConfig, load_config
from ranking_det.engine.safe_config import (
    ALLOWED_ARGUMENTS,
    ALLOWED_TARGETS,
    COMPONENT_TARGETS,
    CONFIG_TARGETS,
)

CONFIGS = Path(__file__).parents[2] / "configs"
# The ViTDet config, which needs Detectron2's main, has tests of its own.
CONFIG_PATHS = [
    path
    for path in sorted(CONFIGS.rglob("*.py"))
    if "common" not in path.parts and path.stem != "mask_rs_vitdet_b"
]
UnsafeLoader = yaml.CUnsafeLoader if yaml.__with_libyaml__ else yaml.UnsafeLoader


@cache
def pickled_nodes(path):
    return pickle.dumps(load_lazy_config(str(path), []))


def load_nodes(path):
    """Load a config once; each caller gets a copy."""
    return pickle.loads(pickled_nodes(str(path)))


def names_in(value):
    """Yield every ``_target_`` in the content of a file."""
    entries = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict) and "_target_" in value:
        yield value["_target_"]
    for entry in entries if isinstance(value, (dict, list)) else ():
        yield from names_in(entry)


def save(path, tmp_path):
    """Save the config of a file as a run does; return the text."""
    RunConfig(load_nodes(path)).save(tmp_path / "config.yaml")
    return (tmp_path / "config.yaml").read_text()


def check_that_it_loads_unchanged(text, tmp_path):
    (tmp_path / "again.yaml").write_text(text)
    reloaded = load_config(str(tmp_path / "again.yaml"), [])
    assert reloaded.yaml is None
    reloaded.save(tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_text() == text


def test_the_list_has_exactly_the_components_and_the_callables_of_configs(tmp_path):
    called, arguments = set(), set()
    for path in CONFIG_PATHS:
        # Read as text, so the list is compared with the names in the files.
        text = save(path, tmp_path)
        names = {w.partition("name:")[2].strip(",'}") for w in text.split() if "name:" in w}
        targets = set(names_in(yaml.load(text, UnsafeLoader)))
        if not (names <= arguments and targets <= called):
            check_that_it_loads_unchanged(text, tmp_path)
        arguments |= names
        called |= targets
    components = {
        f"{package.__name__}.{name}"
        for package in (assigners, criteria, layers, modeling)
        for name in package.__all__
        if inspect.isclass(c := getattr(package, name)) and hasattr(c, "forward")
    }
    assert len(CONFIG_PATHS) > 50 and called <= ALLOWED_TARGETS
    assert arguments - {""} == ALLOWED_ARGUMENTS
    assert COMPONENT_TARGETS == components and CONFIG_TARGETS == called - components
    assert ALLOWED_TARGETS == COMPONENT_TARGETS | CONFIG_TARGETS


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIG_PATHS, ids=lambda path: path.stem)
def test_every_saved_config_loads_unchanged(path, tmp_path):
    check_that_it_loads_unchanged(save(path, tmp_path), tmp_path)


def test_the_numbers_in_the_table_of_configs_equal_the_committed_results(monkeypatch):
    monkeypatch.setattr(docs, "LazyConfig", SimpleNamespace(load=load_nodes))
    text = (docs.ROOT / "docs" / "configs.md").read_text()
    assert docs.fill(text) == text
