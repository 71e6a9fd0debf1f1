"""Which of several prompts each hole of a canvas is given."""

from __future__ import annotations

import torch
from torch import Tensor

from lazy_core.editor import LazyEditor
from lazy_core.geometry import Grid
from lazy_core.holes import hole_rows
from lazy_core.prompts import prompt_per_hole

SIDE = 96
GRID = Grid(SIDE, SIDE, 8, 2)
BOXES = [(4, 4), (4, 60), (60, 4), (60, 60)]  # top left corners of holes of 24 px


def boxes(*corners: tuple[int, int], side: int = 24) -> Tensor:
    mask = torch.zeros(1, SIDE, SIDE)
    for top, left in corners:
        mask[:, top : top + side, left : left + side] = 1
    return mask


def chosen(holes: Tensor, *regions: Tensor) -> tuple[list[int], list[bool]]:
    mask = holes > 0.5
    found = prompt_per_hole(mask, hole_rows(mask, GRID), GRID, regions)
    return found.number.tolist(), found.shared.tolist()


def test_each_hole_has_the_prompt_whose_mask_covers_it() -> None:
    regions = [boxes(corner) for corner in (BOXES[2], BOXES[0], BOXES[3])]
    assert chosen(boxes(*BOXES), *regions) == ([1, -1, 0, 2], [False] * 4)


def test_where_masks_overlap_the_last_one_counts() -> None:
    everything = torch.ones(1, SIDE, SIDE)
    assert chosen(boxes(*BOXES), everything, boxes(BOXES[1])) == ([0, 1, 0, 0], [False] * 4)
    assert chosen(boxes(*BOXES), boxes(BOXES[1]), everything) == ([1, 1, 1, 1], [False] * 4)


def test_a_hole_under_several_masks_has_the_one_that_covers_most_and_is_told() -> None:
    left, right = torch.zeros(1, SIDE, SIDE), torch.zeros(1, SIDE, SIDE)
    left[..., :12], right[..., 12:28] = 1, 1
    assert chosen(boxes(BOXES[0]), left, right) == ([1], [True])
    right[..., 12:28] = 0
    right[..., 26:28] = 1
    assert chosen(boxes(BOXES[0]), left, right) == ([-1], [True])  # most of it lies under none


def test_a_mask_of_another_size_is_stretched_over_the_canvas() -> None:
    half = torch.nn.functional.avg_pool2d(boxes(BOXES[3]), 2)
    assert chosen(boxes(*BOXES), half) == ([-1, -1, -1, 0], [False] * 4)


def test_each_image_of_a_batch_has_its_own_mask_or_shares_the_one() -> None:
    holes = torch.cat([boxes(*BOXES[:2]), boxes(*BOXES[:2])])
    regions = torch.cat([boxes(BOXES[0]), boxes(BOXES[1])])
    assert chosen(holes, regions)[0] == [0, -1, -1, 0]
    assert chosen(holes, regions[:1])[0] == [0, -1, 0, -1]


def test_in_plain_python_regions_have_prompts_of_their_own(editor: LazyEditor) -> None:
    """Each hole is what it is with its prompt for all of them."""
    image, holes = torch.rand(1, 3, SIDE, SIDE), boxes(*BOXES[:2])
    context = editor.encode(image, holes)
    both = editor.decode(context, "apple", steps=1, blend="none", regions=[("panda", boxes(BOXES[1]))])
    for prompt, (top, left) in zip(("apple", "panda"), BOXES[:2], strict=True):
        part = (..., slice(top, top + 24), slice(left, left + 24))
        same = editor.decode(context, prompt, steps=1, blend="none")
        torch.testing.assert_close(both[part], same[part], rtol=0, atol=1 / 255)
