"""Wrong values in configs and command lines: either a one-line error and no file, or a run."""

import logging
import os
import random
import shutil
import signal
import sys
import traceback
from collections import Counter
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig
from detectron2.modeling.backbone.resnet import BottleneckBlock, ResNet
from omegaconf import DictConfig, ListConfig, OmegaConf

from ranking_det.data.shapes import prepare_shapes
from ranking_det.engine import hooks, main
from ranking_det.engine.predict import list_images
from ranking_det.engine.run_config import load_config
from ranking_det.user_errors import UserError
from tests.cases import ROOT, run_function

SAMPLED = [
    *("configs/shapes/quick/retinanet_atss_rs.py", "configs/shapes/quick/mask_rs.py"),
    *("configs/shapes/retinanet_atss_rs.yaml", "configs/shapes/mask_rs.yaml"),
]
CONFIGS = [  # each architecture in both kinds of config, then configs with further keys
    *SAMPLED,
    *("configs/shapes/quick/fcos_fcos_rs.py", "configs/shapes/fcos_fcos_rs.yaml"),
    *("configs/shapes/quick/cascade_rs.py", "configs/shapes/cascade_rs.yaml"),
    *("configs/shapes/quick/retinanet_atss_rankdet.py", "configs/shapes/quick/mask_rs_lvis.py"),
    *("configs/shapes/quick/retinanet_paa_rs.py", "configs/shapes/quick/faster_ce.py"),
    *(
        "configs/coco/faster_alrp_r50_12ep.py",
        "configs/coco/retinanet_maxiou_alrp_r50_100ep_512.py",
    ),
    *("configs/coco/fcos_fcos_focal_r50_12ep.py", "configs/coco/mask_plus_rs_r50_12ep.py"),
    *("configs/coco/cascade_mask_rs_r50_12ep.py", "configs/lvis/mask_rs_lvis_v1_r50_12ep.py"),
    *("configs/coco/retinanet_paastar_ape_r2_101_dcn_36ep.py", "configs/own/mask_rs_lite0.py"),
]
RETINANET, TWIN = SAMPLED[0], SAMPLED[2]
VALUES = ["0", "-1", "nan", "inf", "text", "[1,x]", "null", "1" + 23 * "0"]
TWO_STEPS = {
    ".py": [
        *("train.device=cpu", "train.epochs=0", "train.reference_batch=0", "train.max_iter=2"),
        *("train.eval_period=0", "dataloader.train.total_batch_size=2"),
    ],
    ".yaml": [
        *("MODEL.DEVICE=cpu", "SOLVER.EPOCHS=0", "SOLVER.REFERENCE_BATCH=0", "SOLVER.MAX_ITER=2"),
        *("TEST.EVAL_PERIOD=0", "SOLVER.IMS_PER_BATCH=2", "DATALOADER.NUM_WORKERS=0"),
        *("SOLVER.STEPS=(1,)", "INPUT.MIN_SIZE_TRAIN=(64,)", "INPUT.MIN_SIZE_TEST=64"),
    ],
}
FOLDER = {".py": "train.output_dir", ".yaml": "OUTPUT_DIR"}
NUM_CASES = 5
"""Number of values that the default run tests in each config."""


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """The folder of a small shapes data set of 64 px images."""
    root = tmp_path_factory.mktemp("datasets")
    prepare_shapes(root, train=6, val=2, size=64)
    return root


