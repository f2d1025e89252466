import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking_det.layers import pixels_inside


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(0, 9),
    width=st.integers(0, 9),
    margin=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 10**6),
)
def test_a_pixel_is_inside_if_its_center_is_in_the_grown_box(height, width, margin, seed):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(6, 2, generator=generator) * 14 - 3  # some boxes leave the mask
    sides = torch.rand(6, 2, generator=generator) * 8
    boxes = torch.cat([corners, corners + sides], dim=1)
    boxes[0, 2:] = boxes[0, :2]  # empty
    boxes[1] = torch.tensor([0.0, 0.0, width, height])  # all pixels
    inside = pixels_inside(boxes, height, width, margin=margin)
    assert inside.shape == (6, height, width) and inside[1].all()
    for box, mask in zip(boxes, inside, strict=True):
        x1, y1, x2, y2 = box
        for r in range(height):
            for c in range(width):
                in_column = x1 - margin <= c + 0.5 < x2 + margin
                assert mask[r, c] == (in_column and y1 - margin <= r + 0.5 < y2 + margin)


def test_boxes_of_another_shape_raise_value_error():
    assert pixels_inside(torch.zeros(0, 4), 3, 2).shape == (0, 3, 2)
    with pytest.raises(ValueError, match=r"boxes: expected shape \(n, 4\)"):
        pixels_inside(torch.zeros(3), 3, 2)
