from pathlib import Path

import pytest
import torch
from detectron2.modeling import FPN
from omegaconf import OmegaConf

from ranking_det.engine import main
from ranking_det.engine.lazy_config import apply_overrides, load_lazy_config
from ranking_det.engine.run_config import load_config
from ranking_det.modeling import interface_of
from ranking_det.user_errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"
CONFIG = str(CONFIGS / "shapes" / "retinanet_atss_rs.py")


def test_overrides_change_values_and_add_arguments_of_the_constructor():
    cfg = load_lazy_config(
        CONFIG,
        [
            "train.max_iter=7",
            "optimizer.lr=1",  # an int where the signature has a float
            "model.assigner.topk=5",  # an argument that the config leaves out
            "model.criterion.classification.delta=0.25",
            "model.head.norm=GN",
            "train.init_checkpoint=/a/b.pth",
        ],
    )
    assert cfg.train.max_iter == 7 and cfg.optimizer.lr == 1
    assert cfg.model.assigner.topk == 5
    assert cfg.model.criterion.classification.delta == 0.25
    assert cfg.train.init_checkpoint == "/a/b.pth"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.max_itr=7",
            r"train: no key 'max_itr' \(did you mean 'max_iter'\?\)",
        ),
        (
            "trian.max_iter=7",
            r"config: no key 'trian' \(did you mean 'train'\?\)",
        ),
        (
            "model.assigner.top=5",
            r"model.assigner: no key 'top' \(did you mean 'topk'\?\)",
        ),
        ("model.assigner.topk=abc", "model.assigner.topk: expected int for ATSS, got 'abc'"),
        ("model.assigner.topk=2.5", "model.assigner.topk: expected int for ATSS, got 2.5"),
        ("train.max_iter=many", "train.max_iter: expected int, got 'many'"),
        ("train.amp.enabled=1", "train.amp.enabled: expected bool, got 1"),
        ("train.max_iter.x=1", "train.max_iter: expected a node with a key 'x', got 1300"),
        ("train.max_iter", "overrides: expected key=value, got 'train.max_iter'"),
        ("--eval-onyl", "overrides: expected key=value, got '--eval-onyl'"),
        ("train.output_dir=[1", r"train.output_dir: expected a number or a word, .*, got '\[1'"),
        ("optimizer.lr=0,01", "optimizer.lr: expected a number or a word, .*, got '0,01'"),
        ("train.init_checkpoint=~/a.pth", "expected .* a quoted string as .*, got '~/a.pth'"),
        ("model.pixel_mean=[1,x]", r"model.pixel_mean: expected numbers, got \[1, 'x'\]"),
        ("model.pixel_mean.3=1", "model.pixel_mean: expected an index from 0 to 2, got '3'"),
        (
            "model.criterion.classification=rs",
            "model.criterion.classification: expected a config node, got 'rs'",
        ),
        ("model.backbone.bottom_up.freeze_at=-1", "up.freeze_at: expected 0 .* to 5 .*, got -1"),
        ("model.backbone.bottom_up.freeze_at=17", "up.freeze_at: expected 0 .* to 5 .*, got 17"),
        ("model.backbone.bottom_up.freeze_at=x", "up.freeze_at: expected int, got 'x'"),
        ("dataloader.train.dataset.filter_empty=x", "filter_empty: expected bool, got 'x'"),
        ("optimizer.params.model=5", "^optimizer.params.model: expected no override, .*, got '5'$"),
        ("dataloader.train.start_iter=5", "^dataloader.train.start_iter: expected no override"),
    ],
)
def test_a_wrong_override_gives_a_one_line_error_that_names_it(override, message):
    with pytest.raises(UserError, match=message) as caught:
        load_lazy_config(CONFIG, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs=-1", "train.epochs: expected a finite number of at least 0, got -1"),
        ("train.epochs=nan", "train.epochs: expected a finite number of at least 0, got nan"),
        ("train.epochs=inf", "train.epochs: expected a finite number of at least 0, got inf"),
        ("train.epochs=1e300", "train.epochs: expected at most 2147483647, got 1e+300"),
        ("train.epochs=x", "train.epochs: expected float, got 'x'"),
        ("train.max_iter=-1", "train.max_iter: expected an integer of at least 1, got -1"),
        ("train.max_iter=1e5", "train.max_iter: expected int, got 100000.0"),
        ("train.eval_period=-1", "train.eval_period: expected an integer of at least 0, got -1"),
        ("train.log_period=0", "train.log_period: expected an integer of at least 1, got 0"),
        ("train.checkpointer.period=0", "period: expected an integer of at least 1, got 0"),
        ("train.checkpointer.max_to_keep=0", "keep: expected an integer of at least 1, got 0"),
        ("train.seed=x", "train.seed: expected int, got 'x'"),
        ("train.seed=4294967296", "train.seed: expected at most 2147483647, got 4294967296"),
        ("optimizer.lr=nan", "optimizer.lr: expected a finite number above 0, got nan"),
        ("optimizer.lr=inf", "optimizer.lr: expected a finite number above 0, got inf"),
        ("dataloader.train.total_batch_size=0", "size: expected an integer of at least 1, got 0"),
        ("dataloader.train.num_workers=-1", "train.num_workers: expected an integer of at least 0"),
        ("dataloader.test.num_workers=-1", "test.num_workers: expected an integer of at least 0"),
        ("SOLVER.EPOCHS=-1", "SOLVER.EPOCHS: expected a finite number of at least 0, got -1.0"),
        ("SOLVER.EPOCHS=1e999", "SOLVER.EPOCHS: expected a finite number of at least 0, got inf"),
        ("SOLVER.MAX_ITER=0", "SOLVER.MAX_ITER: expected an integer of at least 1, got 0"),
        ("SOLVER.MAX_ITER=x", "SOLVER.MAX_ITER: expected int, got 'x'"),
        ("SOLVER.IMS_PER_BATCH=0", "SOLVER.IMS_PER_BATCH: expected an integer of at least 1, got"),
        ("SOLVER.BASE_LR=nan", "SOLVER.BASE_LR: expected float, got 'nan'"),
        ("SOLVER.CHECKPOINT_PERIOD=0", "PERIOD: expected an integer of at least 1, got 0"),
        ("TEST.EVAL_PERIOD=-1", "TEST.EVAL_PERIOD: expected an integer of at least 0, got -1"),
        ("DATALOADER.NUM_WORKERS=-1", "NUM_WORKERS: expected an integer of at least 0, got -1"),
        ("SEED=x", "SEED: expected int, got 'x'"),
        ("SOLVER.STEPS=(9,3)", "STEPS: expected ascending iterations above 0, got [9, 3]"),
        ("SOLVER.STEPS=(-1,)", "STEPS: expected ascending iterations above 0, got [-1]"),
        ("SOLVER.STEPS=('a',)", "STEPS: expected ascending iterations above 0, got ['a']"),
    ],
)
def test_the_error_for_a_number_out_of_range_names_the_key_as_the_user_wrote_it(override, message):
    config = CONFIG if override[0].islower() else CONFIG.replace(".py", ".yaml")
    with pytest.raises(UserError) as caught:
        load_config(config, [override])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_epochs_may_be_a_fraction_although_the_config_has_an_integer():
    config = str(CONFIGS / "coco" / "retinanet_atss_rs_r50_12ep.py")
    assert load_config(config, ["train.epochs=0.5"]).train.epochs == 0.5