@pytest.fixture
def folder(datasets, tmp_path, monkeypatch):
    """An empty current folder; results are not drawn."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(datasets))
    for name in ("draw_detections", "plot_curves"):
        monkeypatch.setattr(hooks, name, lambda *args, **kwargs: None)
    logging.disable(logging.CRITICAL)  # Detectron2's loggers keep a stream that pytest closes
    yield tmp_path
    logging.disable(logging.NOTSET)


def keys_of(config):
    """Return the keys of all values and nodes of a config, as the user writes them."""
    loaded = load_config(str(ROOT / config), TWO_STEPS[Path(config).suffix])
    if loaded.yaml is not None:
        return list(yaml_keys(loaded.yaml, ""))
    return list(lazy_keys(loaded.nodes, ""))


def lazy_keys(node, where):
    for key in list(node) if isinstance(node, DictConfig) else range(len(node)):
        name = f"{where}.{key}".lstrip(".")
        yield name
        hidden = OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key)
        if not hidden and isinstance(node[key], (DictConfig, ListConfig)):
            yield from lazy_keys(node[key], name)


def yaml_keys(node, where):
    for key, value in node.items():
        name = f"{where}.{key}".lstrip(".")
        yield from yaml_keys(value, name) if isinstance(value, dict) else [name]


CHANNELS = ("in_channels", "out_channels", "channels", "conv_dims", "fc_dims")
THINNER = 4


def make_small(node, split="train"):
    """Make a LazyConfig train on the small shapes, whatever its image sizes and data sets are.

    The initial weights are left out, so that nothing is downloaded. Layers of 256 channels or more
    become thinner, as in :func:`make_thin_stages`.
    """
    small = {"num_classes": 12, "num_workers": 0, "init_checkpoint": "", "max_size": 64}
    small |= {"short_edge_length": 64, "shape": [64, 64], "names": f"shapes_{split}"}
    for key in list(node) if isinstance(node, DictConfig) else range(len(node)):
        if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
            continue
        if key in CHANNELS:
            node[key] = thinner(node[key])
        elif key in small:
            node[key] = (
                [64, 64]
                if key == "short_edge_length" and "range" in node.values()
                else (small[key])
            )
        elif isinstance(node[key], (DictConfig, ListConfig)):
            make_small(node[key], "val" if key == "test" else split)


def thinner(channels):
    """Divide numbers of channels, one or a list of them, by THINNER if they are 256 or more."""
    if isinstance(channels, ListConfig):
        return [thinner(number) for number in channels]
    is_large = isinstance(channels, int) and channels >= 256
    return channels // THINNER if is_large else channels


def make_thin_stages():
    """Let Detectron2 build ResNet-50 and ResNet-101 with thin stages of one block, in this process.

    Building, training and saving the whole networks would take most of the time.
    """
    make_stage = ResNet.make_stage

    def thin_stage(block_class, num_blocks, *, in_channels, out_channels, **options):
        if block_class is BottleneckBlock and "bottleneck_channels" in options:
            num_blocks, options["stride_per_block"] = 1, options["stride_per_block"][:1]
            in_channels, out_channels = thinner(in_channels), thinner(out_channels)
            options["bottleneck_channels"] //= THINNER
        channels = {"in_channels": in_channels, "out_channels": out_channels}
        return make_stage(block_class, num_blocks, **channels, **options)

    ResNet.make_stage = staticmethod(thin_stage)


def choose_cases(config, count):
    """Return random keys and values: ``count`` of them, or all of them if it is None.

    Keys that an earlier config of the list has are left out.
    """
    keys, known = keys_of(config), set()
    for earlier in CONFIGS[: CONFIGS.index(config)]:
        if Path(earlier).suffix == Path(config).suffix:
            known.update(keys_of(earlier))
    keys = sorted(set(keys) - known)
    if count is None:
        return [(key, value) for key in keys for value in VALUES]
    rng = random.Random(7)
    return [(rng.choice(keys), rng.choice(VALUES)) for _ in range(count)]


def fault_of(status, error, written):
    """Describe why a command neither trained nor ended with one line; "" if it did."""
    lines = [line for line in error.splitlines() if line.startswith("train_net.py: error: ")]
    if "Traceback" in error or len(lines) != (status != 0) or status not in (0, 1, 2):
        return f"status {status}"
    return f"status 2, but wrote {written}" if status == 2 and written else ""


def try_values(config, count, folder):
    """Train two steps with each wrong value, in a process of its own.

    Call this in a process without threads.

    Returns the number of commands by exit status, and the faults.
    """
    hooks.draw_detections = hooks.plot_curves = lambda *args, **kwargs: None
    path, suffix, ends, faults = str(ROOT / config), Path(config).suffix, Counter(), []
    cases = [("", ""), *choose_cases(config, count)]
    if suffix == ".py":  # load once, because this is slow; each fork has a copy
        nodes = LazyConfig.load(path)
        make_small(nodes)
        make_thin_stages()
        LazyConfig.load = staticmethod(lambda path: nodes)
    for key, value in cases:
        options = [
            *TWO_STEPS[suffix],
            f"{FOLDER[suffix]}=out",
            *([f"{key}={value}"] if key else []),
        ]
        work = Path(folder, f"{key}={value}".replace("/", "_"))
        work.mkdir()
        child = os.fork()
        if not child:
            run_forked(["--config-file", path, *options], work)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        error = Path(f"{work}.stderr").read_text()
        fault = fault_of(status, error, sorted(path.name for path in work.rglob("*")))
        if fault:
            faults.append(f"{key}={value}: {fault}\n{error[-2000:]}")
        ends[status] += 1
        shutil.rmtree(work)
        if not key and status:
            raise AssertionError(f"the config itself does not train: {error[-2000:]}")
    return ends, faults


def run_forked(command, work):
    """Run a command line in a folder, and end this process."""
    os.chdir(work)
    for descriptor, name in enumerate(("stdout", "stderr"), start=1):
        os.dup2(os.open(f"{work}.{name}", os.O_WRONLY | os.O_CREAT), descriptor)
    signal.alarm(300)  # seconds after which a command counts as hanging
    status = 99
    try:
        status = main(command)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def check_values(config, count, datasets, folder):
    environment = os.environ | {"DETECTRON2_DATASETS": str(datasets)}
    completed = run_function(try_values, config, count, folder, environment=environment)
    assert completed.value is not None, completed.stderr[-3000:]
    ends, faults = completed.value
    assert not faults, "\n".join(faults)
    assert ends[2] >= sum(ends.values()) // 3


@pytest.mark.parametrize("config", SAMPLED)
def test_some_wrong_config_values_train_or_give_one_line(config, datasets, tmp_path):
    check_values(config, NUM_CASES, datasets, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_wrong_values_of_all_config_keys_train_or_give_one_line(config, datasets, tmp_path):
    check_values(config, None, datasets, tmp_path)


def prepare(folder, name):  # noqa: C901 - a line for each name
    """Write the faulty file or folder that a command line names."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    if name == "list.yaml":
        path.write_text("- 1\n- 2\n")
    elif name in ("empty.pth", "middle"):
        path.touch()
    elif name == "itself.yaml":
        path.write_text("_BASE_: itself.yaml\n")
    elif name == "text.pth":
        path.write_text("no weights")
    elif name in ("bytes.pth", "bytes.pkl"):
        path.write_bytes(random.Random(3).randbytes(4000))
    elif name == "other.pth":
        torch.save({"model": torch.nn.Linear(2, 2).state_dict()}, path)
    elif name == "nothing.pth":
        torch.save({"model": {}}, path)
    elif name == "broken":
        path.symlink_to("nowhere")
    elif name == "loop":
        path.symlink_to("loop")
    elif name == "pipe.jpg":
        os.mkfifo(path)
    else:
        path.mkdir()


