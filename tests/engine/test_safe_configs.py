"""Yaml configs of other people call what is on a list; what a user types may call anything."""

import inspect
import pickle
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from ranking_det import assigners, criteria, layers, modeling
from ranking_det.engine import main
from ranking_det.engine.run_config import load_config
from ranking_det.engine.safe_config import ARGUMENTS, TARGETS
from ranking_det.user_errors import UserError
from tests.engine.cases import Payload, write_module

CONFIGS = Path(__file__).parents[2] / "configs"
LAZY = str(CONFIGS / "shapes" / "retinanet_atss_rs.py")
YAML = str(CONFIGS / "shapes" / "retinanet_atss_rs.yaml")


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """What a stranger's module makes when it is imported; it must not be there afterwards."""
    path = tmp_path / "mark"
    write_module(tmp_path, path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield path
    assert not path.exists()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The content of the config that a run leaves."""
    path = tmp_path_factory.mktemp("saved") / "config.yaml"
    load_config(LAZY, []).save(path)
    return path.read_text()


def write(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


def names_in(value):
    """Every ``_target_`` in a file's content."""
    entries = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict) and "_target_" in value:
        yield value["_target_"]
    for entry in entries if isinstance(value, (dict, list)) else ():
        yield from names_in(entry)


def test_the_list_has_all_that_configs_call_and_all_components_and_no_more(tmp_path):
    called, arguments = set(), set()
    paths = [p for p in sorted(CONFIGS.rglob("*.py")) if "common" not in p.parts]
    for path in paths:
        if path.stem == "mask_rs_vitdet_b":
            continue
        file = tmp_path / "config.yaml"
        load_config(str(path), []).save(file)
        again = load_config(str(file), [])
        assert again.yaml is None
        again.save(tmp_path / "again.yaml")
        assert (tmp_path / "again.yaml").read_text() == file.read_text(), path
        # Left as text, so that the list is compared with what is in the files.
        text = file.read_text()
        arguments |= {w.partition("name:")[2].strip(",'}") for w in text.split() if "name:" in w}
        called |= set(names_in(yaml.load(text, yaml.UnsafeLoader)))
    parts = {
        f"{package.__name__}.{name}"
        for package in (assigners, criteria, layers, modeling)
        for name in package.__all__
        if inspect.isclass(c := getattr(package, name)) and hasattr(c, "forward")
    }
    assert len(paths) > 50 and called <= TARGETS and arguments - {""} == ARGUMENTS
    assert called | parts == TARGETS


def test_vitdet_needs_the_flag_for_its_partial(tmp_path):
    path = CONFIGS / "coco" / "mask_rs_vitdet_b.py"
    try:
        config = load_config(str(path), [])
    except UserError:
        pytest.skip("ViTDet needs Detectron2's main")
    file = str(tmp_path / "config.yaml")
    config.save(Path(file))
    with pytest.raises(UserError, match="--trust-config"):
        load_config(file, [])
    assert load_config(file, [], trust=True).names("test")


CALLS = [
    "os.mkdir",
    "stranger.build",
    "torch.os.mkdir",
    "torch.hub.load",
    "detectron2.utils.env.os.mkdir",
    "ranking_det.assigners.atss.torch.os.mkdir",
    "torch.optim.sgd.SGD",  # the right class by another name
    "torch.optim.SGD.__init__",
    " torch.optim.SGD",
    "${train.output_dir}",
    {"_target_": "os.mkdir"},
    ["torch.optim.SGD"],
    None,
]


@pytest.mark.parametrize("name", CALLS, ids=str)
def test_a_name_that_is_not_on_the_list_is_refused_before_any_import(tmp_path, mark, saved, name):
    content = yaml.load(saved, yaml.UnsafeLoader)
    content["lr_multiplier"] = {"_target_": name, "path": str(mark)}
    with pytest.raises(UserError, match="lr_multiplier._target_ is .*--trust-config") as caught:
        load_config(write(tmp_path, yaml.dump(content)), [])
    assert "\n" not in str(caught.value) and repr(name) in str(caught.value)
    assert "stranger" not in sys.modules