@pytest.mark.parametrize(
    ("suffix", "change", "expected"),
    [
        (
            ".py",
            "dataloader.test.mapper.image_format=BGR",
            ["dataloader.test.mapper.image_format: 'RGB' in that run, 'BGR' now"],
        ),
        (".py", "train.max_iter=7", []),
        (".yaml", "INPUT.MIN_SIZE_TEST=99", ["INPUT.MIN_SIZE_TEST: 192 in that run, 99 now"]),
        (".yaml", "SOLVER.MAX_ITER=7", []),
    ],
)
def test_input_changes_lists_how_the_test_mapper_differs_from_that_of_a_saved_config(
    suffix, change, expected, tmp_path
):
    path = CONFIG.replace(".py", suffix)
    load_config(path, []).save(tmp_path / "config.yaml")
    saved = (tmp_path / "config.yaml").read_text()
    assert load_config(path, [change]).input_changes(saved) == expected


@pytest.mark.parametrize("suffix", [".py", ".yaml"])
def test_input_changes_ignores_a_saved_config_that_is_faulty_or_of_another_kind(suffix):
    config = load_config(CONFIG.replace(".py", suffix), [])
    for text in ("", "a: [", "5", "{dataloader: 5, INPUT: 5}", "{dataloader: {}, INPUT: {}}"):
        assert config.input_changes(text) == []