WEIGHTS = "train.init_checkpoint="
BAD_COMMANDS = {
    "weights that are text": ([f"{WEIGHTS}text.pth"], "'text.pth' cannot be read as a checkpoint"),
    "weights of random bytes": ([f"{WEIGHTS}bytes.pth"], "cannot be read as a checkpoint"),
    "a random pickle": ([f"{WEIGHTS}bytes.pkl"], "cannot be read as a checkpoint"),
    "an empty file of weights": ([f"{WEIGHTS}empty.pth"], "cannot be read as a checkpoint"),
    "weights of another model": ([f"{WEIGHTS}other.pth"], "is a checkpoint of another model"),
    "weights without tensors": ([f"{WEIGHTS}nothing.pth"], "is a checkpoint of another model"),
    "the device meta": (["train.device=meta"], "train.device: expected a device that works here"),
    "a missing GPU": (["train.device=cuda:9"], "train.device: expected a device that works here"),
    "another accelerator": (["train.device=xpu"], "train.device: expected a device that works"),
    "a CPU with an index": (["train.device=cpu:7"], "train.device: expected 'cpu', which has no"),
    "a data set without images": (
        ["dataloader.train.dataset._target_=builtins.print"],
        "dataloader.train.dataset: expected a function or class that gives a Iterable or Sized",
    ),
    "a NaN factor": (["lr_multiplier.factor=nan"], "lr_multiplier cannot be built: learning rate"),
    "a schedule without length": (
        ["lr_multiplier.max_iter=0"],
        "lr_multiplier cannot be built: float division",
    ),
    "a size beyond the memory": (["model.backbone.out_channels=1000000000000"], "cannot be built"),
    "a size beyond 64 bits": (["model.backbone.out_channels=1" + 23 * "0"], "at most 64 bits"),
    "a text as a function": (
        ["optimizer._target_=text"],
        "optimizer._target_: expected a function",
    ),
    "a negative number of channels": (["model.backbone.out_channels=-1"], "cannot be built: "),
    "empty layers": (["model.backbone.bottom_up.stages.3.out_channels=0"], "weights with entries"),
    "a standard deviation of 0": (
        ["model.pixel_std.0=0"],
        "model.pixel_std: expected finite numbers above 0",
    ),
    "an unknown data set to evaluate": (
        ["dataloader.evaluator.dataset_name=text"],
        "dataloader.evaluator.dataset_name: expected a registered data set, got 'text'",
    ),
    "a broken link": (["train.output_dir=broken"], "train.output_dir: expected a writable folder"),
    "a link loop": (["train.output_dir=loop/out"], "train.output_dir: expected a writable folder"),
    "a long name": ([f"train.output_dir={300 * 'x'}"], "expected names of at most 255 bytes"),
    "a file as a folder": (["train.output_dir=middle/out"], "middle is not a writable folder)"),
    "a folder named metrics.json": (
        ["train.output_dir=taken"],
        "train.output_dir: expected a file or nothing at taken/metrics.json",
    ),
    "no processes": (["--num-gpus", "0"], "--num-gpus: expected at least 1, got 0"),
    "a malformed address": (
        ["--dist-url", "nonsense"],
        "--dist-url: expected auto, tcp://HOST:PORT with",
    ),
    "a wrong port": (["--dist-url", "tcp://a:70000"], "--dist-url: expected auto, tcp://HOST:PORT"),
    "a preview of no images": (["--preview", "0"], "--preview: expected at least 1, got 0"),
}
BAD_YAML = {
    "a base of itself": ("itself.yaml", [], "itself.yaml: "),
    "a list": ("list.yaml", [], "list.yaml: "),
    "an unknown sampler": (TWIN, ["DATALOADER.SAMPLER_TRAIN=Best"], "DATASETS.TRAIN cannot be"),
    "an unknown scheduler": (TWIN, ["SOLVER.LR_SCHEDULER_NAME=Best"], "SOLVER cannot be built: U"),
    "no iterations": (TWIN, ["SOLVER.MAX_ITER=0"], "SOLVER.MAX_ITER: expected an integer of at"),
    "a negative learning-rate decay": (
        TWIN,
        ["SOLVER.GAMMA=-1"],
        "SOLVER.GAMMA: expected a finite number of at",
    ),
    "a config version that does not exist": (TWIN, ["VERSION=9"], "VERSION: expected 2, got 9"),
    "masks of a detector without masks": (
        TWIN,
        ["MODEL.MASK_ON=True"],
        "MODEL.MASK_ON: expected False for RankingRetinaNet, which has no masks, got True",
    ),
    "a negative frozen stage": (
        TWIN,
        ["MODEL.BACKBONE.FREEZE_AT=-1"],
        "MODEL.BACKBONE.FREEZE_AT: expected",
    ),
}
FILES = [
    *("list.yaml", "itself.yaml", "text.pth", "bytes.pth", "bytes.pkl", "empty.pth", "other.pth"),
    *("nothing.pth", "middle", "broken", "loop", "taken", "taken/metrics.json"),
]


