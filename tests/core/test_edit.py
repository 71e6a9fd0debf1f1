"""Canvas, mask and sketch of an edit in the page."""

from __future__ import annotations

import pytest
import torch

from lazy_core.edit import Edit, blank_image, join_masks, keep_outside, paint_over


def test_blank_canvas_has_its_colour_to_the_level() -> None:
    image = blank_image(5, 3, "#0080ff")
    assert image.shape == (1, 3, 3, 5)
    assert (image * 255).round()[0, :, 1, 2].tolist() == [0, 128, 255]


@pytest.mark.parametrize("color", ["", "#12345", "grey", "#1234567", "12 345"])
def test_what_is_no_colour_is_named(color: str) -> None:
    with pytest.raises(ValueError, match="expected #rrggbb"):
        blank_image(4, 4, color)


def test_paint_covers_as_much_as_its_opacity_and_nothing_elsewhere() -> None:
    image = torch.rand(2, 3, 4, 4)
    paint = torch.zeros(4, 4, 4)
    paint[:, 1, 2] = torch.tensor([1.0, 0.0, 0.5, 0.25])
    painted = paint_over(image, paint)
    assert torch.allclose(painted[:, :, 1, 2], 0.75 * image[:, :, 1, 2] + 0.25 * torch.tensor([1.0, 0.0, 0.5]))
    painted[:, :, 1, 2] = image[:, :, 1, 2]
    assert torch.equal(painted, image)


def test_masks_are_joined() -> None:
    image = torch.zeros(1, 3, 2, 2)
    painted, linked = torch.tensor([[[1.0, 0], [0, 0]]]), torch.tensor([[[0.0, 0.4], [0, 0]]])
    assert torch.equal(join_masks(image, painted, None, linked), torch.tensor([[[1.0, 0.4], [0, 0]]]))
    assert torch.equal(join_masks(image, None, None), torch.zeros(1, 2, 2))


def test_a_result_is_the_canvas_outside_its_mask_for_each_image_of_a_batch() -> None:
    canvas, results = torch.rand(1, 3, 8, 8), torch.rand(3, 3, 8, 8)
    mask = torch.zeros(1, 8, 8)
    mask[:, 2:5, 2:5] = 1
    mask[:, 5, 5] = 0.3  # a soft edge may change
    kept = keep_outside(Edit(canvas, mask), results)
    inside = mask[:, None].expand_as(kept) > 0
    assert torch.equal(kept[inside], results[inside])
    assert torch.equal(kept[~inside], canvas.expand_as(kept)[~inside])


def test_sizes_that_differ_say_what_came_and_what_was_expected() -> None:
    canvas = torch.zeros(1, 3, 8, 6)
    with pytest.raises(ValueError, match="the result is 4 x 8 px, expected the canvas's 6 x 8"):
        keep_outside(Edit(canvas, torch.zeros(1, 8, 6)), torch.zeros(1, 3, 8, 4))
    with pytest.raises(ValueError, match="the mask is 6 x 4 px"):
        join_masks(canvas, torch.zeros(1, 4, 6))
    with pytest.raises(ValueError, match="the sketch is 6 x 4 px"):
        paint_over(canvas, torch.zeros(4, 4, 6))