def write_config(tmp_path, text):
    path = tmp_path / "config.py"
    path.write_text(text)
    return str(path)


def test_the_error_names_a_missing_file():
    with pytest.raises(UserError, match="'no/such.py' does not exist"):
        load_lazy_config("no/such.py", [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\ndef", "has syntax error.* line 2"),
        ("import no_such_module", r"No module named 'no_such_module' \(.*config.py:1\)"),
        ("import sys\nsys.exit(3)", r"SystemExit: 3 \(.*config.py:2\)"),
        (
            "model = dict()",
            "expected definitions of dataloader, optimizer, lr_multiplier, train, got none",
        ),
    ],
)
def test_the_error_for_a_faulty_file_names_the_fault(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        load_lazy_config(write_config(tmp_path, text), [])


def test_a_misspelled_key_in_the_file_is_an_error(tmp_path):
    text = (
        "from detectron2.config import LazyCall as L\n"
        "from ranking_det.assigners import ATSS\n"
        "model = L(ATSS)(topkk=9)\n"
        "dataloader = optimizer = lr_multiplier = train = dict()\n"
    )
    with pytest.raises(UserError, match=r"ATSS has no argument 'topkk' \(did you mean 'topk'"):
        load_lazy_config(write_config(tmp_path, text), [])


@pytest.mark.parametrize(
    ("name", "masks"),
    [
        ("mask_rs_r50_12ep", True),
        ("cascade_mask_rs_r50_12ep", True),
        ("cascade_rs_r50_12ep", False),
    ],
)
def test_a_model_reports_whether_it_learns_masks(name, masks):
    model = load_config(str(CONFIGS / "coco" / f"{name}.py"), []).model()
    assert interface_of(model).learns_masks == masks


@pytest.mark.parametrize(
    ("code", "message"),
    [("import sys\nsys.exit(3)", "SystemExit: 3"), ("raise SystemExit", "SystemExit")],
)
def test_a_config_that_exits_the_program_gives_an_error(code, message, tmp_path, capsys):
    path = tmp_path / "config.py"
    path.write_text(code)
    assert main(["--config-file", str(path)]) == 2
    assert f"error: {path}: {message} ({path}" in capsys.readouterr().err


def test_a_keyboard_interrupt_in_a_config_is_not_reported_as_a_config_error(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_lazy_config(str(path), [])


def test_the_error_for_an_unknown_name_or_number_in_a_model_names_its_key():
    stage = "model.backbone.bottom_up.stages.0"
    config = load_config(CONFIG, [f"{stage}.norm=17N"])
    message = f"{stage} cannot be built: unknown name '17N' in get_norm, the value of {stage}.norm$"
    with pytest.raises(UserError, match=message):
        config.model()
    config = load_config(str(CONFIGS / "shapes/mask_rs.yaml"), ["MODEL.RESNETS.DEPTH=19"])
    message = "MODEL cannot be built: unknown name 19 in .*, the value of MODEL.RESNETS.DEPTH$"
    with pytest.raises(UserError, match=message):
        config.model()


def test_the_names_of_targets_become_callables_unless_omegaconf_cannot_hold_them():
    dataclass = "ranking_det.data.coco_json.reader.ReadOptions"
    targets = {"torch.optim.SGD": torch.optim.SGD, "detectron2.modeling.FPN": FPN}
    targets |= {"builtins.dict": "builtins.dict", dataclass: dataclass}
    nodes = {str(i): {"_target_": name} for i, name in enumerate(targets)}
    cfg = OmegaConf.create(nodes, flags={"allow_objects": True})
    apply_overrides(cfg, [])
    assert [node._target_ for node in cfg.values()] == list(targets.values())
