"""Nothing else moves: random edits through the pack's own nodes, in this process; outside the mask every bit is what it
was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from host_graphs import MASKS, TOKEN, Lazy, box_mask, image_of, mask_of, random_canvas, random_mask

BLENDS = ("none", "feather", "poisson")
SAMPLERS = ("euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "ddim", "lcm", "uni_pc", "res_multistep")
SCHEDULERS = ("simple", "karras", "normal", "beta", "sgm_uniform")
PROMPTS = ("red apple", "panda", "pizza", "熊猫", "(rocket:1.3) on a table", "")
pytestmark = pytest.mark.filterwarnings("ignore:Should have t:UserWarning")  # torchsde's, about the last bit of a time
EDITS_PER_MASK = 40  # 5 kinds of mask: 200 edits


def random_edit(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "prompt": str(rng.choice(PROMPTS)),
        "seed": int(rng.integers(2**63)),
        "steps": int(rng.integers(1, 3)),
        "cfg": float(rng.choice([1.0, 3.0, 7.5])),
        "sampler_name": str(rng.choice(SAMPLERS)),
        "scheduler": str(rng.choice(SCHEDULERS)),
        "denoise": float(rng.choice([1.0, 1.0, 0.6])),
        "blend": str(rng.choice(BLENDS)),
    }


def check(before: Tensor, after: Tensor, mask: Tensor) -> None:
    """Bit-identical outside the hole of every image; changed, finite and in range inside."""
    assert after.shape == before.shape and after.dtype == before.dtype
    hole = (mask >= 0.5).expand(before.shape[:3])
    assert torch.equal(after[~hole], before[~hole])
    assert torch.isfinite(after).all() and 0 <= after.min() and after.max() <= 1
    for old, new, inside in zip(before, after, hole, strict=True):
        changed = (old != new).any(-1)[inside].float()
        assert not inside.any() or changed.mean() > 0.9, f"only {changed.mean():.0%} of the hole changed"


def tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for part in value.values() for tensor in tensors_in(part)]
    return [tensor for part in value for tensor in tensors_in(part)] if isinstance(value, (list, tuple)) else []


def edit_and_check(lazy: Lazy, image: Tensor, mask: Tensor, prompt: str, **widgets: Any) -> Tensor:
    """An edit, with `check`, that also compares every input of both nodes with its copy from before."""
    positive = lazy.text(prompt)
    context, _ = lazy.encode(image, mask)
    given = [image, mask, *context.tensors(), *tensors_in(positive), *tensors_in(lazy.negative)]
    copies = [tensor.clone() for tensor in given]
    result, _ = lazy.decode(context, positive=positive, **widgets)
    check(copies[0], result, copies[1])
    assert all(torch.equal(now, copy) for now, copy in zip(given, copies, strict=True)), "an input was written into"
    return result


@pytest.mark.parametrize("kind", MASKS)
def test_random_edits_leave_everything_else(lazy: Lazy, kind: str):
    rng = np.random.default_rng(sum(kind.encode()))
    for _ in range(EDITS_PER_MASK):
        height, width = (int(side) for side in rng.integers(TOKEN, 6 * TOKEN, 2))
        mask = mask_of(random_mask(rng, kind, height, width))
        edit_and_check(lazy, image_of(random_canvas(rng, height, width)), mask, **random_edit(rng))


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("kind", MASKS)
def test_odd_canvas(lazy: Lazy, kind: str, blend: str):
    rng = np.random.default_rng(517)
    image, mask = image_of(random_canvas(rng, 389, 517)), mask_of(random_mask(rng, kind, 389, 517))
    edit_and_check(lazy, image, mask, **{**random_edit(rng), "steps": 1, "sampler_name": "euler", "blend": blend})


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 16), (16, 400), (401, 19), (31, 33)])
def test_thin_and_tiny_canvases(lazy: Lazy, height: int, width: int):
    rng = np.random.default_rng(height)
    for blend in BLENDS:
        mask = mask_of(random_mask(rng, "border", height, width))
        edit_and_check(lazy, image_of(random_canvas(rng, height, width)), mask, **{**random_edit(rng), "blend": blend})


@pytest.mark.parametrize("blend", BLENDS)
def test_batch_of_two_with_holes_of_different_size(lazy: Lazy, blend: str):
    """Every pairing of masks; also one image with two masks, and two images with one mask."""
    rng = np.random.default_rng(2)
    for kind in MASKS:
        for images, masks in ((2, 2), (1, 2), (2, 1)):
            image = image_of(*(random_canvas(rng, 53, 75) for _ in range(images)))
            mask = mask_of(*(random_mask(rng, chosen, 53, 75) for chosen in [kind, str(rng.choice(MASKS))][:masks]))
            context, _ = lazy.encode(image, mask)
            after, _ = lazy.decode(context, **{**random_edit(rng), "blend": blend})
            check(image.expand(2, -1, -1, -1), after, mask)


def test_batch_in_which_one_image_has_no_hole(lazy: Lazy):
    rng = np.random.default_rng(3)
    image = image_of(random_canvas(rng, 64, 48), random_canvas(rng, 64, 48))
    mask = mask_of(np.zeros((64, 48), bool), box_mask(64, 48, 10, 10, 40, 30))
    result = edit_and_check(lazy, image, mask, **random_edit(rng))
    assert torch.equal(result[0], image[0])
    assert not torch.equal(result[1], image[1])


def test_soft_mask_leaves_all_that_is_not_masked(lazy: Lazy):
    """A blurred brush: where the mask is 0 nothing moves, where it is 1 everything does. See
    tests/nodes/test_soft.py.
    """
    rng = np.random.default_rng(4)
    ramp = torch.linspace(-0.5, 1.5, 90).clamp(0, 1).expand(1, 70, 90)
    image = image_of(random_canvas(rng, 70, 90))
    for blend in BLENDS:
        result = lazy.edit(image, ramp, blend=blend)
        assert torch.equal(result[ramp == 0], image[ramp == 0])
        assert (result != image).any(-1)[ramp == 1].float().mean() > 0.9


def test_empty_mask_returns_the_image(lazy: Lazy):
    image, mask = image_of(random_canvas(np.random.default_rng(6), 70, 90)), torch.zeros(1, 70, 90)
    context, told = lazy.encode(image, mask)
    assert told["hole_tokens"] == 0
    result, latent = lazy.decode(context)
    assert torch.equal(result, image)
    assert latent.shape == (1, 8, 2 * -(-70 // TOKEN), 2 * -(-90 // TOKEN))


def test_empty_mask_does_not_run_the_encoder(lazy: Lazy):
    rng = np.random.default_rng(6)
    _, before = lazy.encode(image_of(random_canvas(rng, 70, 90)), mask_of(random_mask(rng, "full", 70, 90)))
    _, told = lazy.encode(image_of(random_canvas(rng, 70, 90)), torch.zeros(1, 70, 90))
    assert told["encoder_ran"] is False
    assert told["encoder_runs"] == before["encoder_runs"]


@pytest.mark.parametrize(("height", "width"), [(64, 80), (61, 83)])
@pytest.mark.parametrize("kind", MASKS)
def test_what_the_hole_showed_before_is_never_seen(lazy: Lazy, kind: str, height: int, width: int):
    """Denoising from pure noise: two canvases that differ inside the hole alone give the same pixels there, bit for
    bit.
    """
    rng = np.random.default_rng(7)
    hole = random_mask(rng, kind, height, width)
    hole[-1, width // 2 :] = True  # at the borders where a canvas of odd size is padded
    canvas, other = random_canvas(rng, height, width), random_canvas(rng, height, width)
    mask, first, second = mask_of(hole), image_of(canvas), image_of(np.where(hole[..., None], other, canvas))
    for blend in BLENDS:
        results = [lazy.edit(image, mask, blend=blend)[mask > 0] for image in (first, second)]
        assert torch.equal(results[0], results[1])


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.95, 1.0])
def test_a_sketch_leaves_everything_else_and_writes_into_nothing(lazy: Lazy, strength: float):
    """Strength 0 is the edit without a sketch; strength 1 keeps the sketch, whatever the seed.

    With 4 steps: the host rounds steps / (1 - strength) down, which makes a weak sketch none when there are only 2.
    """
    rng = np.random.default_rng(9)
    image, sketch = (image_of(random_canvas(rng, 61, 83)) for _ in range(2))
    mask, where = (mask_of(random_mask(rng, kind, 61, 83)) for kind in ("disjoint", "border"))
    context, _ = lazy.encode(image, mask)
    given = [image, mask, sketch, where, *context.tensors()]
    copies = [tensor.clone() for tensor in given]
    sketched = lazy.call(
        "LazySketchCondition", context=context, vae=lazy.vae, sketch=sketch, strength=strength, sketch_mask=where
    ).args[0]
    results = [lazy.decode(sketched, seed=seed, steps=4)[0] for seed in (1, 2)]
    for result in results:
        check(image, result, mask)
    assert all(torch.equal(now, copy) for now, copy in zip(given, copies, strict=True))
    assert torch.equal(results[0], results[1]) == (strength == 1)
    assert torch.equal(results[0], lazy.decode(context, seed=1, steps=4)[0]) == (strength == 0)


def test_edges_leave_everything_else_and_write_into_nothing(lazy: Lazy):
    """Lines change the hole alone, the more the stronger; a colour sketch may come on top."""
    rng = np.random.default_rng(10)
    image = image_of(random_canvas(rng, 61, 83))
    mask = mask_of(random_mask(rng, "disjoint", 61, 83))
    drawing = torch.zeros_like(image)
    drawing[:, 8:50, ::9] = 1
    context, _ = lazy.encode(image, mask)
    given = [image, mask, drawing, *context.tensors()]
    copies = [tensor.clone() for tensor in given]
    call = {"vae": lazy.vae, "sketch": drawing, "kind": "edges"}
    lined = {s: lazy.call("LazySketchCondition", context=context, strength=s, **call).args[0] for s in (0.0, 0.3, 1.0)}
    results = {s: lazy.decode(known, seed=1, steps=4)[0] for s, known in lined.items()}
    for result in results.values():
        check(image, result, mask)
    assert all(torch.equal(now, copy) for now, copy in zip(given, copies, strict=True))
    plain = lazy.decode(context, seed=1, steps=4)[0]
    assert torch.equal(results[0.0], plain)
    moved = [(results[s] - plain).abs().mean() for s in (0.3, 1.0)]
    assert 0 < moved[0] < moved[1]
    both = lazy.call("LazySketchCondition", context=lined[1.0], vae=lazy.vae, sketch=drawing, strength=0.3).args[0]
    check(image, lazy.decode(both, seed=1, steps=4)[0], mask)


@pytest.mark.parametrize("nudge", [lambda x: x.add_(1e-7), lambda x: x.mul_(1 - 1e-6)], ids=["add", "multiply"])
def test_check_sees_the_smallest_change(nudge: Callable[[Tensor], Tensor]):
    """The tests above would fail if a single pixel outside moved in its last bit, or if the hole stayed as it was."""
    rng = np.random.default_rng(8)
    before, mask = image_of(random_canvas(rng, 20, 30)).clamp_min(0.1), mask_of(box_mask(20, 30, 5, 5, 9, 9))
    after = torch.where(mask[..., None] > 0, torch.rand(before.shape), before)
    check(before, after, mask)
    nudge(after[0, 0, 0])
    with pytest.raises(AssertionError):
        check(before, after, mask)
    with pytest.raises(AssertionError):
        check(before, before, mask)
