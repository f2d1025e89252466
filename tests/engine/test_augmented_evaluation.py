"""Test-time augmentation from the config: train.tta.enabled and TEST.AUG.ENABLED."""

from pathlib import Path

import pytest
from detectron2.modeling import GeneralizedRCNNWithTTA
from torch import nn

from ranking_det.engine import main, run
from ranking_det.engine.lazy_config import load_lazy_config
from ranking_det.engine.run_config import RunConfig, load_config
from ranking_det.modeling.dense.inference import DenseInference
from ranking_det.modeling.tta import DenseDetectorWithTTA
from ranking_det.user_errors import UserError

SHAPES = Path(__file__).parents[2] / "configs" / "shapes"
RS, TWIN = str(SHAPES / "retinanet_atss_rs.py"), str(SHAPES / "retinanet_atss_rs.yaml")
LAZY_ON = ["train.tta.enabled=True", "train.tta.min_sizes=[96,128]", "train.tta.flip=False"]
YAML_ON = ["TEST.AUG.ENABLED=True", "TEST.AUG.MIN_SIZES=[96,128]", "TEST.AUG.FLIP=False"]


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.inference = DenseInference()

    def propose(self, batched_inputs):
        raise NotImplementedError


def assert_augmented(wrapped, model):
    assert isinstance(wrapped, DenseDetectorWithTTA) and wrapped.model is model
    assert list(wrapped.mapper.min_sizes) == [96, 128] and wrapped.mapper.flip is False


@pytest.mark.parametrize(("config", "tta_overrides"), [(RS, LAZY_ON), (TWIN, YAML_ON)])
def test_a_model_is_augmented_only_if_the_config_enables_it(config, tta_overrides):
    model = Dense()
    assert load_config(config, []).augment(model) is model
    assert_augmented(load_config(config, tta_overrides).augment(model), model)


@pytest.mark.parametrize(
    ("config", "tta_overrides"), [("quick/mask_rs.py", LAZY_ON), ("mask_rs.yaml", YAML_ON)]
)
def test_detectron2_augments_an_rcnn_of_either_kind_of_config(config, tta_overrides):
    device = "MODEL.DEVICE=cpu" if config.endswith(".yaml") else "train.device=cpu"
    loaded = load_config(str(SHAPES / config), [*tta_overrides, device])
    model = loaded.model()
    wrapped = loaded.augment(model)
    assert isinstance(wrapped, GeneralizedRCNNWithTTA) and wrapped.model is model
    assert list(wrapped.tta_mapper.min_sizes) == [96, 128] and wrapped.tta_mapper.flip is False


def test_a_custom_config_may_lack_the_tta_node():
    loaded, model = load_config(RS, []), Dense()
    del loaded.train["tta"]
    assert loaded.augment(model) is model


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["train.tta.min_size=[1]"],
            r"train.tta: no key 'min_size' \(did you mean 'min_sizes'",
        ),
        (["train.tta.flip=1"], "train.tta.flip: expected bool, got 1"),
        (["train.tta.min_sizes=480"], "train.tta.min_sizes: expected a list, got 480"),
    ],
)
def test_a_wrong_key_or_type_gives_a_one_line_error(overrides, message):
    with pytest.raises(UserError, match=message):
        load_lazy_config(RS, overrides)


@pytest.mark.parametrize(
    ("config", "tta_overrides", "wrong"),
    [(RS, LAZY_ON, "train.tta.min_sizes=[]"), (TWIN, YAML_ON, "TEST.AUG.MIN_SIZES=()")],
)
def test_a_model_or_option_that_the_wrapper_rejects_gives_a_one_line_error(
    config, tta_overrides, wrong
):
    where = wrong.rpartition(".")[0]
    for options, model, reason in (
        (tta_overrides, nn.Linear(1, 1), "model: expected a dense detector .* got Linear"),
        ([*tta_overrides, wrong], Dense(), "min_sizes: expected (numbers|at least one size)"),
    ):
        with pytest.raises(UserError, match=rf"{where}( cannot be built: |\.){reason}") as caught:
            load_config(config, options).augment(model)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "tta_overrides", "folder"),
    [(RS, LAZY_ON, "train.output_dir"), (TWIN, YAML_ON, "OUTPUT_DIR")],
)
def test_a_model_that_cannot_be_augmented_is_rejected_before_anything_is_written(
    config, tta_overrides, folder, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(RunConfig, "model", lambda self: nn.Linear(1, 1))
    monkeypatch.setattr(run, "set_up", lambda *_: pytest.fail("the run continues"))
    device = "MODEL.DEVICE=cpu" if config == TWIN else "train.device=cpu"
    options = [*tta_overrides, device, f"{folder}={tmp_path / 'out'}"]
    assert main(["--config-file", config, *options]) == 2
    assert "expected a dense detector" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