VALUES = [
    "!!python/object/apply:os.mkdir [{mark}]",
    "!!python/object/new:os.mkdir [{mark}]",
    "!!python/name:stranger.build",
    "!!python/name:torch.optim.SGD",  # may be called, but not handed on
    "!!python/module:stranger",
    "!stranger [1]",
    "'${{oc.env:HOME}}'",
    "'${{oc.env:HOME,x}}/a'",
    "'${{train.seed}} ${{oc.env:HOME}}'",
    "'${{oc.env:${{train.seed}}}}'",
    "'${{${{train.seed}}}}'",
    r"'\${{oc.env:HOME}}'",
    r"'\\${{oc.env:HOME}}'",
    "'${{ oc.env:HOME}}'",
    "'$${{train.seed}}'",
    "'a$'",  # with what is put beside it
    "['${{oc.decode:x}}']",
    "{{? !!python/object/apply:os.mkdir [{mark}] : 1}}",
    "{{proposal_files: [x.pkl]}}",
    "{{proposal_files: '${{train.seed}}'}}",
]


@pytest.mark.parametrize("value", VALUES)
def test_a_value_that_is_computed_is_refused_and_named(tmp_path, mark, saved, value):
    text = f"{saved}\nevil: {value.format(mark=mark)}\n"
    with pytest.raises(UserError, match="evil.*--trust-config") as caught:
        load_config(write(tmp_path, text), [])
    assert "\n" not in str(caught.value) and "stranger" not in sys.modules


def test_files_of_proposals_are_refused_at_the_top_too(tmp_path, saved):
    with pytest.raises(UserError, match="proposal_files is .*pickles.*--trust-config"):
        load_config(write(tmp_path, f"{saved}\nproposal_files: [x.pkl]\n"), [])


def test_a_merged_node_and_an_alias_are_checked_too(tmp_path, mark, saved):
    content = f"{saved}\nevil: &x {{_target_: os.mkdir, path: '{mark}'}}\n"
    for text in (content, f"{saved}\nevil: {{<<: {{_target_: os.mkdir}}}}\n"):
        with pytest.raises(UserError, match="evil._target_ is 'os.mkdir'"):
            load_config(write(tmp_path, text), [])
    with pytest.raises(UserError):
        load_config(write(tmp_path, f"{saved}\nevil: &x {{a: *x}}\n"), [])


def test_plain_interpolations_and_tuples_stay(tmp_path, saved):
    text = f"{saved}\nmore: {{a: !!python/tuple [1, 2], b: '${{train.seed}}', c: 'USD $5'}}\n"
    more = load_config(write(tmp_path, text), []).nodes.more
    assert (list(more.a), more.b, more.c) == ([1, 2], 0, "USD $5")


@pytest.mark.parametrize("key", ["cfg", "CFG"])
def test_a_node_cannot_be_built_from_a_config_of_its_own(tmp_path, saved, key):
    content = yaml.load(saved, yaml.UnsafeLoader)
    content["dataloader"]["test"] |= {key: {"MODEL": {"LOAD_PROPOSALS": True}}}
    with pytest.raises(UserError, match=f"has no argument '{key}'"):
        load_config(write(tmp_path, yaml.dump(content)), [])


def test_what_is_typed_may_name_anything_and_then_needs_the_flag_from_the_file(tmp_path, saved):
    path = write(tmp_path, saved)
    typed = "lr_multiplier._target_=fvcore.common.param_scheduler.ConstantParamScheduler"
    config = load_config(path, [typed, "lr_multiplier.value=1.0"])
    config.save(Path(path))
    with pytest.raises(UserError, match="ConstantParamScheduler.*--trust-config"):
        load_config(path, [])
    again = load_config(path, [], trust=True)
    assert OmegaConf.to_container(again.nodes.lr_multiplier)["value"] == 1.0


