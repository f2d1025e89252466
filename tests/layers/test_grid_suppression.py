import pytest
import torch

from ranking_det.layers import matrix_nms, points_nms
from tests.layers import reference


def random_masks(n, size=6, density=0.5, seed=0, num_classes=2):
    """Make masks: some are empty, some cover the image, and some are equal."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(n, size, size, generator=generator) < density
    masks[::5], masks[3::7] = False, True
    masks[1::4] = masks[:1].clone()
    masks[2::4] = masks[2:3].clone()
    scores = torch.randint(1, 9, (n,), generator=generator) / 8  # with ties
    return masks, scores, torch.randint(0, num_classes, (n,), generator=generator)


def pixels(masks):
    return [set(map(tuple, mask.nonzero().tolist())) for mask in masks]


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
@pytest.mark.parametrize("n", [0, 1, 2, 23])
@pytest.mark.parametrize("num_classes", [1, 3])
def test_matrix_nms_agrees_with_a_loop(kernel, n, num_classes):
    for seed, density in enumerate((0.1, 0.5, 0.9)):
        masks, scores, classes = random_masks(n, 6, density, seed, num_classes)
        lowered = matrix_nms(masks, scores, classes, kernel=kernel, sigma=1.5)
        expected = reference.matrix_nms(
            pixels(masks), scores.tolist(), classes.tolist(), kernel, 1.5
        )
        torch.testing.assert_close(lowered, torch.tensor(expected), rtol=1e-5, atol=1e-7)
        assert lowered.shape == (n,) and lowered.isfinite().all()


def test_of_equal_masks_with_equal_scores_the_first_keeps_its_score():
    masks, scores = torch.ones(4, 3, 3, dtype=torch.bool), torch.full((4,), 0.5)
    one_class, classes = torch.zeros(4, dtype=torch.int64), torch.arange(4)
    assert matrix_nms(masks, scores, one_class, kernel="linear").tolist() == [0.5, 0, 0, 0]
    gaussian = matrix_nms(masks, scores, one_class, sigma=2.0)
    assert gaussian.tolist() == pytest.approx([0.5, *[0.5 * 0.1353353] * 3])
    assert torch.equal(matrix_nms(masks, scores, classes), scores)


def test_empty_masks_keep_their_scores():
    masks, scores = torch.zeros(3, 2, 2, dtype=torch.bool), torch.tensor([0.1, 0.9, 0.5])
    for kernel in ("gaussian", "linear"):
        lowered = matrix_nms(masks, scores, torch.zeros(3, dtype=torch.int64), kernel=kernel)
        assert torch.equal(lowered, scores)


def test_matrix_nms_names_the_wrong_argument():
    masks, scores, classes = random_masks(3)
    for arguments, options, message in [
        ((masks.float(), scores, classes), {}, r"masks: expected bool \(n, h, w\), got"),
        ((masks, scores[:2], classes), {}, "scores: expected a float tensor of shape"),
        ((masks, scores, classes.float()), {}, "classes: expected an int64 tensor of shape"),
        ((masks, scores, classes), {"kernel": "hard"}, "kernel: expected one of gaussian, linear"),
        ((masks, scores, classes), {"sigma": 0.0}, "sigma: expected a finite number above 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            matrix_nms(*arguments, **options)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_points_nms_agrees_with_a_loop(size):
    generator = torch.Generator().manual_seed(size)
    scores = torch.randint(0, 5, (2, 3, size, size), generator=generator) / 4  # with ties
    expected = [[reference.points_nms(level) for level in image] for image in scores.tolist()]
    assert torch.equal(points_nms(scores), torch.tensor(expected))


def test_points_nms_keeps_all_of_equal_scores():
    scores = torch.full((1, 2, 4, 4), 0.25)
    assert torch.equal(points_nms(scores), scores)
