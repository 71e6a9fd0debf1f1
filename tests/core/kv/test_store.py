"""Keys and values kept from one pass over all tokens for the sparse ones: where they lie, in how many bits, and when
they are fetched.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from lazy_core.kv.policy import HoleInLatent
from lazy_core.kv.split import Near, Split
from lazy_core.kv.store import FP8, Ahead, KeptKV

SHAPES = [(2, 3, 7, 4), (2, 7, 12)]  # [B, H, L, D] and [B, L, H D]
HOLE = torch.tensor([1, 4])


def elsewhere(size: int, device: torch.device) -> bool:
    return False


def filled(
    kept: KeptKV, shape: tuple[int, ...], calls: int = 1, batch: Any = "batch", later: bool = False
) -> list[tuple[Tensor, Tensor]]:
    pairs = [(torch.randn(shape), torch.randn(shape)) for _ in range(calls)]
    for call, (k, v) in enumerate(pairs):
        kept.keep(batch, call, k, v, Split.of(HOLE, shape[-2]), later)
    return pairs


def new_of(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    short = (*shape[:-2], len(HOLE), shape[-1])
    return torch.randn(short), torch.randn(short)


def check(kept: KeptKV, call: int, pair: tuple[Tensor, Tensor], tolerance: float = 0.0, batch: Any = "batch") -> None:
    new = new_of(tuple(pair[0].shape))
    others = Split.of(HOLE, pair[0].shape[-2]).others
    for whole, extended, hole in zip(pair, kept.extend(batch, call, *new), new, strict=True):
        assert extended.shape == whole.shape and extended.dtype == whole.dtype
        known = whole.index_select(-2, others)
        error = (extended[..., :5, :] - known).abs() / known.abs().amax(-2, keepdim=True)
        assert error.max() <= tolerance
        assert torch.equal(extended[..., 5:, :], hole)


def test_split_counts_from_the_image():
    split = Split.of(torch.tensor([0, 2]), 6, offset=3)
    assert split.hole.tolist() == [3, 5]
    assert split.others.tolist() == [0, 1, 2, 4]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("place", [lambda size, device: True, elsewhere])
def test_kept_keys_come_back_with_the_holes_new_ones(shape: tuple[int, ...], place: Any):
    kept = KeptKV(place)
    (pair,) = filled(kept, shape)
    check(kept, 0, pair)
    assert kept.nbytes == pair[0].nbytes + pair[1].nbytes


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("place", [lambda size, device: True, elsewhere])
def test_eight_bits_are_a_quarter_of_float32_and_within_a_sixteenth(shape: tuple[int, ...], place: Any):
    """e4m3 has three bits after the point: half a step is a sixteenth of the number, and a channel's largest number
    sets its scale.
    """
    kept = KeptKV(place, "fp8")
    (pair,) = filled(kept, shape)
    check(kept, 0, pair, 1 / 16)
    assert all(stored.values.dtype == FP8 for stored in kept.pairs["batch", 0])
    assert kept.nbytes == sum(x.numel() + 4 * x.numel() // shape[-2] for x in pair)


def test_eight_bits_serve_channels_of_very_different_size():
    kept = KeptKV(dtype="fp8")
    k = torch.randn(1, 7, 8) * torch.logspace(-4, 4, 8)
    kept.keep("batch", 0, k, k, Split.of(HOLE, 7))
    check(kept, 0, (k, k), 1 / 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [0.0, 1e-3, 60000.0])
def test_eight_bits_of_every_dtype_and_size(dtype: torch.dtype, size: float):
    """Channels of zeros stay zero; scales are not rounded to a dtype that cannot hold them."""
    kept, k = KeptKV(dtype="fp8"), (size * torch.linspace(-1, 1, 7).view(1, 7, 1).repeat(1, 1, 8)).to(dtype)
    kept.keep("batch", 0, k, k, Split.of(HOLE, 7))
    new = new_of((1, 7, 8))
    got = kept.extend("batch", 0, new[0].to(dtype), new[1].to(dtype))[0][:, :5]
    assert got.dtype == dtype and torch.isfinite(got).all()
    assert ((got.double() - k[:, Split.of(HOLE, 7).others].double()).abs() <= size / 14).all()


@pytest.mark.parametrize("dtype", ["model", "fp8"])
@pytest.mark.parametrize("place", [lambda size, device: True, elsewhere])
def test_a_later_pass_uses_the_same_memory_and_no_stale_value(dtype: Any, place: Any):
    kept = KeptKV(place, dtype)
    filled(kept, (1, 7, 8), calls=2)
    addresses = [[stored.values.data_ptr() for stored in kept.pairs["batch", call]] for call in range(2)]
    for call in range(2):
        kept.extend("batch", call, *new_of((1, 7, 8)))  # fetches what comes next, which the next pass makes old
    second = filled(kept, (1, 7, 8), calls=2)
    assert [[stored.values.data_ptr() for stored in kept.pairs["batch", call]] for call in range(2)] == addresses
    for call in range(2):
        check(kept, call, second[call], 1 / 16 if dtype == "fp8" else 0.0)


def test_nothing_kept_is_an_error():
    with pytest.raises(KeyError):
        KeptKV().extend("batch", 0, torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Keys of all pairs that were copied from main memory, in order."""
    keys: list[Any] = []
    fetch = Ahead.fetch
    monkeypatch.setattr(Ahead, "fetch", lambda self, key, pair: keys.append(key) or fetch(self, key, pair))
    return keys


