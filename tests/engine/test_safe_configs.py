"""Untrusted yaml configs can call only functions on a list; overrides can call anything."""

import pickle
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from ranking_det.engine import main
from ranking_det.engine.run_config import load_config
from ranking_det.user_errors import UserError
from tests.engine.cases import Payload, write_module

CONFIGS = Path(__file__).parents[2] / "configs"
LAZY = str(CONFIGS / "shapes" / "retinanet_atss_rs.py")
YAML = str(CONFIGS / "shapes" / "retinanet_atss_rs.yaml")


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """The folder that an untrusted module creates when imported; it must not exist afterwards."""
    path = tmp_path / "marker"
    write_module(tmp_path, path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield path
    assert not path.exists()


@pytest.fixture(scope="module")
def saved_config(tmp_path_factory):
    """The content of the saved config of a run."""
    path = tmp_path_factory.mktemp("saved") / "config.yaml"
    load_config(LAZY, []).save(path)
    return path.read_text()


def write(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


def test_the_saved_vitdet_config_needs_trust_config(tmp_path):
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


REFUSED_NAMES = [
    "os.mkdir",
    "untrusted.build",
    "torch.os.mkdir",
    "torch.hub.load",
    "detectron2.utils.env.os.mkdir",
    "ranking_det.assigners.atss.torch.os.mkdir",
    "torch.optim.sgd.SGD",  # an allowed class by another name
    "torch.optim.SGD.__init__",
    " torch.optim.SGD",
    "${train.output_dir}",
    {"_target_": "os.mkdir"},
    ["torch.optim.SGD"],
    None,
]


@pytest.mark.parametrize("name", REFUSED_NAMES, ids=str)
def test_a_name_that_is_not_on_the_list_raises_user_error_before_any_import(
    tmp_path, marker, saved_config, name
):
    content = yaml.load(saved_config, yaml.UnsafeLoader)
    content["lr_multiplier"] = {"_target_": name, "path": str(marker)}
    message = "lr_multiplier._target_: expected a name on the list .*--trust-config"
    with pytest.raises(UserError, match=message) as caught:
        load_config(write(tmp_path, yaml.dump(content)), [])
    assert "\n" not in str(caught.value) and repr(name) in str(caught.value)
    assert "untrusted" not in sys.modules


REFUSED_VALUES = [
    "!!python/object/apply:os.mkdir [{marker}]",
    "!!python/object/new:os.mkdir [{marker}]",
    "!!python/name:untrusted.build",
    "!!python/name:torch.optim.SGD",  # may be called, but not passed as an argument
    "!!python/module:untrusted",
    "!untrusted [1]",
    "'${{oc.env:HOME}}'",
    "'${{oc.env:HOME,x}}/a'",
    "'${{train.seed}} ${{oc.env:HOME}}'",
    "'${{oc.env:${{train.seed}}}}'",
    "'${{${{train.seed}}}}'",
    r"'\${{oc.env:HOME}}'",
    r"'\\${{oc.env:HOME}}'",
    "'${{ oc.env:HOME}}'",
    "'$${{train.seed}}'",
    "'a$'",  # an interpolation could continue it
    "['${{oc.decode:x}}']",
    "{{? !!python/object/apply:os.mkdir [{marker}] : 1}}",
    "{{proposal_files: [x.pkl]}}",
    "{{proposal_files: '${{train.seed}}'}}",
]


@pytest.mark.parametrize("value", REFUSED_VALUES)
def test_the_error_names_a_value_that_would_have_to_be_computed(
    tmp_path, marker, saved_config, value
):
    text = f"{saved_config}\nevil: {value.format(marker=marker)}\n"
    with pytest.raises(UserError, match="evil.*--trust-config") as caught:
        load_config(write(tmp_path, text), [])
    assert "\n" not in str(caught.value) and "untrusted" not in sys.modules


def test_proposal_files_are_rejected_even_at_the_top_level(tmp_path, saved_config):
    message = "proposal_files: expected no proposal files, .*pickles.*--trust-config"
    with pytest.raises(UserError, match=message):
        load_config(write(tmp_path, f"{saved_config}\nproposal_files: [x.pkl]\n"), [])


def test_merged_nodes_and_aliases_are_checked(tmp_path, marker, saved_config):
    content = f"{saved_config}\nevil: &x {{_target_: os.mkdir, path: '{marker}'}}\n"
    for text in (content, f"{saved_config}\nevil: {{<<: {{_target_: os.mkdir}}}}\n"):
        with pytest.raises(UserError, match="evil._target_: expected .*, got 'os.mkdir'"):
            load_config(write(tmp_path, text), [])
    with pytest.raises(UserError):
        load_config(write(tmp_path, f"{saved_config}\nevil: &x {{a: *x}}\n"), [])


def test_plain_interpolations_and_tuples_are_allowed(tmp_path, saved_config):
    text = (
        f"{saved_config}\nmore: {{a: !!python/tuple [1, 2], b: '${{train.seed}}', c: 'USD $5'}}\n"
    )
    nested_nodes = load_config(write(tmp_path, text), []).nodes.more
    assert (list(nested_nodes.a), nested_nodes.b, nested_nodes.c) == ([1, 2], 0, "USD $5")


@pytest.mark.parametrize("key", ["cfg", "CFG"])
def test_a_node_cannot_be_built_from_a_nested_detectron2_config(tmp_path, saved_config, key):
    content = yaml.load(saved_config, yaml.UnsafeLoader)
    content["dataloader"]["test"] |= {key: {"MODEL": {"LOAD_PROPOSALS": True}}}
    with pytest.raises(UserError, match=f"has no argument '{key}'"):
        load_config(write(tmp_path, yaml.dump(content)), [])


def test_an_override_may_name_anything_but_the_saved_config_then_needs_trust_config(
    tmp_path, saved_config
):
    path = write(tmp_path, saved_config)
    override = "lr_multiplier._target_=fvcore.common.param_scheduler.ConstantParamScheduler"
    config = load_config(path, [override, "lr_multiplier.value=1.0"])
    config.save(Path(path))
    with pytest.raises(UserError, match="ConstantParamScheduler.*--trust-config"):
        load_config(path, [])
    reloaded = load_config(path, [], trust=True)
    assert OmegaConf.to_container(reloaded.nodes.lr_multiplier)["value"] == 1.0


def test_a_pickled_config_is_never_loaded(tmp_path, marker, saved_config, capsys):
    path = write(tmp_path, saved_config)
    Path(f"{path}.pkl").write_bytes(pickle.dumps(Payload(marker)))
    load_config(path, [])
    assert main(["--config-file", f"{path}.pkl"]) == 2
    assert "expected a .py, .yaml or .yml file" in capsys.readouterr().err


def test_target_in_a_comment_or_a_value_does_not_make_a_file_a_lazy_config(tmp_path):
    text = f"# no _target_: here\n_BASE_: {YAML}\nOUTPUT_DIR: output/_target_\n"
    config = load_config(write(tmp_path, text), ["MODEL.DEVICE=cpu"])
    assert config.yaml is not None


COMPONENTS = [
    "MODEL: {{ASSIGNER: {{NAME: untrusted.build}}}}",
    "MODEL: {{ASSIGNER: {{NAME: os.mkdir, PATH: {marker}}}}}",
    "MODEL: {{ASSIGNER: {{NAME: ranking_det.assigners.atss.torch.os.mkdir}}}}",
    "MODEL: {{CRITERION: {{NAME: Criterion, CLASSIFICATION: {{NAME: untrusted.build}}}}}}",
    "MODEL: {{CRITERION: {{NAME: CriterionSchedule, CRITERIA: [{{NAME: untrusted.build}}]}}}}",
    """MODEL: {{ASSIGNER: {{X: "{{'NAME': 'untrusted.build'}}"}}}}""",
    "MODEL: {{CRITERION: {{NAME: CriterionSchedule, CRITERIA: [{{NAME: [untrusted.build]}}]}}}}",
    "MODEL: {{CRITERION: {{NAME: CriterionSchedule, CRITERIA: [{{NAME: 1.5}}]}}}}",  # 1.py
    "DATASETS: {{PROPOSAL_FILES_TEST: [{marker}.pkl]}}",
    "MODEL: {{ASSIGNER: {{X: !!python/object/apply:os.mkdir [{marker}]}}}}",
]


@pytest.mark.parametrize("text", COMPONENTS)
@pytest.mark.parametrize("inherited", [False, True])
def test_untrusted_components_in_plain_yaml_are_rejected(tmp_path, marker, text, inherited):
    path = write(tmp_path, text.format(marker=marker))
    if inherited:
        Path(tmp_path, "top.yaml").write_text("_BASE_: config.yaml\n")
        path = str(tmp_path / "top.yaml")
    with pytest.raises(UserError) as caught:
        load_config(path, ["MODEL.DEVICE=cpu"])
    assert "\n" not in str(caught.value) and "untrusted" not in sys.modules
    if "!!python" not in text:  # --trust-config does not allow that in plain yaml either
        assert "--trust-config" in str(caught.value)


def test_components_on_the_list_or_in_overrides_are_accepted(tmp_path):
    name = "ranking_det.assigners.MaxIoU"
    text = f"_BASE_: {YAML}\nMODEL: {{ASSIGNER: {{NAME: {name}}}}}\n"
    config = load_config(write(tmp_path, text), ["MODEL.DEVICE=cpu"])
    assert config.yaml.MODEL.ASSIGNER.NAME == name
    override = ["MODEL.ASSIGNER.NAME", "my.Assigner"]
    config = load_config(YAML, ["MODEL.DEVICE=cpu", *override])
    config.save(tmp_path / "run.yaml")
    message = "MODEL.ASSIGNER.NAME: expected .*, got 'my.Assigner'.*--trust-config"
    with pytest.raises(UserError, match=message):
        load_config(str(tmp_path / "run.yaml"), [])
    reloaded = load_config(str(tmp_path / "run.yaml"), [], trust=True)
    assert reloaded.yaml.MODEL.ASSIGNER.NAME == "my.Assigner"


def test_every_command_gives_a_one_line_error_for_an_untrusted_name(
    tmp_path, marker, saved_config, capsys
):
    content = yaml.load(saved_config, yaml.UnsafeLoader)
    content["model"] = {"_target_": "untrusted.build"}
    path = write(tmp_path, yaml.dump(content))
    for flags in ([], ["--eval-only"], ["--resume"], ["--preview", "1"], ["--predict", "x.jpg"]):
        assert main(["--config-file", path, *flags]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "model._target_: expected a name on the list" in line
        assert "got 'untrusted.build'" in line and "--trust-config" in line
