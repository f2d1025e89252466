"""The switches of test-time augmentation: train.tta.enabled and TEST.AUG.ENABLED."""

from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import pytest
from detectron2.engine import DefaultTrainer
from omegaconf import OmegaConf
from torch import nn

from ranking_det.config import ConfigError
from ranking_det.engine import lazy_trainer, main, yaml_trainer
from ranking_det.engine.lazy_config import load_lazy_config
from ranking_det.engine.yaml_trainer import RankingTrainer, load_yaml_config
from ranking_det.modeling.inference import DenseInference
from ranking_det.modeling.test_time_augmentation import DenseDetectorWithTTA

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


def assert_augmented(found, model):
    assert isinstance(found, DenseDetectorWithTTA) and found.model is model
    assert list(found.mapper.min_sizes) == [96, 128] and found.mapper.flip is False


def evaluate_lazy(cfg, model, monkeypatch, tmp_path):
    seen = []
    cfg.dataloader.evaluator = OmegaConf.create()
    cfg.train.output_dir = str(tmp_path)
    monkeypatch.setattr(lazy_trainer, "build_loader", lambda *args: [])
    monkeypatch.setattr(lazy_trainer, "print_csv_format", lambda results: None)
    monkeypatch.setattr(lazy_trainer, "inference_on_dataset", lambda m, *_: seen.append(m) or {})
    lazy_trainer.evaluate(cfg, model)
    return seen[0]


def evaluate_yaml(cfg, model, monkeypatch):
    seen = []
    test = classmethod(lambda cls, cfg, model, evaluators: seen.append(model) or OrderedDict())
    monkeypatch.setattr(DefaultTrainer, "test", test)
    RankingTrainer.test(cfg, model)
    return seen[0]


def test_lazy_configs_evaluate_the_model_itself_unless_told_otherwise(monkeypatch, tmp_path):
    model = Dense()
    cfg = load_lazy_config(RS, [])
    assert evaluate_lazy(cfg, model, monkeypatch, tmp_path) is model
    del cfg.train["tta"]  # a config of one's own need not have it
    assert evaluate_lazy(cfg, model, monkeypatch, tmp_path) is model
    cfg = load_lazy_config(RS, LAZY_ON)
    assert_augmented(evaluate_lazy(cfg, model, monkeypatch, tmp_path), model)


def test_yaml_configs_evaluate_the_model_itself_unless_told_otherwise(monkeypatch):
    model = Dense()
    cfg = load_yaml_config(TWIN, ["DATASETS.TEST", "()"])
    assert evaluate_yaml(cfg, model, monkeypatch) is model
    cfg = load_yaml_config(TWIN, ["DATASETS.TEST", "()", *YAML_ON])
    assert_augmented(evaluate_yaml(cfg, model, monkeypatch), model)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.tta.min_size=[1]"], r"no key 'min_size' in train.tta \(did you mean 'min_sizes'"),
        (["train.tta.flip=1"], "train.tta.flip must be bool, got 1"),
        (["train.tta.min_sizes=480"], "train.tta.min_sizes is a node of the config and cannot"),
    ],
)
def test_a_wrong_key_or_type_is_one_line(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_lazy_config(RS, overrides)


@pytest.mark.parametrize("module", [lazy_trainer, yaml_trainer])
def test_what_the_wrapper_refuses_is_one_line(module):
    if module is lazy_trainer:
        where, right = "train.tta", load_lazy_config(RS, LAZY_ON)
        wrong = load_lazy_config(RS, [*LAZY_ON, "train.tta.min_sizes=[]"])
    else:
        where, right = "TEST.AUG", load_yaml_config(TWIN, YAML_ON)
        wrong = load_yaml_config(TWIN, [*YAML_ON, "TEST.AUG.MIN_SIZES=()"])
    for cfg, model, reason in (
        (right, nn.Linear(1, 1), "model: expected a dense detector, .* got Linear"),
        (wrong, Dense(), "min_sizes: expected at least one size"),
    ):
        with pytest.raises(ConfigError, match=f"{where} cannot be built: {reason}") as caught:
            module.augment(cfg, model)
        assert "\n" not in str(caught.value)


def test_a_refusal_comes_before_anything_is_written_for_a_yaml_config(monkeypatch, tmp_path):
    monkeypatch.setattr(RankingTrainer, "build_model", lambda cfg: nn.Linear(1, 1))
    opts = [*YAML_ON, "MODEL.DEVICE=cpu", f"OUTPUT_DIR={tmp_path / 'out'}"]
    args = Namespace(config_file=TWIN, opts=opts, eval_only=False, resume=False)
    with pytest.raises(ConfigError, match="TEST.AUG cannot be built: model: expected a dense"):
        yaml_trainer.run_yaml(args)
    assert not (tmp_path / "out").exists()


def test_a_refusal_comes_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lazy_trainer, "default_setup", lambda *_: pytest.fail("it goes on"))
    args = [*LAZY_ON, "train.tta.max_size=0", "train.device=cpu"]
    assert main(["--config-file", RS, *args, f"train.output_dir={tmp_path / 'out'}"]) == 2
    assert "train.tta cannot be built: max_size" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
