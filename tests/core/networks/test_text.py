"""The tokenizer is the one that the shipped model was trained with, token by token; long prompts, weights, unknown
words."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
import torch
from torch import Tensor

from host_graphs import SHIPPED, Lazy
from lazy_core.checkpoint import read_checkpoint
from lazy_core.config import TextConfig
from lazy_core.editor import LazyEditor
from lazy_core.networks.text_encoder import same_length
from lazy_core.text import characters
from lazy_core.text.tokenizer import CHUNKS, Tokenizer, build_tokenizer, words_in

PROMPTS = (
    *(
        "",
        " ",
        "panda",
        "a red apple",
        "Ａpple",
        "RED APPLE",
        "a cute\tred\nballoon",
        "ice-cream, please!",
        "jack-o'-lantern",
    ),
    *(
        "画一个可爱的苹果",
        "一只熊猫 and a panda",
        "加一个two熊",
        "苹果，香蕉。",
        "斑马",
        "café ÉCLAIR naïve Ångström",
        "e\u0301toile",
        "Straße İstanbul ΣΑΣ",
    ),
    *(
        "red\u200bapple",
        "red\u00adapple",
        "red\u00a0apple",
        "\ufeffpanda",
        "a\x00b",
        "\ufffd",
        "\u2028panda",
        "[PAD] [UNK] [START]",
        "#1 a@b.c 50%",
    ),
    *(
        "🐼 panda 🐼",
        "👨‍👩‍👧‍👦",
        "🇩🇪",
        "é" * 30,
        "Z̷͎̈a̴l̶g̵o̴",
        "한국어 프롬프트",
        "日本語のパンダ",
        "пингвин",
        "बिल्ली",
        "مرحبا",
        "שלום",
        "ﬁsh",
        "①②",
        "x²",
        "½ apple",
    ),
    *("one " * 40, "a,b;c.d:e" * 9, "苹" * 50, "apple " * 14 + "panda", "apple " * 15 + "panda"),
)
TABLES = (characters.REMOVED, characters.ACCENTS, characters.PUNCTUATION, characters.CHINESE)
LIMITS = [end for table in TABLES for ends in table for end in ends]


@pytest.fixture(scope="module")
def library(shipped: Tokenizer) -> Any:
    """What the model was trained with, built of its words by the `tokenizers` library: files of format 1 hold its
    JSON."""
    from tokenizers import Tokenizer as Library
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing

    library: Any = Library(WordLevel(dict(shipped.vocabulary), unk_token="[UNK]"))
    library.normalizer, library.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    library.post_processor = TemplateProcessing(single="[START] $A", special_tokens=[("[START]", 2)])
    library.enable_truncation(16)
    library.enable_padding(length=16, pad_id=0, pad_token="[PAD]")
    return library


@pytest.fixture(scope="module")
def shipped() -> Tokenizer:
    tokenizer = read_checkpoint(SHIPPED).tokenizer
    assert tokenizer is not None
    return tokenizer


def test_ids_are_the_librarys(library: Any, shipped: Tokenizer):
    assert len(shipped.words) == library.get_vocab_size() == 372
    for prompt in PROMPTS:
        assert shipped.ids(prompt) == library.encode(prompt).ids, repr(prompt)


def test_files_of_format_1_give_the_same_words(library: Any, shipped: Tokenizer):
    assert Tokenizer.from_library_json(library.to_str(), TextConfig(), "file", "tokenizer") == shipped


def test_ids_of_random_text_are_the_librarys(library: Any, shipped: Tokenizer):
    rng, words = random.Random(7), [*shipped.words, " ", " ", ",", "é", "\u0301", "İ", "ß"]
    for _ in range(3000):
        parts = [
            rng.choice(words) if rng.random() < 0.7 else chr(rng.choice([*range(32, 0x500), *range(0x4E00, 0x4F00)]))
            for _ in range(20)
        ]
        text = rng.choice(["", " "]).join(parts)
        assert shipped.ids(text) == library.encode(text).ids, repr(text)


def test_every_kind_of_character_is_read_as_the_library_does(library: Any, shipped: Tokenizer):
    """Around each end of every table, all of the usual planes' beginning, and a sample of the rest: inside a word, and
    alone."""
    free = library.from_str(library.to_str())
    free.no_truncation()
    free.no_padding()
    around = {limit + step for limit in LIMITS for step in (-1, 0, 1)}
    points = {*range(0x3100), *random.Random(1).sample(range(0x110000), 4000), *around}
    text = " ".join(
        f"red{chr(p)}apple {chr(p)} 苹{chr(p)}果"
        for p in sorted(points)
        if 0 <= p < 0x110000 and not 0xD800 <= p < 0xE000
    )
    assert [shipped.vocabulary.get(word.text, 1) for word in words_in(text)] == free.encode(
        text, add_special_tokens=False
    ).ids


def test_halves_of_surrogate_pairs_are_left_out(shipped: Tokenizer):
    """The page's JSON can carry them; the library refused them with an error that named nothing."""
    assert shipped.ids("pan\ud83dda") == shipped.ids("panda")


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("a red panda", ()),
        ("a zebra, and a Zebra", ("zebra", "and")),
        ("斑马和一只熊猫", ("斑马和",)),
        ("画一个月亮 zèbre!?", ("月亮", "zebre")),
        ("—, . !", ()),
    ],
)
def test_unknown_words_are_named_once(shipped: Tokenizer, prompt: str, unknown: tuple[str, ...]):
    assert shipped.prompt([(prompt, 1.0)]).unknown == unknown


