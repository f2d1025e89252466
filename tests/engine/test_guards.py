"""The training guard against NaN losses and missing positives; the score threshold warning."""

import errno
import json
import logging
import math
import re
from types import SimpleNamespace

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import instantiate
from detectron2.engine import SimpleTrainer, hooks
from detectron2.evaluation import DatasetEvaluators, inference_on_dataset
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage, JSONWriter
from torch import distributed, nn

from ranking_det.engine import hooks as engine_hooks
from ranking_det.engine.hooks import EvaluationHook, NonFiniteLossError, TrainingGuard
from ranking_det.engine.training import without_tracebacks
from ranking_det.modeling import DenseInference
from ranking_det.modeling.step_metrics import log_metrics
from ranking_det.modeling.threshold_watch import watch_scores
from ranking_det.modeling.tta import DenseDetectorWithTTA
from ranking_det.user_errors import UserError
from tests.cases import run_workers
from tests.modeling.cases import load, make_batch


class Model(nn.Module):
    """A model that takes its losses from the batch."""

    prefix = ""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, batch):
        if not self.training:
            return [{"instances": float("nan")} for _ in batch]
        if "positives" in batch[0]:
            log_metrics({"num_positives": torch.tensor(batch[0]["positives"])}, self.prefix)
            if self.prefix:
                log_metrics({"num_positives": torch.tensor(8.0)}, "roi/")
        factor = sum(inputs.get("factor", 1.0) for inputs in batch)
        return {"loss_cls": self.weight.sum() * factor, "loss_box": self.weight.sum() * 0.5}


def make_trainer(batches, max_iter=None, extra=()):
    model = Model()
    trainer = SimpleTrainer(model, batches, torch.optim.SGD(model.parameters(), lr=0.01))
    trainer.register_hooks([TrainingGuard(), *extra])
    return trainer


def batches_with(faulty, step, count=6):
    """Batches of two images with ids from 0; the first image of batch ``step`` is faulty."""
    batches = [[{"image_id": 2 * i}, {"image_id": 2 * i + 1}] for i in range(count)]
    batches[step][0] |= faulty
    return batches


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_non_finite_loss_stops_training_and_names_loss_iteration_and_images(value):
    trainer = make_trainer(batches_with({"factor": float(value)}, step=3))
    message = rf"^loss_cls became NaN or infinite at iteration 3 \(loss_cls={value}, loss_box=0\."
    with pytest.raises(NonFiniteLossError, match=message + r"\d+\), images 6, 7\. Try gradient"):
        trainer.train(0, 6)
    assert trainer.model.weight.isfinite().all()


def test_the_error_names_the_file_of_an_image_without_an_id():
    with pytest.raises(NonFiniteLossError, match=r"images a\.png\."):
        make_trainer([[{"file_name": "a.png", "factor": float("inf")}]]).train(0, 1)


def test_the_error_names_the_images_whose_gradients_broke_the_weights():
    batches = batches_with({}, step=0)
    trainer = make_trainer(batches)
    step = trainer.optimizer.step
    trainer.optimizer.step = lambda: (step(), trainer.model.weight.data.mul_(float("nan")))
    message = r"iteration 1 .*, images 0, 1\. The weights were .* gradients of iteration 0 broke"
    with pytest.raises(NonFiniteLossError, match=message):
        trainer.train(0, 6)


def test_non_finite_initial_weights_are_reported():
    trainer = make_trainer(batches_with({}, step=0))
    trainer.model.weight.data.fill_(float("nan"))
    with pytest.raises(NonFiniteLossError, match=r"images 0, 1\. The weights were .* from the sta"):
        trainer.train(0, 6)


