import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling import META_ARCH_REGISTRY

from ranking_det.criteria import BranchLoss, CenternessWeight, Criterion, Focal, PositiveCount
from ranking_det.modeling import DenseHead, PointTransform, RankingFCOS
from tests.modeling.cases import CONFIGS, make_batch


@pytest.fixture
def build():
    def _build(**changes):
        cfg = LazyConfig.load(str(CONFIGS / "common" / "models" / "fcos_r18.py")).model
        cfg.num_classes = 12
        for key, value in changes.items():
            cfg[key] = value
        torch.manual_seed(0)
        return instantiate(cfg)

    return _build


def with_centerness():
    return dict(
        head=DenseHead(in_channels=64, num_classes=12, num_anchors=1, num_convs=1, branch=True),
        criterion=Criterion(
            classification=Focal(),
            normalizer=PositiveCount(),
            branch=BranchLoss(CenternessWeight()),
        ),
    )


def test_fcos_is_registered_in_detectron2():
    assert META_ARCH_REGISTRY.get("RankingFCOS") is RankingFCOS


def test_box_outputs_are_distances_from_the_center_of_the_point_and_encoding_inverts_decoding():
    coder = PointTransform()
    points = torch.tensor([[0.0, 0, 64, 64], [100, 100, 228, 228]])
    boxes = torch.tensor([[30.0, 20, 40, 90], [10, 160, 300, 170]])
    torch.testing.assert_close(coder.apply_deltas(torch.zeros(2, 4), points), points)
    outputs = coder.get_deltas(points, boxes)
    # The distance 32 - 30, relative to half the side of the square.
    torch.testing.assert_close(outputs[0, 0].exp(), torch.tensor(2.0 / 32))
    torch.testing.assert_close(coder.apply_deltas(outputs, points), boxes, rtol=1e-5, atol=1e-4)


def test_decoded_boxes_of_any_output_are_finite_and_contain_their_point():
    points = torch.tensor([[0.0, 0, 64, 64]]).repeat(4, 1)
    outputs = torch.tensor([[-1e4] * 4, [1e4] * 4, [0.0, 1e4, -1e4, 3.0], [-3.0] * 4])
    boxes = PointTransform().apply_deltas(outputs.requires_grad_(), points)
    assert boxes.isfinite().all()
    assert (boxes[:, :2] <= 32).all() and (boxes[:, 2:] >= 32).all()
    boxes.sum().backward()
    assert outputs.grad.isfinite().all() and (outputs.grad[3] != 0).all()


def test_points_are_squares_of_eight_strides_centered_in_their_cells(build):
    model = build()
    anchors = model.anchor_generator([torch.zeros(1, 1, 2, 3)] * 5)
    first = anchors[0].tensor
    assert len(first) == 6
    torch.testing.assert_close(
        first[:2, :2].mean(0) + first[:2, 2:].mean(0), torch.tensor([16.0, 8])
    )
    assert ((first[:, 2:] - first[:, :2]) == 64).all()


@pytest.mark.parametrize("branch", [False, True])
@pytest.mark.parametrize("counts", [(3, 5), (0, 4), (0, 0)])
def test_a_step_gives_every_parameter_a_finite_gradient(build, branch, counts):
    model = build(**(with_centerness() if branch else {}))
    losses = model(make_batch(counts))
    assert ("loss_branch" in losses) == branch
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_the_branch_multiplies_the_scores_at_inference(build):
    model = build(**with_centerness()).eval()
    torch.nn.init.zeros_(model.head.branch.weight)
    scores = []
    for bias in (20.0, 0.0):
        torch.nn.init.constant_(model.head.branch.bias, bias)
        with torch.no_grad():
            scores.append(model(make_batch((1,)))[0]["instances"].scores)
    # The branch predicts 1, then 1/2. The score is the square root of the product.
    torch.testing.assert_close(scores[1], scores[0] * 0.5**0.5, rtol=1e-4, atol=0)


def test_suppressing_the_proposals_of_a_model_gives_its_detections(build):
    model = build().eval()
    batch = make_batch((1, 1), sizes=((96, 128),))
    with torch.no_grad():
        detections = [output["instances"] for output in model(batch)]
    for raw, expected in zip(model.propose(batch), detections):
        suppressed = model.inference.suppress(raw, (96, 128))
        suppressed.pred_boxes.clip((96, 128))  # as Detectron2's post-processing does
        torch.testing.assert_close(suppressed.scores, expected.scores)
        torch.testing.assert_close(suppressed.pred_boxes.tensor, expected.pred_boxes.tensor)
