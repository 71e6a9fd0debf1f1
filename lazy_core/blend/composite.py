"""Put the generated hole back into the canvas. Outside the mask the canvas comes back bit-identical, in every mode."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..masks import boxes_of
from .membrane import membrane

Blend = Literal["none", "feather", "poisson"]
BLENDS: tuple[Blend, ...] = get_args(Blend)
FEATHER_PIXELS = 6


def composite(
    canvas: Tensor,
    generated: Tensor,
    mask: Tensor,
    blend: Blend = "none",
    feather: int = FEATHER_PIXELS,
    weight: Tensor | None = None,
    old: Tensor | None = None,
) -> Tensor:
    """Canvas and generated image [B, 3, H, W] in 0..1, mask [B, H, W] bool (True = hole) -> new tensor [B, 3, H, W].

    `none` pastes; `feather` fades over the hole's outermost `feather` px into the canvas around the hole, carried
    inwards; `poisson` shifts the hole's colours by the smooth field that closes the gap along its border (Perez et al.
    2003; the paper's section 3.3). None of them reads what the canvas shows in the hole, but `feather` as far as `old`
    says: its share [B, H, W] in what is faded into. `weight` [B, H, W] in 0..1 is a soft mask's, with which the result
    is mixed with the canvas. The hole is clipped to 0..1, or to what the canvas around it reaches (HDR). Raises
    ValueError.
    """
    if blend not in BLENDS:
        raise ValueError(f"blend is '{blend}', expected none, feather or poisson.")
    result = canvas.clone()
    for index, own in enumerate(mask):
        for box in boxes_of(own, margin=1):
            before, new, hole = (box.cut(x[index]) for x in (canvas, generated, mask))
            if blend == "feather":
                new = feathered(before, new.to(before), hole, feather, None if old is None else box.cut(old[index]))
            elif blend == "poisson":
                new = poisson(before, new, hole)
            low, high = torch.where(hole, 0.0, before).aminmax()
            new = new.clamp(min(0.0, float(low)), max(1.0, float(high))).to(before)
            if weight is not None:
                new = torch.lerp(before, new, box.cut(weight[index]).to(before))
            box.cut(result[index]).copy_(torch.where(hole, new, before))
    return result


def feathered(canvas: Tensor, generated: Tensor, mask: Tensor, feather: int, old: Tensor | None = None) -> Tensor:
    """Fade one image [3, H, W] from the canvas carried inwards to what was generated.

    `old` [H, W] is the share, of what is faded from, that shows what the hole showed before.
    """
    reach = feather + 1
    squared = squared_distances(mask, reach)
    far = carried_inwards(canvas, squared, reach)
    if old is not None:
        far = torch.lerp(far, canvas, old.to(canvas))
    return torch.lerp(far, generated, weight_of(squared, reach).to(canvas))


def feather_weight(mask: Tensor, feather: int) -> Tensor:
    """[H, W] bool -> [H, W] in 0..1: 0 outside the hole, rising with the distance from what is kept; all 1 if nothing
    is.

    It rises slowly at both ends (3 t^2 - 2 t^3), so that the step across the hole's edge is a twentieth of the gap
    there, not a seventh. Where the hole is narrower than twice `feather` it rises faster, and is 1 along the hole's
    middle.
    """
    return weight_of(squared_distances(mask, feather + 1), feather + 1)


def weight_of(squared: Tensor, reach: int) -> Tensor:
    """Squared distances [H, W] from what is kept, up to `reach`^2 -> the weight [H, W] of what was generated."""
    distance = torch.arange(reach**2 + 1, dtype=torch.float64, device=squared.device).sqrt()
    share = (distance / torch.arange(1, reach + 1, device=squared.device)[:, None]).clamp_max(
        1
    )  # for each reach, of each distance
    table = (share**2 * (3 - 2 * share)).float()
    local = local_reach(squared, reach)
    return table[-1][squared] if local is None else table[local - 1, squared]


def local_reach(squared: Tensor, reach: int) -> Tensor | None:
    """How far inside the hole is at its deepest, nearby: [H, W] in 1..`reach`; None where it is `reach` everywhere."""
    result = torch.full_like(squared, 1)
    open_ = squared > 0
    for depth in range(reach, 1, -1):
        found = open_ & grown(
            squared >= depth**2, 3 * depth // 2
        )  # around a right angle's corner a disc is sqrt(2) of its radius away
        result[found] = depth
        open_ &= ~found
        if not bool(open_.any()):
            return None if depth == reach else result
    return result


def grown(flags: Tensor, pixels: int) -> Tensor:
    """[H, W] bool, True also within so many rows and columns of what is."""
    for axis in (0, 1):
        done, length = 0, flags.shape[axis]
        while done < pixels:
            step = min(2 * done + 1, pixels - done)
            if step < length:
                before, flags = flags, flags.clone()
                flags.narrow(axis, step, length - step).logical_or_(before.narrow(axis, 0, length - step))
                flags.narrow(axis, 0, length - step).logical_or_(before.narrow(axis, step, length - step))
            done += step
    return flags


def carried_inwards(canvas: Tensor, squared: Tensor, reach: int) -> Tensor:
    """Continue the canvas [C, H, W] into the hole.

    Each pixel less than `reach` px inside is a mean of its neighbours nearer to the border; deeper ones stay as they
    were. `squared` [H, W] are squared distances from what is kept.
    """
    flat, depth = F.pad(canvas, (1, 1, 1, 1)).flatten(1), F.pad(squared, (1, 1, 1, 1), value=reach**2).flatten()
    width = canvas.shape[-1] + 2
    steps = torch.tensor([(y * width + x) for y, x in NEIGHBOURS], device=canvas.device)[:, None]
    near = torch.tensor([1 / (y * y + x * x) ** 0.5 for y, x in NEIGHBOURS], device=canvas.device)[:, None]
    band = ((depth > 0) & (depth < reach**2)).nonzero()[:, 0]
    layers = depth[band].double().sqrt().ceil()
    for layer in range(1, reach + 1):
        pixels = band[layers == layer]
        around = pixels + steps  # [8, n]
        share = near * (depth[around] <= (layer - 1) ** 2)
        flat[:, pixels] = ((flat[:, around] * share).sum(1) / share.sum(0)).to(flat)
    return flat.unflatten(1, (-1, width))[:, 1:-1, 1:-1]


NEIGHBOURS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]


def squared_distances(mask: Tensor, reach: int) -> Tensor:
    """[H, W] bool, True = hole -> each pixel's squared distance to what is kept, `reach`^2 at most: [H, W] int32."""
    squared = mask.to(torch.int32) * reach**2
    for axis in (0, 1):
        squared = squared_distance(squared, axis, reach)
    return squared


def squared_distance(squared: Tensor, axis: int, reach: int) -> Tensor:
    """One axis of a Euclidean distance transform (Felzenszwalb and Huttenlocher 2012), which needs to be right below
    `reach` alone.
    """
    result, length = squared.clone(), squared.shape[axis]
    for apart in range(1, min(reach, length)):
        for to, at in ((apart, 0), (0, apart)):
            there, further = (
                result.narrow(axis, to, length - apart),
                squared.narrow(axis, at, length - apart) + apart**2,
            )
            torch.minimum(there, further, out=there)
    return result


def poisson(canvas: Tensor, generated: Tensor, mask: Tensor) -> Tensor:
    """One image [3, H, W]: generated + f, with f harmonic in the hole and equal to canvas - generated on the kept
    pixels around it.
    """
    if bool(mask.all()):
        return generated
    gap = (canvas - generated).double().cpu().numpy()
    return generated + torch.from_numpy(membrane(mask.cpu().numpy(), gap)).to(generated)