def test_a_pickled_config_beside_it_is_left_alone(tmp_path, mark, saved, capsys):
    path = write(tmp_path, saved)
    Path(f"{path}.pkl").write_bytes(pickle.dumps(Payload(mark)))
    load_config(path, [])
    assert main(["--config-file", f"{path}.pkl"]) == 2
    assert "must end in .py, .yaml or .yml" in capsys.readouterr().err


def test_the_word_in_a_comment_or_a_value_makes_no_lazy_config(tmp_path):
    text = f"# no _target_: here\n_BASE_: {YAML}\nOUTPUT_DIR: output/_target_\n"
    config = load_config(write(tmp_path, text), ["MODEL.DEVICE=cpu"])
    assert config.yaml is not None


COMPONENTS = [
    "MODEL: {{ASSIGNER: {{NAME: stranger.build}}}}",
    "MODEL: {{ASSIGNER: {{NAME: os.mkdir, PATH: {mark}}}}}",
    "MODEL: {{ASSIGNER: {{NAME: ranking_det.assigners.atss.torch.os.mkdir}}}}",
    "MODEL: {{CRITERION: {{NAME: Criterion, CLASSIFICATION: {{NAME: stranger.build}}}}}}",
    "MODEL: {{CRITERION: {{NAME: CriterionSchedule, CRITERIA: [{{NAME: stranger.build}}]}}}}",
    """MODEL: {{ASSIGNER: {{X: "{{'NAME': 'stranger.build'}}"}}}}""",
    "MODEL: {{CRITERION: {{NAME: CriterionSchedule, CRITERIA: [{{NAME: [stranger.build]}}]}}}}",
    "MODEL: {{CRITERION: {{NAME: CriterionSchedule, CRITERIA: [{{NAME: 1.5}}]}}}}",  # 1.py
    "DATASETS: {{PROPOSAL_FILES_TEST: [{mark}.pkl]}}",
    "MODEL: {{ASSIGNER: {{X: !!python/object/apply:os.mkdir [{mark}]}}}}",
]


@pytest.mark.parametrize("text", COMPONENTS)
@pytest.mark.parametrize("inherited", [False, True])
def test_components_of_strangers_in_plain_yaml_are_refused(tmp_path, mark, text, inherited):
    path = write(tmp_path, text.format(mark=mark))
    if inherited:
        Path(tmp_path, "top.yaml").write_text("_BASE_: config.yaml\n")
        path = str(tmp_path / "top.yaml")
    with pytest.raises(UserError) as caught:
        load_config(path, ["MODEL.DEVICE=cpu"])
    assert "\n" not in str(caught.value) and "stranger" not in sys.modules
    if "!!python" not in text:  # which the flag does not permit either
        assert "--trust-config" in str(caught.value)


def test_components_that_are_typed_or_on_the_list_are_built(tmp_path):
    name = "ranking_det.assigners.MaxIoU"
    text = f"_BASE_: {YAML}\nMODEL: {{ASSIGNER: {{NAME: {name}}}}}\n"
    config = load_config(write(tmp_path, text), ["MODEL.DEVICE=cpu"])
    assert config.yaml.MODEL.ASSIGNER.NAME == name
    typed = ["MODEL.ASSIGNER.NAME", "my.Assigner"]
    config = load_config(YAML, ["MODEL.DEVICE=cpu", *typed])
    config.save(tmp_path / "run.yaml")
    with pytest.raises(UserError, match="MODEL.ASSIGNER.NAME is 'my.Assigner'.*--trust-config"):
        load_config(str(tmp_path / "run.yaml"), [])
    again = load_config(str(tmp_path / "run.yaml"), [], trust=True)
    assert again.yaml.MODEL.ASSIGNER.NAME == "my.Assigner"


def test_the_command_says_it_in_one_line(tmp_path, mark, saved, capsys):
    content = yaml.load(saved, yaml.UnsafeLoader)
    content["model"] = {"_target_": "stranger.build"}
    path = write(tmp_path, yaml.dump(content))
    for words in ([], ["--eval-only"], ["--resume"], ["--preview", "1"], ["--predict", "x.jpg"]):
        assert main(["--config-file", path, *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "model._target_ is 'stranger.build'" in line and "--trust-config" in line