def test_long_prompts_become_chunks_and_the_rest_is_cut(shipped: Tokenizer):
    apple, panda = shipped.vocabulary["apple"], shipped.vocabulary["panda"]
    fifteen = shipped.prompt([("apple " * 15, 1.0)])
    assert fifteen.chunks == [[(2, 1.0), *[(apple, 1.0)] * 15]] and fifteen.cut == ""
    sixteen = shipped.prompt([("apple " * 15 + "Panda", 1.0)])
    assert sixteen.chunks == [*fifteen.chunks, [(2, 1.0), (panda, 1.0), *[(0, 1.0)] * 14]] and sixteen.cut == ""
    longest = shipped.prompt([("apple " * 15 * CHUNKS, 1.0)])
    assert len(longest.chunks) == CHUNKS == 8 and longest.cut == ""
    cut = shipped.prompt([("apple " * 15 * CHUNKS + "Zebra, at last", 1.0), (" the END ", 1.2)])
    assert cut.chunks == longest.chunks and cut.cut == "Zebra, at last the END" and cut.unknown == ()


def test_a_prompt_of_a_million_letters_takes_no_time(shipped: Tokenizer):
    start = time.process_time()
    for text in ("a" * 1_000_000, "a " * 500_000, "," * 1_000_000, "斑" * 1_000_000):
        prompt = shipped.prompt([(text, 1.0)])
        assert len(prompt.cut) <= 2001 and all(len(word) <= 201 for word in prompt.unknown)
    assert time.process_time() - start < 5


def test_captions_of_different_length_are_repeated():
    one, two = torch.rand(1, 4, 3), torch.rand(1, 6, 3)
    first, second = same_length([one, two])
    assert torch.equal(first, one.repeat(1, 3, 1)) and torch.equal(second, two.repeat(1, 2, 1))
    assert same_length([one, one])[0] is one


def test_words_survive_a_file(tmp_path):
    tokenizer = build_tokenizer(["apple", "苹"], 16)
    assert Tokenizer.from_json(tokenizer.to_json(), TextConfig(), "file", "words") == tokenizer


# -- in the host -------------------------------------------------------------------------------------------------------
def conditioning(lazy: Lazy, prompt: str) -> tuple[Tensor, dict[str, Any]]:
    caption, values = lazy.text(prompt)[0]
    return caption, values


def rows_of_before(lazy: Lazy, library: Any, text: str) -> list[tuple[int, float]]:
    """What this pack's tokenizer gave until prompts of more than fifteen words became chunks."""
    import comfy.sd1_clip as clip

    tokens = [(2, 1.0)]
    for part, weight in clip.token_weights(clip.escape_important(text), 1.0):
        tokens += [
            (i, weight) for i in library.encode(clip.unescape_important(part), add_special_tokens=False).ids if i
        ]
    return (tokens + [(0, 1.0)] * 16)[:16]


