"""The canvases of `training.several_holes`."""

from __future__ import annotations

import torch
from scipy import ndimage

from sprites import sheet
from training.several_holes import APART, canvases


def test_holes_of_a_canvas_are_apart():
    """Three holes on each of four canvases, 32 px from each other at least; the same seed gives the same ones."""
    made, again = (canvases(sheet(), 4, 256, 3, seed=5) for _ in range(2))
    assert made.image.shape == (4, 3, 256, 256) and made.holes.shape == (4, 3, 1, 256, 256)
    assert torch.equal(made.holes, again.holes) and torch.equal(made.image, again.image)
    assert (
        bool((made.holes.sum((2, 3, 4)) > 1000).all())
        and bool((made.image >= 0).all())
        and bool((made.image <= 1).all())
    )
    for holes in made.holes[:, :, 0].numpy() > 0.5:
        for one in range(3):
            away = ndimage.distance_transform_edt(~holes[one])
            assert all(away[holes[other]].min() > APART for other in range(3) if other != one)  # type: ignore


def test_each_hole_may_have_an_object_of_its_own():
    one, each = (canvases(sheet(), 4, 256, 3, seed=5, each=each) for each in (False, True))
    assert all(len(row.unique()) == 1 for row in one.label) and all(len(row.unique()) == 3 for row in each.label)
    assert torch.equal(one.holes, each.holes)


def test_a_canvas_of_another_size_has_holes_of_the_same_size():
    small, large = (canvases(sheet(), 6, size, 2, seed=6).holes.sum((1, 2, 3, 4)).mean() for size in (256, 512))
    assert 0.6 < small / large < 1.7
