"""`python -m batch run` in one process: results, resuming after a kill, and what is refused."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from batch.__main__ import main
from batch.missing import in_words
from lazy_core.editor import LazyEditor

ROOT = Path(__file__).resolve().parents[2]
SIDE, HOLE = 96, (32, 32, 40, 40)  # x, y, width, height


def picture(path: Path, seed: int, mode: str = "RGB") -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, len(mode)), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        picture(tmp_path / f"{number}.png", number)
    return tmp_path


def manifest(folder: Path, *rows: dict[str, Any]) -> Path:
    (path := folder / "edits.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return path


def rows_of(count: int, canvases: int = 3) -> list[dict[str, Any]]:
    return [{"image": f"{n % canvases}.png", "box": list(HOLE), "prompt": "panda", "seed": n} for n in range(count)]


def results(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.png"))}


def test_edits_are_what_each_is_by_itself(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To one 8-bit level in the hole, bit for bit outside."""
    path = manifest(folder, *rows_of(5))
    assert main(["run", str(path), "--steps", "1", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["edits"], figures["made"], figures["kept"], figures["failed"]) == (5, 5, 0, 0)
    editor = LazyEditor.load(ROOT / "models" / "fluent-small.safetensors")
    x, y, width, height = HOLE
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, y : y + height, x : x + width] = 1
    for name, content in results(folder / "edits_edits").items():
        number = int(name.removesuffix(".png").split("_")[2])
        before = np.asarray(Image.open(folder / f"{number % 3}.png"))
        after = np.asarray(Image.open(folder / "edits_edits" / name)).astype(int)
        assert content and (after != before)[mask[0].numpy() == 0].sum() == 0
        image = torch.from_numpy(before / np.float32(255)).movedim(-1, 0)[None]
        alone = editor.decode(editor.encode(image, mask), "panda", number, steps=1, blend="poisson")
        expected = (alone[0].movedim(0, -1) * 255).round().numpy()
        assert abs(after - expected).max() <= 1
    assert main(["run", str(path), "--steps", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 5


def test_what_an_edit_will_lack_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Words that the model does not know, none at all, and a hole beyond what it was trained on, as on the nodes."""
    pixels = np.random.default_rng(1).integers(0, 256, (320, 320, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "canvas.png")
    rows: list[dict[str, Any]] = [
        {"box": [40, 40, 64, 64], "prompt": "purple dinosaur", "seed": [1, 2]},
        {"box": [40, 40, 64, 64]},
        {"box": [8, 8, 304, 300], "prompt": "panda"},
        {"box": [8, 8, 300, 24], "prompt": "apple"},
    ]
    path = manifest(tmp_path, *({"image": "canvas.png", **row} for row in rows))
    assert main(["run", str(path), "--steps", "1"]) == 0
    told = capsys.readouterr().err
    assert told.count("the model does not know purple, dinosaur") == 1
    assert told.count("no prompt: what comes is up to the model") == 1
    assert told.count("a hole of 304 px is drawn 2 times smaller and enlarged: smaller ones come out sharper") == 1
    assert told.count("a hole of 300 px, long and thin or beside a small one, is larger than the 176 px") == 1
    with Image.open(tmp_path / "edits_edits" / "canvas_panda_0.png") as made:
        asked = json.loads(made.info["lazydiffusion"])
    assert (asked["image"], asked["box"]) == ("canvas.png", [8, 8, 304, 300]) and "mask" not in asked


def test_a_python_without_what_it_needs_is_told_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.delitem(sys.modules, "batch.__main__")
    with pytest.raises(SystemExit, match="this Python has no tqdm: run it with ComfyUI's"):
        importlib.import_module("batch.__main__")


def test_a_larger_hole_in_a_pack_changes_nothing(tmp_path: Path) -> None:
    """Two beyond the size that the encoder reads at least, of which it sees one smaller, on canvases that it does not
    read whole.
    """
    pixels = np.random.default_rng(1).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "canvas.png")
    small, large = (
        {"image": "canvas.png", "box": box, "prompt": "panda"} for box in ([300, 40, 96, 96], [20, 200, 250, 250])
    )
    thin = {**small, "box": [20, 460, 300, 36]}  # too thin to be seen smaller: in the small one's call
    rows = {"small": small, "large": large, "thin": thin}
    for folder, names in {"packed": list(rows), **{name: [name] for name in rows}}.items():
        path = manifest(tmp_path, *({**rows[name], "output": name} for name in names))
        assert main(["run", str(path), "--steps", "1", "--output", str(tmp_path / folder)]) == 0
    for name in rows:
        together, alone = (np.asarray(Image.open(tmp_path / where / f"{name}.png")) for where in ("packed", name))
        assert abs(together.astype(int) - alone).max() <= 1, name


def test_a_file_whose_name_is_no_text_is_edited(tmp_path: Path) -> None:
    os.close(os.open(os.fsencode(tmp_path) + b"/caf\xe9.png", os.O_CREAT))
    Image.new("RGB", (64, 64), "white").save(name := os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    path = manifest(tmp_path, {"image": Path(name).name, "box": [8, 8, 40, 40], "prompt": "panda", "output": "made"})
    assert main(["run", str(path), "--steps", "1", "--output", str(tmp_path / "out")]) == 0
    assert json.loads(Image.open(tmp_path / "out" / "made.png").info["lazydiffusion"])["image"] == "caf?.png"


def test_a_module_of_ours_that_is_missing_is_no_fault_of_the_python() -> None:
    own, theirs = (ModuleNotFoundError("no", name=name) for name in ("batch.stores", "safetensors"))
    assert in_words(own) is own
    assert "this Python has no safetensors" in str(in_words(theirs))


@pytest.mark.parametrize(
    ("edits", "kills"), [(24, (1, 9)), pytest.param(500, (5, 90, 180, 290, 410), marks=pytest.mark.nightly)]
)
def test_a_killed_run_goes_on_where_it_was(folder: Path, edits: int, kills: tuple[int, ...]) -> None:
    """SIGKILLs; then the same files as of a run that nobody killed, and nothing half."""
    for number in range(3, 50):
        picture(folder / f"{number}.png", number)
    path = manifest(folder, *rows_of(edits, canvases=3 if edits < 50 else 50))
    command = [sys.executable, "-m", "batch", "run", str(path), "--steps", "1", "--json", "--output"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    whole, killed = folder / "whole", folder / "killed"
    subprocess.run([*command, str(whole)], cwd=ROOT, env=environment, check=True, capture_output=True)
    for wanted in kills:
        run = subprocess.Popen([*command, str(killed)], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 600
        while len(list(killed.glob("*.png"))) < wanted and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        run.send_signal(signal.SIGKILL)
        run.wait()
    done = len(list(killed.glob("*.png")))
    last = subprocess.run([*command, str(killed)], cwd=ROOT, env=environment, capture_output=True)
    assert last.returncode == 0, (last.stdout, last.stderr)
    figures = json.loads(last.stdout)
    assert 0 < figures["kept"] <= done and figures["kept"] + figures["made"] == edits
    print(f"{edits} edits, {len(kills)} kills: {figures['kept']} of {done} files kept, {figures['made']} made at last")
    assert results(whole) == results(killed)


def test_what_cannot_be_made_is_told_and_the_rest_is_made(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.open(folder / "1.png").save(folder / "1.bmp")
    whole = (folder / "1.bmp").read_bytes()
    (folder / "1.bmp").write_bytes(whole[: len(whole) // 2])  # its header is whole
    rows = rows_of(3)
    rows[1]["image"] = "1.bmp"
    assert main(["run", str(manifest(folder, *rows)), "--steps", "1", "--json"]) == 1
    told = capsys.readouterr()
    assert "1_panda_1.png: " in told.err and "truncated" in told.err
    assert (
        "truncated" in json.loads(told.out)["failures"]["1_panda_1.png"] and len(results(folder / "edits_edits")) == 2
    )


def test_a_pack_that_fails_is_made_edit_by_edit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = LazyEditor.decode

    def cramped(self: LazyEditor, context: Any, *args: Any, **kwargs: Any) -> Any:
        if len(context.image) > 1:
            raise MemoryError("no room for two")
        return decode(self, context, *args, **kwargs)

    path = manifest(folder, *rows_of(3))
    assert main(["run", str(path), "--steps", "1", "--output", str(folder / "whole")]) == 0
    monkeypatch.setattr(LazyEditor, "decode", cramped)
    assert main(["run", str(path), "--steps", "1", "--output", str(folder / "cramped")]) == 0
    assert results(folder / "whole").keys() == results(folder / "cramped").keys()


def test_a_negative_prompt_counts(folder: Path) -> None:
    rows = [{**rows_of(1)[0], "negative": text, "output": text or "none"} for text in ("", "panda", "a red apple")]
    assert main(["run", str(manifest(folder, *rows)), "--steps", "2"]) == 0
    assert len(set(results(folder / "edits_edits").values())) == 3


def test_sixteen_bits_of_grey_are_scaled_and_not_cut_off(folder: Path) -> None:
    from lazy_core.manifest.pictures import opened

    ramp = np.linspace(0, 65535, 256).astype(np.uint16)
    Image.fromarray(np.tile(ramp, (4, 1))).save(folder / "deep.png")
    assert abs(np.asarray(opened(folder / "deep.png")).astype(int)[0] - np.arange(256)).max() <= 1


def test_transparency_may_be_the_mask_and_is_kept(folder: Path) -> None:
    pixels = np.full((SIDE, SIDE, 4), 200, dtype=np.uint8)
    pixels[..., 3] = 255
    pixels[30:70, 30:70, 3] = 0
    Image.fromarray(pixels).save(folder / "clear.png")
    picture(folder / "half.png", 5, "RGBA")
    rows = [{"image": "clear.png", "mask": "alpha"}, {"image": "half.png", "box": list(HOLE)}]
    assert main(["run", str(manifest(folder, *rows)), "--prompt", "panda", "--steps", "1"]) == 0
    clear, half = (Image.open(folder / "edits_edits" / f"{name}.png") for name in ("clear_panda_0", "half_panda_0"))
    assert np.asarray(clear)[..., 3].min() == 255
    before, after = np.asarray(Image.open(folder / "half.png")), np.asarray(half)
    x, y, width, height = HOLE
    assert (after[y : y + height, x : x + width, 3] == 255).all()
    assert np.array_equal(after[:y], before[:y])


def test_nobodys_files_are_written_over(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the pictures themselves, nor a stranger's, nor a result that somebody retouched."""
    rows = rows_of(2)
    command = ["run", str(manifest(folder, {**rows[0], "output": "0"})), "--steps", "1"]
    before = (folder / "0.png").read_bytes()
    assert main([*command, "--output", str(folder), "--force"]) == 2
    assert "0.png would be written over a picture of the manifest" in capsys.readouterr().err
    assert (folder / "0.png").read_bytes() == before
    command = ["run", str(manifest(folder, *rows)), "--steps", "1", "--output", str(folder / "out")]
    (folder / "out").mkdir()
    (folder / "out" / "0_panda_0.png").write_bytes(b"mine")
    assert main(command) == 2
    assert "0_panda_0.png is of no run here: --force writes over it" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0
    made = results(folder / "out")
    (folder / "out" / "1_panda_1.png").write_bytes(made["1_panda_1.png"] + b"retouched")
    assert main(command) == 0
    told = capsys.readouterr()
    assert "1_panda_1.png was changed since it was made, and is kept" in told.err and "0 made, 2 were there" in told.out
    assert results(folder / "out")["1_panda_1.png"].endswith(b"retouched")
    assert main([*command, "--force"]) == 0 and results(folder / "out") == made


def test_odd_masks_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("none", 0), ("all", 255), ("one", 1)):
        Image.new("L", (SIDE, SIDE), value).save(folder / f"{name}.png")
    rows = [{"image": "0.png", "mask": f"{name}.png", "output": f"of_{name}"} for name in ("none", "all", "one")]
    assert main(["run", str(manifest(folder, *rows)), "--steps", "1"]) == 1
    told = capsys.readouterr().err
    assert "of_none.png: its mask is empty: the picture came back as it was" in told
    assert "of_all.png: its mask covers 100% of the picture: white is the hole" in told
    assert "of_one.png: one.png holds 0 and 1, expected 0 and 255" in told


def test_a_result_says_what_was_asked_for_and_keeps_the_colour_profile(folder: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.open(folder / "0.png").save(folder / "0.png", icc_profile=profile)
    assert main(["run", str(manifest(folder, *rows_of(1))), "--steps", "1"]) == 0
    with Image.open(folder / "edits_edits" / "0_panda_0.png") as made:
        made.load()
        assert made.info["icc_profile"] == profile
        assert json.loads(made.text["lazydiffusion"])["prompt"] == "panda"  # type: ignore[attr-defined]


def test_what_cannot_begin_is_one_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = manifest(folder, *rows_of(1))
    assert main(["run", str(path), "--workflow", "x.json"]) == 2
    assert "--workflow is for servers" in capsys.readouterr().err
    assert main(["run", str(path), "--server", "http://127.0.0.1:9", "--json"]) == 2
    assert "http://127.0.0.1:9 does not answer: [Errno 111]" in json.loads(capsys.readouterr().out)["error"]


def test_a_dry_run_makes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = manifest(folder, *rows_of(2), {"image": "gone.png", "box": list(HOLE)})
    for extra in ((), ("--dry-run",)):
        assert main(["run", str(path), *extra]) == 1
        told = capsys.readouterr()
        assert told.err == "edits.jsonl, line 3: image: 'gone.png' is not there\n"
        assert told.out == "2 edits, 1 problem\n"
    assert main(["run", str(folder / "none.jsonl")]) == 2
    assert main(["run", str(manifest(folder, *rows_of(1))), "--steps", "many"]) == 2
    assert "--steps is 'many', expected a whole number" in capsys.readouterr().err
    assert not (folder / "edits_edits").exists()


def test_the_documents_example_is_ten_edits(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "batch.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith('{"image"')]
    (folder / "edits.jsonl").write_text("\n".join(rows))
    Image.new("RGB", (256, 256), (180, 160, 140)).save(folder / "room.png")
    assert main(["run", str(folder / "edits.jsonl"), "--dry-run"]) == 0
    assert capsys.readouterr().out == "10 edits, 0 problems\n"
    assert main(["run", str(folder / "edits.jsonl"), "--steps", "1"]) == 0
    names = results(folder / "edits_edits").keys()
    assert len(names) == 10 and {"apple.png", "room_panda_1.png"} <= names


def test_sketches_and_denoise_go_into_an_edit(folder: Path) -> None:
    picture(folder / "sketch.png", 9)
    plain, sketched, partly = (
        {**rows_of(1)[0], "output": name, **more}
        for name, more in (
            ("plain", {}),
            ("sketched", {"sketch": "sketch.png", "sketch_strength": 0.8}),
            ("partly", {"denoise": 0.4}),
        )
    )
    assert main(["run", str(manifest(folder, plain, sketched, partly)), "--steps", "2"]) == 0
    assert len(set(results(folder / "edits_edits").values())) == 3


def test_a_canvas_that_edits_share_is_read_and_encoded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of the three have four prompts each, the third has another hole."""
    rows = [{"image": f"{n}.png", "box": list(HOLE), "prompt": ["panda", "pizza"], "seed": [1, 2]} for n in (0, 1)]
    path = manifest(folder, *rows, {"image": "0.png", "box": [0, 0, 40, 40], "prompt": "panda"})
    encoded, encode = [], LazyEditor.encode

    def counting(self: LazyEditor, image: torch.Tensor, mask: torch.Tensor, style: str = "auto") -> Any:
        encoded.append(len(image))
        return encode(self, image, mask, style)

    monkeypatch.setattr(LazyEditor, "encode", counting)
    assert main(["run", str(path), "--steps", "1", "--json"]) == 0
    assert encoded == [3] and len(results(folder / "edits_edits")) == 9