@pytest.fixture
def faulty_files(folder):
    """The files and folders that the command lines name, and the content of the folder."""
    for name in FILES:
        prepare(folder, name)
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize("case", BAD_COMMANDS)
def test_a_bad_command_line_is_rejected_before_anything_is_written(
    case, folder, faulty_files, capsys
):
    arguments, message = BAD_COMMANDS[case]
    flags = [] if "=" in arguments[0] else arguments
    overrides = arguments if "=" in arguments[0] else []
    options = [*TWO_STEPS[".py"], "train.output_dir=out"]
    status = main(["--config-file", str(ROOT / RETINANET), *flags, *options, *overrides])
    check_refusal(status, capsys.readouterr().err, message)
    assert sorted(folder.rglob("*")) == faulty_files


@pytest.mark.parametrize("case", BAD_YAML)
def test_a_bad_yaml_config_is_rejected_before_anything_is_written(
    case, folder, faulty_files, capsys
):
    config, overrides, message = BAD_YAML[case]
    path = config if config in FILES else str(ROOT / config)
    options = [*TWO_STEPS[".yaml"], "OUTPUT_DIR=out"]
    status = main(["--config-file", path, *options, *overrides])
    check_refusal(status, capsys.readouterr().err, message)
    assert sorted(folder.rglob("*")) == faulty_files


def check_refusal(status, error, message):
    assert not fault_of(status, error, [])
    assert status == 2 and message in error, error


def test_a_pipe_as_image_file_is_rejected(folder):
    prepare(folder, "pipe.jpg")
    with pytest.raises(UserError, match="--predict: 'pipe.jpg' is not a file"):
        list_images(["pipe.jpg"])