@pytest.mark.parametrize("prompt", ["", "a red apple", "(panda:1.4) and a [hat]", "一只((熊猫)) \\(x\\)", "a " * 15])
def test_prompts_of_up_to_fifteen_words_are_what_they_were(lazy: Lazy, library: Any, prompt: str):
    assert lazy.clip.tokenize(prompt) == {"lazy": [rows_of_before(lazy, library, prompt)]}
    assert conditioning(lazy, prompt)[0].shape == (1, 16, 256)


def test_what_follows_fifteen_words_counts_and_the_conditioning_says_what_does_not(lazy: Lazy):
    apple, values = conditioning(lazy, "a " * 15 + "red apple")
    panda, _ = conditioning(lazy, "a " * 15 + "panda")
    assert apple.shape == panda.shape == (1, 32, 256) and (values["lazy_cut"], values["lazy_unknown"]) == ("", [])
    assert torch.equal(apple[:, :16], panda[:, :16]) and not torch.equal(apple[:, 16:], panda[:, 16:])
    assert torch.equal(apple[:, 16:], conditioning(lazy, "red apple")[0])
    long, values = conditioning(lazy, "a (zebra:1.3) " + "apple " * 120)
    assert long.shape == (1, 128, 256) and values["lazy_cut"] == "apple apple" and values["lazy_unknown"] == ["zebra"]


def test_weights_reach_later_chunks(lazy: Lazy):
    plain, _ = conditioning(lazy, "a " * 15 + "red apple")
    heavy, _ = conditioning(lazy, "a " * 15 + "red (apple:1.5)")
    empty, _ = conditioning(lazy, "")
    others = [number for number in range(32) if number != 18]
    assert torch.allclose(plain[:, others], heavy[:, others], atol=1e-6)
    assert torch.allclose(heavy[:, 18], empty[:, 2] + (plain[:, 18] - empty[:, 2]) * 1.5, atol=1e-6)


def test_the_hosts_words_of_tokens(lazy: Lazy):
    rows = lazy.clip.tokenize("a zebra, 苹果", return_word_ids=True)["lazy"]
    assert [len(entry) for entry in rows[0]] == [3] * 16
    tokenizer = lazy.clip.tokenizer
    assert tokenizer.decode([i for i, *_ in rows[0]]) == "a 苹 果"
    assert [word for _, word in tokenizer.untokenize(rows[0])][:4] == ["[START]", "a", "[UNK]", "[UNK]"]


@pytest.mark.parametrize(("positive", "negative"), [(1, 1), (2, 1), (8, 1), (1, 3), (2, 3)])
def test_edits_of_any_two_lengths_are_what_one_prompt_at_a_time_gives(lazy: Lazy, positive: int, negative: int):
    """The host computes both in one batch, or one after the other where they differ by more than four times; both are
    right."""
    canvas, hole = torch.rand(1, 48, 64, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 48, 64)
    hole[:, 8:40, 8:40] = 1
    context = lazy.encode(canvas, hole)[0]
    texts = [lazy.text("a " * 15 * (count - 1) + word) for count, word in ((positive, "panda"), (negative, "apple"))]
    got = lazy.decode(context, positive=texts[0], negative=texts[1])[1]
    repeated = [[[same_length([text[0][0], torch.zeros(1, 16 * 24, 256)])[0], text[0][1]]] for text in texts]
    wanted = lazy.decode(context, positive=repeated[0], negative=repeated[1])[1]
    other = lazy.decode(context, positive=texts[0], negative=lazy.negative)[1]
    assert torch.allclose(got, wanted, atol=2e-4)
    assert negative == 1 or not torch.allclose(got, other, atol=2e-3)


def test_the_editor_takes_long_prompts_in_a_batch():
    editor = LazyEditor.load(SHIPPED)
    image = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 48, 64)
    mask[:, 8:40, 8:40] = 1
    with torch.inference_mode():
        context = editor.encode(image, mask)
        long = "a " * 15 + "panda"
        both = editor.decode(context, ["apple", long], steps=2)
        alone = editor.decode(editor.encode(image[1:], mask[1:]), long, steps=2)
        short = editor.decode(context, ["apple", "a " * 15], steps=2)
    assert editor.caption(["apple", long]).shape == (2, 32, 256)
    assert torch.allclose(short[:1], both[:1], atol=2e-3) and not torch.allclose(short[1], both[1], atol=2e-3)
    assert alone.shape == (1, 3, 48, 64)