@pytest.mark.parametrize("step", [3, 5])
def test_no_checkpoint_is_written_after_a_non_finite_loss(step, tmp_path):
    trainer = make_trainer(batches_with({"factor": float("nan")}, step))
    checkpointer = DetectionCheckpointer(trainer.model, str(tmp_path), trainer=trainer)
    trainer.register_hooks([hooks.PeriodicCheckpointer(checkpointer, 2)])
    with pytest.raises(NonFiniteLossError):
        trainer.train(0, 6)
    written = sorted(path.name for path in tmp_path.glob("*.pth"))
    assert written == ["model_0000001.pth", "model_0000003.pth"][: step // 2]
    assert (tmp_path / "last_checkpoint").read_text() == written[-1]


def test_evaluations_are_not_checked_and_the_forward_hook_is_removed_at_the_end():
    class Evaluate(hooks.HookBase):
        def after_step(self):
            self.trainer.model.eval()
            self.trainer.model([{}])
            self.trainer.model.train()

    trainer = make_trainer(batches_with({}, step=0), extra=[Evaluate()])
    trainer.train(0, 6)
    assert not trainer.model._forward_hooks
    trainer.model([{"factor": float("nan")}])


def work(rank, size, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=size)
    logging.getLogger("ranking_det").addHandler(logging.FileHandler(f"{folder}/{rank}.log"))
    engine_hooks.STEPS_WITHOUT_POSITIVE = 2
    batches = [[{"image_id": 10 * rank + i, "positives": 0.0}] for i in range(9)]
    batches[1][0]["positives"] = float(rank)  # worker 1 has a positive
    if rank == 1:
        batches[5][0]["factor"] = float("nan")
    model = nn.parallel.DistributedDataParallel(Model())
    trainer = SimpleTrainer(model, batches, torch.optim.SGD(model.parameters(), lr=0.01))
    trainer.register_hooks([TrainingGuard()])
    try:
        trainer.train(0, 9)
    except NonFiniteLossError as error:
        with open(f"{folder}/{rank}.txt", "w") as file:
            file.write(f"{trainer.iter} {error}")
    evaluate(Detector([LOW] * 10), num_images=3 * rank)  # worker 0 evaluates no image
    distributed.destroy_process_group()


def test_all_workers_stop_in_the_same_step_and_count_positives_together(tmp_path):
    run_workers(work, 2, str(tmp_path))
    text, other = ((tmp_path / f"{rank}.txt").read_text() for rank in range(2))
    assert text == other and text.startswith("5 loss_cls became NaN or infinite at iteration 5 on ")
    assert "worker 1 (loss_cls=nan" in text and "images 15. Try" in text and "worker 0" not in text
    log = (tmp_path / "0.log").read_text()
    assert "last 2 steps, up to iteration 3. The images" in log
    assert "0.00 detections per image (3 im" in log
    assert not (tmp_path / "1.log").read_text()


def batches_with_positives(*runs):
    instances = Instances((8, 8), gt_classes=torch.zeros(3))
    return [
        [{"image_id": 0, "positives": value, "instances": instances}]
        for value, count in runs
        for _ in range(count)
    ]


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


@pytest.mark.parametrize(
    ("runs", "ends"),
    [
        ([(0.0, 99), (0.5, 1), (0.0, 99)], []),
        ([(0.0, 350)], [99]),
        ([(0.5, 5), (0.0, 150), (0.5, 1), (0.0, 120)], [104, 255]),
    ],
)
def test_a_hundred_steps_without_a_positive_warn_once_until_positives_return(runs, ends, caplog):
    batches = batches_with_positives(*runs)
    make_trainer(batches).train(0, len(batches))
    messages = warnings(caplog)
    assert len(messages) == len(ends)
    for message, end in zip(messages, ends):
        assert f"last 100 steps, up to iteration {end}. The images of these steps had" in message
        assert "had 300 objects in total" in message
        for cause in ("anchor sizes", "class ids", "filtered out", "images without objects"):
            assert cause in message


def test_an_rpn_without_positives_gives_a_warning_even_if_the_box_head_has_positives(
    caplog, monkeypatch
):
    monkeypatch.setattr(Model, "prefix", "rpn/")
    make_trainer(batches_with_positives((0.0, 100))).train(0, 100)
    (message,) = warnings(caplog)
    assert message.startswith("No positives (rpn/num_positives) in the last 100 steps")


@pytest.mark.parametrize(
    ("name", "loss"), [("mask_rs", "loss_rank"), ("cascade_rs", "loss_rank_stage0")]
)
def test_the_error_names_a_non_finite_loss_of_an_rcnn(name, loss):
    model = instantiate(load(f"quick/{name}.py").model)
    batches = [make_batch((2, 1), sizes=((64, 64),)) for _ in range(2)]
    for i, inputs in enumerate(batches[0] + batches[1]):
        inputs["image_id"] = i
    batches[1][0]["image"] = torch.full((3, 64, 64), torch.nan)
    trainer = SimpleTrainer(model, batches, torch.optim.SGD(model.parameters(), lr=1e-4))
    trainer.register_hooks([TrainingGuard()])
    message = r"iteration 1 .*, images 2, 3\. The pixels of 2 are NaN or infinite: check the file"
    with pytest.raises(NonFiniteLossError, match=message) as error:
        trainer.train(0, 2)
    assert {loss, "loss_rpn_rank"} <= set(re.findall(r"(\w+)=nan", str(error.value)))


@pytest.mark.parametrize("name", ["retinanet_paa_rs", "retinanet_paastar_ape"])
def test_the_error_names_an_image_with_a_nan_pixel_even_if_paa_finds_no_positives(name):
    model = instantiate(load(f"quick/{name}.py").model)
    batch = make_batch((2, 1), sizes=((64, 64),))
    for i, inputs in enumerate(batch):
        inputs |= {"image_id": i, "file_name": f"{i}.png", "image": inputs["image"].float()}
    batch[1]["image"][0, 8, 8] = torch.nan
    trainer = SimpleTrainer(model, [batch], torch.optim.SGD(model.parameters(), lr=1e-4))
    trainer.register_hooks([TrainingGuard()])
    message = r"iteration 0 .*, images 0\.png, 1\.png\. The pixels of 1\.png are NaN or infinite"
    with pytest.raises(NonFiniteLossError, match=message):
        trainer.train(0, 1)


def test_a_class_out_of_range_is_an_error_before_the_step_and_names_the_image():
    batches = batches_with({"file_name": "b.png"}, step=1)
    for wrong, classes in ((-1, [0, -1]), (3, [0, 3])):
        batches[1][0]["instances"] = Instances((8, 8), gt_classes=torch.tensor(classes))
        model = Model()
        trainer = SimpleTrainer(model, batches, torch.optim.SGD(model.parameters(), lr=0.01))
        trainer.register_hooks([TrainingGuard(num_classes=3)])
        message = rf"^the image 'b\.png': 'category_id': expected .* from 0 to 2, got {wrong}$"
        with pytest.raises(UserError, match=message):
            trainer.train(0, 6)
        assert trainer.iter == 1 and not model._forward_pre_hooks


class FailingModel(Model):
    """A model that raises an error in training."""

    def __init__(self, error):
        super().__init__()
        self.convolution = nn.Conv2d(3, 2, 1)
        self.error = error

    def forward(self, batch):
        if self.error is None:
            return self.convolution(torch.zeros(1, 4, 8, 8))
        raise self.error


DISK_FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("the image 'a.png' cannot be read"), "the image 'a.png' cannot be read"),
        (NonFiniteLossError("a loss became NaN"), "a loss became NaN"),
        (UserError("Caught it.\n  File x\nUserError: an image is gone"), "an image is gone"),
        (DISK_FULL, "TMP: cannot write (No space left on device); free some space and"),
        (None, "the layer 'convolution' of the model fails: Given groups=1"),
        (ValueError("a fault of the program"), None),
    ],
)
def test_only_programming_errors_have_a_traceback_in_the_log(error, line, tmp_path, caplog):
    model = FailingModel(error)
    trainer = SimpleTrainer(model, [[{}]], torch.optim.SGD(model.parameters(), lr=0.01))
    errors = RuntimeError, OSError, ValueError, NonFiniteLossError
    plan = SimpleNamespace(model=model, output_dir=str(tmp_path))
    with pytest.raises(errors), without_tracebacks(plan):
        trainer.train(0, 1)
    (record,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    if line is None:
        assert record.getMessage() == "Exception during training:" and record.exc_info
    else:
        assert (
            record.getMessage().startswith(f"Training ends: {line.replace('TMP', str(tmp_path))}")
            and not record.exc_info
        )


@pytest.mark.parametrize("name", ["faster_rs", "cascade_rs"])
@pytest.mark.parametrize(
    ("thresh", "message"),
    [(0.1, "is 0.1, which 100% of all boxes pass"), (0.9, "leaves only 0.00"), (0.0, None)],
)
def test_an_unsuitable_score_threshold_of_an_rcnn_gives_a_warning(name, thresh, message, caplog):
    cfg = load(f"quick/{name}.py").model
    heads = cfg.roi_heads
    for predictor in heads.get("box_predictors") or [heads.box_predictor]:
        predictor.test_score_thresh = thresh  # the initial scores are all close to 0.5
    with watch_scores():
        batches = [make_batch((1,), sizes=((64, 64),)) for _ in range(2)]
        inference_on_dataset(instantiate(cfg), batches, DatasetEvaluators([]))
    messages = warnings(caplog)
    if message is None:
        assert not messages
    else:
        assert len(messages) == 1 and message in messages[0] and "(2 images" in messages[0]
        assert messages[0].startswith("model.roi_heads.box_predictor.test_score_thresh (")


def test_a_model_that_does_not_log_positives_gives_no_warning(caplog):
    make_trainer([[{}]] * 150).train(0, 150)
    assert not warnings(caplog)


class Detector(nn.Module):
    """A detector with one level of 10 disjoint boxes of 2 classes, and given logits."""

    def __init__(self, logits, **options):
        super().__init__()
        self.logits = torch.tensor(logits)[:, None].expand(10, 2)
        self.inference = DenseInference(**options)

    def propose(self, batch):
        corners = torch.arange(10.0)[:, None] * torch.tensor([10.0, 0.0])
        anchors = torch.cat([corners, corners + 5], dim=1)
        levels = [self.logits], [torch.zeros(10, 4)], [anchors]
        return [self.inference.propose(*levels, lambda outputs, anchors: anchors) for _ in batch]

    def forward(self, batch):
        return [self.inference.suppress(raw, (100, 100)) for raw in self.propose(batch)]


def evaluate(model, num_images=4):
    with watch_scores():
        for _ in range(num_images):
            model([{"image": torch.zeros(3, 64, 100, dtype=torch.uint8)}])


LOW, HIGH = -6.0, 2.0


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize(
    ("num_high", "options", "message"),
    [
        (0, {}, r"is 0.05, which leaves only 0\.00 detections per image \(4 images.* Lower it"),
        (1, {}, None),
        (3, {}, None),
        (4, {}, r"is 0.05, which 40% of all boxes pass \(4 images\)\. Raise it"),
        (4, {"topk": 1}, "40% of all boxes pass"),  # counted before top-k
        (10, {"score_thresh": 0.0}, None),  # 0 disables the threshold
        (1, {"score_thresh": 0.9}, r"is 0\.9, which leaves only 0\.00"),
    ],
)
def test_a_threshold_that_too_few_or_too_many_boxes_pass_gives_a_warning(
    num_high, options, message, augmented, caplog
):
    model = Detector([HIGH] * num_high + [LOW] * (10 - num_high), **options)
    if augmented:
        model = DenseDetectorWithTTA(model, min_sizes=[64, 96], max_size=200, flip=True)
    evaluate(model)
    text = "\n".join(warnings(caplog))
    if message is None:
        assert not text
    else:
        assert len(warnings(caplog)) == 1
        assert text.startswith("model.inference.score_thresh (yaml: MODEL.INFERENCE.SCORE_THRESH)")
        assert re.search(message, text)


def test_non_finite_scores_give_no_threshold_warning(caplog):
    evaluate(Detector([float("nan")] * 10, score_thresh=0.0))
    (message,) = warnings(caplog)
    assert "It cannot be lower: the scores or boxes are not finite" in message


def test_other_models_training_and_failed_evaluations_give_no_warning(caplog):
    evaluate(nn.Identity())
    Detector([LOW] * 10)([{}])
    with pytest.raises(ZeroDivisionError), watch_scores():
        Detector([LOW] * 10)([{}])
        raise ZeroDivisionError
    evaluate(Detector([HIGH] * 2 + [LOW] * 8))  # the earlier counts are discarded
    assert not warnings(caplog)


def test_undefined_metrics_are_not_written_to_metrics_json(tmp_path):
    metrics = {"bbox": {"AP": 12.0, "AP-cat": math.nan}, "segm": {"AP": math.nan}}
    writer = JSONWriter(str(tmp_path / "metrics.json"))
    with EventStorage() as storage:
        hook = EvaluationHook(1, lambda: metrics)
        hook.trainer = SimpleNamespace(storage=storage, iter=0, max_iter=5)
        hook.after_step()
        writer.write()
    row = json.loads((tmp_path / "metrics.json").read_text())
    assert row == {"bbox/AP": 12.0, "iteration": 0}
