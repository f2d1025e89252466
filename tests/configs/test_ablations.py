"""The rows of the papers' ablation tables: each has a number, and its command changes the model."""

import ast
import copy
import functools
import re
import shlex
from typing import NamedTuple

import pytest
from detectron2.config import instantiate
from omegaconf import OmegaConf
from torch import nn

from ranking_det.engine.command import parse
from ranking_det.engine.lazy_config import apply_overrides, load_lazy_config
from ranking_det.user_errors import UserError
from tests.configs.cases import build_model
from tests.modeling.cases import CONFIGS

README = (CONFIGS / "ablations" / "README.md").read_text()
TABLES = (
    *(f"APE table {i}" for i in (1, 2, 3, 4, 6)),
    *(f"APE appendix table {i}" for i in (1, 2, 3)),
    *(f"RankDetNet table {i}" for i in ("4", "5a", "5b")),
    *(f"Rank & Sort table S{i}" for i in (1, 3, 4, 6, 7, 8)),
)
NO_COMMAND = "missing: "
PARTS = (
    *("assigner", "criterion", "proposal_generator.sampler", "roi_heads.sampler"),
    *("proposal_generator.criterion", "roi_heads.criterion", "continuous_label"),
)
"""The nodes of a model that the rows differ in."""


class Row(NamedTuple):
    table: str
    cells: dict[str, str]
    config: str
    overrides: tuple[str, ...]


def read_rows():
    for section in README.split("\n### ")[1:]:
        title, _, text = section.partition("\n")
        lines = [line.strip("| ") for line in text.splitlines() if line.startswith("|")]
        header, _, *rows = ([cell.strip() for cell in line.split(" | ")] for line in lines)
        for cells in rows:
            assert len(cells) == len(header), cells
            # Two columns of table S6 have the same name.
            numbered = {f"{i} {name}": cell for i, (name, cell) in enumerate(zip(header, cells))}
            words = shlex.split(cells[-1].strip("`")) if cells[-1].startswith("`") else []
            assert words[:2] in (["python", "train_net.py"], []), cells
            command = parse(words[2:]) if words else None
            config, overrides = (command.config_file, command.overrides) if command else ("", ())
            yield Row(title.partition(":")[0], numbered, config, tuple(overrides))


ROWS = list(read_rows())
# Without repetitions: several tables repeat a row.
RUNS = list(dict.fromkeys((row.config, row.overrides) for row in ROWS if row.config))


def run_id(run):
    config, overrides = run
    stem = config.rpartition("/")[2].removesuffix(".py")
    return "-".join([stem, *(override.rpartition("model.")[2][-40:] for override in overrides)])


# The run of each config with the most overrides.
LONGEST_RUNS = list({run[0]: run for run in sorted(RUNS, key=lambda run: len(run[1]))}.values())
every_run = pytest.mark.parametrize("run", RUNS, ids=run_id)


@functools.cache
def load_baseline(config):
    return load_lazy_config(str(CONFIGS.parent / config), [])


def load(config, overrides):
    cfg = copy.deepcopy(load_baseline(config))
    apply_overrides(cfg, overrides)
    return cfg


def settings(part):
    """Describe a part by its types and public attributes."""
    if not hasattr(part, "__dict__"):
        return part
    values = {key: settings(value) for key, value in vars(part).items() if key[0] != "_"}
    children = part.named_children() if isinstance(part, nn.Module) else ()
    return type(part), values, {key: settings(child) for key, child in children}


def settings_of(config, overrides):
    model = load(config, overrides).model
    nodes = {part: OmegaConf.select(model, part) for part in PARTS}
    return {part: settings(instantiate(node)) for part, node in nodes.items() if node is not None}


def test_every_ablation_table_has_rows():
    assert tuple(dict.fromkeys(row.table for row in ROWS)) == TABLES


def test_every_row_has_a_published_number_and_a_command_or_a_reason():
    for row in ROWS:
        *cells, command = row.cells.items()
        numbers = [cell for column, cell in cells if re.search(r"\bAP", column)]
        assert numbers and re.fullmatch(r"\d\d\.\d", numbers[0]), row
        assert all(re.fullmatch(r"\d\d\.\d|not in the text", cell) for cell in numbers), row
        assert row.config or command[1].startswith(NO_COMMAND), row


def test_the_rows_of_a_table_differ():
    for table in TABLES:
        rows = [(row.config, row.overrides) for row in ROWS if row.table == table and row.config]
        assert len(rows) == len(set(rows)), table


@every_run
def test_each_override_of_a_row_changes_the_model(run):
    config, overrides = run
    expected = settings_of(config, overrides)
    for index, override in enumerate(overrides):
        try:
            other_settings = settings_of(config, overrides[:index] + overrides[index + 1 :])
        except UserError:  # the key exists only with this override
            continue
        assert other_settings != expected, override


def test_each_config_of_the_folder_is_a_row_and_its_docstring_has_the_ap():
    rows = {row.config: row for row in ROWS if not row.overrides}
    paths = sorted((CONFIGS / "ablations").glob("*.py"))
    for path in paths:
        row = rows[path.relative_to(CONFIGS.parent).as_posix()]
        ap = next(cell for column, cell in row.cells.items() if re.search(r"\bAP", column))
        assert f"Published AP {ap}" in ast.get_docstring(ast.parse(path.read_text()))
        assert load(row.config, ()).train.output_dir == f"output/ablations/{path.stem}"
    assert paths


@pytest.mark.parametrize("run", LONGEST_RUNS, ids=run_id)
def test_a_row_of_each_config_builds(run):
    build_model(load(*run), "meta")


@pytest.mark.slow
@every_run
def test_every_row_builds(run):
    build_model(load(*run), "meta")