@pytest.mark.parametrize("dtype", ["model", "fp8"])
def test_main_memory_is_read_one_call_ahead(dtype: Any, fetched: list[Any]):
    """Two steps over five calls: after the very first each pair is on its way when its call comes, the first of the
    next step too.
    """
    kept = KeptKV(elsewhere, dtype)
    pairs = filled(kept, (1, 7, 8), calls=5)
    for _ in range(2):
        for call in range(5):
            check(kept, call, pairs[call], 1 / 16 if dtype == "fp8" else 0.0)
            assert fetched[-1] == ("batch", (call + 1) % 5)
    assert len(fetched) == 1 + 2 * 5


def test_two_batches_in_turn_get_their_own(fetched: list[Any]):
    """Positive and negative prompt in calls of their own: what was fetched for the one is not given to the other."""
    kept = KeptKV(elsewhere)
    pairs = {batch: filled(kept, (1, 7, 8), calls=2, batch=batch) for batch in ("positive", "negative")}
    for _ in range(2):
        for batch, each in pairs.items():
            for call in range(2):
                check(kept, call, each[call], batch=batch)


def test_only_what_has_no_room_lies_in_main_memory(fetched: list[Any]):
    """Room for three of five calls: the other two are fetched, the three are never copied."""
    left = [3 * 2 * 4 * 7 * 8]

    def place(size: int, device: torch.device) -> bool:
        fits = left[0] >= size
        left[0] -= size if fits else 0
        return fits

    kept = KeptKV(place)
    pairs = filled(kept, (1, 7, 8), calls=5)
    for _ in range(2):
        for call in range(5):
            check(kept, call, pairs[call])
    assert {key[1] for key in fetched} == {3, 4}
    own = kept.extend("batch", 0, *new_of((1, 7, 8)))[0]
    assert own.data_ptr() == kept.pairs["batch", 0][0].values.data_ptr()


def test_room_for_two_calls_is_enough(fetched: list[Any]):
    kept = KeptKV(elsewhere)
    filled(kept, (1, 7, 8), calls=6)
    seen = {kept.extend("batch", call, *new_of((1, 7, 8)))[0].data_ptr() for _ in range(3) for call in range(6)}
    assert len(seen) == 2


def test_calls_of_different_shapes_are_fetched_in_turn():
    """SD3.5-medium attends over text and image, then over the image alone."""
    kept = KeptKV(elsewhere)
    long, short = (torch.randn(1, 9, 8), torch.randn(1, 9, 8)), (torch.randn(1, 7, 8), torch.randn(1, 7, 8))
    for call, pair in enumerate((long, short)):
        kept.keep("batch", call, *pair, Split.of(HOLE, pair[0].shape[-2]))
    for _ in range(3):
        check(kept, 1, short)
        others = Split.of(HOLE, 9).others
        assert torch.equal(kept.extend("batch", 0, *new_of((1, 9, 8)))[0][:, :7], long[0][:, others])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["model", "fp8"])
@pytest.mark.parametrize("place", [lambda size, device: True, elsewhere, lambda size, device: next(TURNS)])
def test_between_two_passes_keys_and_values_are_interpolated(
    shape: tuple[int, ...], dtype: Any, place: Any, fetched: list[Any]
):
    """Wherever either pass lies; the hole's are the step's own, and neither pass is written to."""
    kept, others = KeptKV(place, dtype), Split.of(HOLE, shape[-2]).others
    behind, later = (filled(kept, shape, calls=3, later=later) for later in (False, True))
    for weight in (0.0, 0.25, 1.0, 0.25):
        for call in range(3):
            new = new_of(shape)
            found = kept.extend("batch", call, *new, weight)
            for got, a, b, hole in zip(found, behind[call], later[call], new, strict=True):
                wanted = torch.lerp(a, b, weight).index_select(-2, others)
                size = torch.maximum(a.abs(), b.abs()).amax(-2, keepdim=True)
                assert ((got[..., :5, :] - wanted).abs() / size).max() <= (1 / 16 if dtype == "fp8" else 1e-6)
                assert torch.equal(got[..., 5:, :], hole)
    assert kept.nbytes == 2 * sum(part.nbytes for call in range(3) for part in kept.pairs["batch", call])


TURNS = itertools.cycle([True, False, False])


@pytest.mark.parametrize("place", [lambda size, device: True, elsewhere])
def test_the_later_pass_becomes_the_one_behind(place: Any):
    """Its memory goes to the next later one, and with the last to nobody; another batch's passes stay."""
    kept = KeptKV(place)
    filled(kept, (1, 7, 8), batch="other")
    filled(kept, (1, 7, 8), batch="other", later=True)
    size = kept.nbytes // 2
    filled(kept, (1, 7, 8))
    first = kept.pairs["batch", 0][0].values.data_ptr()
    (second,) = filled(kept, (1, 7, 8), later=True)
    kept.extend("batch", 0, *new_of((1, 7, 8)), 0.5)
    kept.advance("batch", last=False)
    check(kept, 0, second)
    (third,) = filled(kept, (1, 7, 8), later=True)
    assert kept.later["batch", 0][0].values.data_ptr() == first
    kept.advance("batch", last=True)
    check(kept, 0, third)
    assert kept.nbytes == 3 * size
    assert set(kept.later) == {("other", 0)}


def test_both_passes_are_read_one_call_ahead(fetched: list[Any]):
    kept = KeptKV(elsewhere)
    for later in (False, True):
        filled(kept, (1, 7, 8), calls=5, later=later)
    for _ in range(2):
        for call in range(5):
            kept.extend("batch", call, *new_of((1, 7, 8)), 0.5)
            assert fetched[-1] == ("batch", (call + 1) % 5)
    assert len(fetched) == 1 + 2 * 5


def test_forgetting_leaves_nothing():
    kept = KeptKV(elsewhere, "fp8")
    filled(kept, (1, 7, 8), calls=2)
    filled(kept, (1, 7, 8), calls=2, later=True)
    kept.extend("batch", 0, *new_of((1, 7, 8)))
    kept.forget()
    assert kept.nbytes == 0 and not kept.scratch and kept.ahead is None


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mean_weighs_as_much_as_its_tokens(shape: tuple[int, ...]):
    """Attention to means with their sizes' logarithms is attention to as many tokens that are all their mean."""
    pools = torch.tensor([-1, -1, 0, 0, -1, 1, 0])
    split = Split.of(HOLE, 7, pools=pools)
    assert split.others.tolist() == [0] and split.kept == 3 and split.sizes is not None
    q, k, v = (torch.randn(*shape[:-2], count, shape[-1]) for count in (3, 7, 7))
    even = [x.clone() for x in (k, v)]
    for x in even:
        x[..., [2, 3, 6], :] = x[..., [2, 3, 6], :].mean(-2, keepdim=True)
    expected = torch.nn.functional.scaled_dot_product_attention(q, even[0], even[1])
    assert split.bias is not None
    got = torch.nn.functional.scaled_dot_product_attention(
        q, split.arranged(k), split.arranged(v), attn_mask=split.bias.expand(3, -1)
    )
    torch.testing.assert_close(got, expected)


def test_far_tokens_go_into_squares_and_near_ones_stay():
    hole = HoleInLatent(torch.tensor([0, 1, 8]), 8, 8, 1)
    pools = Near(reach=2, side=4).pools(hole).view(8, 8)
    assert bool((pools[:4, :3] == -1).all()) and bool((pools[:3, :4] == -1).all())
    assert pools[3, 3] == 0 and len(pools.unique()) == 5  # one of each square, and what is near
    assert bool((pools[4:, 4:] == pools[7, 7]).all()) and bool((pools[:4, 4:] == pools[0, 7]).all())
    assert bool((Near(reach=8, side=4).pools(hole) == -1).all())
    assert Split.of(hole.index, 64, pools=Near(8, 4).pools(hole)).bias is None
