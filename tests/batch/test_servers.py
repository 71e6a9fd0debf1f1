"""`python -m batch run --server`: against a stand-in for ComfyUI that can die or forget, and against the real one."""

from __future__ import annotations

import io
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import numpy as np
import pytest
from PIL import Image

from batch.__main__ import main
from batch.comfy import Comfy
from batch.plan import tasks_of
from batch.servers import ServerExecutor
from batch.workflows import HOLE, PICTURE, SHOWN, SKETCH, filled, load_workflow
from comfy_client import ComfyClient
from lazy_core.manifest.edits import read_manifest
from lazy_core.manifest.fields import Edit

ROOT = Path(__file__).resolve().parents[2]
SIDE, BOX = 64, [16, 16, 24, 24]


class FakeComfy:
    """Speaks ComfyUI's API; an edit inverts what is in the hole. `broken`: it answers nothing any more."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.history: dict[str, Any] = {}
        self.prompts: list[dict[str, Any]] = []
        self.uploads: list[str] = []
        self.broken, self.fail, self.delay, self.most = False, "", 0.0, 0
        self.running: set[str] = set()
        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.httpd.daemon_threads = True
        threading.Thread(target=self.httpd.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.httpd.server_address[1]}"

    def handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def answer(self, content: bytes, status: int = 200) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_GET(self) -> None:
                if fake.broken:
                    return self.connection.close()
                url = urlparse(self.path)
                if url.path.startswith("/history/"):
                    name = url.path.split("/")[-1]
                    return self.answer(json.dumps({k: v for k, v in fake.history.items() if k == name}).encode())
                if url.path == "/queue":
                    return self.answer(json.dumps(sorted(fake.running)).encode())
                return self.answer(fake.files[parse_qs(url.query)["filename"][0]])

            def do_POST(self) -> None:
                if fake.broken:
                    return self.connection.close()
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/upload/image":
                    name = re.search(rb'filename="([^"]+)"', body).group(1).decode()  # type: ignore[union-attr]
                    fake.uploads.append(name)
                    start = body.rindex(b"\r\n\r\n") + 4
                    fake.files[name] = body[start : body.rindex(b"\r\n--")]
                    return self.answer(json.dumps({"name": name, "subfolder": "lazydiffusion"}).encode())
                asked = json.loads(body)
                if fake.fail == "refuse":
                    errors = [{"message": "Value not in list", "details": "model_name: 'x'"}]
                    refused = {"node_errors": {"1": {"class_type": "LazyModelLoader", "errors": errors}}}
                    return self.answer(json.dumps(refused).encode(), 400)
                fake.prompts.append(asked)
                fake.running.add(asked["prompt_id"])
                fake.most = max(fake.most, len(fake.running))
                threading.Thread(target=fake.run, args=(asked,), daemon=True).start()
                return self.answer(b"{}")

        return Handler

    def run(self, asked: dict[str, Any]) -> None:
        time.sleep(self.delay)
        name, prompt = asked["prompt_id"], asked["prompt"]
        if name not in self.running:
            return  # forgotten
        if self.fail == "node":
            error = ["execution_error", {"node_type": "LazyDecode", "exception_message": "no\nmemory"}]
            self.history[name] = {"status": {"status_str": "error", "messages": [error]}, "outputs": {}}
        else:
            image, mask = (
                np.asarray(Image.open(io.BytesIO(self.files[prompt[key]["inputs"]["image"].split("/")[-1]])))
                for key in (PICTURE, HOLE)
            )
            buffer = io.BytesIO()
            Image.fromarray(np.where(mask > 127, 255 - image, image).astype(np.uint8)).save(buffer, "PNG")
            self.files[f"{name}.png"] = buffer.getvalue()
            shown = {"images": [{"filename": f"{name}.png", "subfolder": "", "type": "temp"}]}
            self.history[name] = {"status": {"status_str": "success"}, "outputs": {SHOWN: shown}}
        self.running.discard(name)

    def forget(self) -> None:
        """What a restart does."""
        self.history.clear()
        self.running.clear()


@pytest.fixture
def fakes() -> Iterator[list[FakeComfy]]:
    made = [FakeComfy(), FakeComfy()]
    yield made
    for fake in made:
        fake.httpd.shutdown()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batch.servers.PAUSES", (0.05, 0.05))
    monkeypatch.setattr("batch.servers.POLL", 0.01)


def manifest(folder: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    rows = [{"image": f"{n % 3}.png", "box": BOX, "prompt": "panda", "seed": n} for n in range(count)]
    (path := folder / "edits.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return path


def checked(folder: Path, count: int) -> None:
    """All files are there, inverted in the hole and as they were around it."""
    found = sorted((folder / "edits_edits").glob("*.png"))
    assert len(found) == count and not list((folder / "edits_edits").glob("*.partial"))
    x, y, width, height = BOX
    for file in found:
        before = np.asarray(Image.open(folder / f"{file.name[0]}.png"))
        expected = before.copy()
        expected[y : y + height, x : x + width] = 255 - expected[y : y + height, x : x + width]
        assert np.array_equal(np.asarray(Image.open(file)), expected)


def test_two_servers_share_the_edits_two_in_flight_on_each(fakes: list[FakeComfy], tmp_path: Path) -> None:
    for fake in fakes:
        fake.delay = 0.05
    path = manifest(tmp_path, 20)
    assert main(["run", str(path), *(f"--server={fake.address}" for fake in fakes)]) == 0
    checked(tmp_path, 20)
    assert [fake.most for fake in fakes] == [2, 2]
    assert sum(len(fake.prompts) for fake in fakes) == 20 and min(len(fake.prompts) for fake in fakes) > 3


def test_what_edits_share_is_sent_once(fakes: list[FakeComfy], tmp_path: Path) -> None:
    """Three pictures and one mask for twelve edits, one at a time."""
    path = manifest(tmp_path, 12)
    executor = ServerExecutor([fakes[0].address])
    tasks = tasks_of(read_manifest(path, {}).edits, executor.made_by)
    for task in tasks:
        executor.make(executor.servers[0], task)
    assert len(fakes[0].prompts) == 12 and len(fakes[0].uploads) == len(set(fakes[0].uploads)) == 4


def test_a_server_that_dies_for_good_leaves_its_edits_to_the_other(fakes: list[FakeComfy], tmp_path: Path) -> None:
    for fake in fakes:
        fake.delay = 0.03

    def die() -> None:
        while len(fakes[0].history) < 3:
            time.sleep(0.005)
        fakes[0].broken = True

    threading.Thread(target=die, daemon=True).start()
    path = manifest(tmp_path, 30)
    assert main(["run", str(path), *(f"--server={fake.address}" for fake in fakes)]) == 0
    checked(tmp_path, 30)
    assert sum(len(fake.prompts) for fake in fakes) <= 30 + 4, "what was in flight, and no more, was made twice"


def test_a_server_that_restarts_gets_again_what_it_forgot(fakes: list[FakeComfy], tmp_path: Path) -> None:
    fake = fakes[0]
    fake.delay = 0.03

    def restart() -> None:
        while len(fake.history) < 3:
            time.sleep(0.005)
        fake.broken = True
        fake.forget()
        fake.files.clear()
        time.sleep(0.04)
        fake.broken = False

    threading.Thread(target=restart, daemon=True).start()
    path = manifest(tmp_path, 12)
    assert main(["run", str(path), f"--server={fake.address}"]) == 0
    checked(tmp_path, 12)
    assert 12 <= len(fake.prompts) <= 14


def test_where_no_server_is_left_the_rest_is_told_and_made_later(
    fakes: list[FakeComfy], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = manifest(tmp_path, 6)
    fakes[0].delay = 0.05

    def die() -> None:
        while not fakes[0].prompts:
            time.sleep(0.005)
        fakes[0].broken = True

    threading.Thread(target=die, daemon=True).start()
    assert main(["run", str(path), f"--server={fakes[0].address}", "--json"]) == 1
    told = capsys.readouterr()
    failed = json.loads(told.out)["failed"]
    assert (
        failed >= 4 and told.err.count(f"no server is left that answers ({fakes[0].address} does not answer") == failed
    )
    fakes[0].broken = False
    assert main(["run", str(path), f"--server={fakes[0].address}", "--json"]) == 0
    checked(tmp_path, 6)


@pytest.mark.parametrize(
    ("fail", "sentence"),
    [
        ("refuse", "ComfyUI refused the workflow: LazyModelLoader: Value not in list model_name: 'x'"),
        ("node", "LazyDecode failed: no memory"),
    ],
)
def test_what_a_server_refuses_is_told_once_and_may_be_tried_again(
    fail: str, sentence: str, fakes: list[FakeComfy], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes[0].fail = fail
    path = manifest(tmp_path, 2)
    command = ["run", str(path), f"--server={fakes[0].address}", "--json"]
    assert main(command) == 1
    assert capsys.readouterr().err.count(sentence) == 2
    fakes[0].fail = ""
    assert main(command) == 0
    checked(tmp_path, 2)


def test_a_users_own_workflow_gets_picture_mask_prompt_and_seed() -> None:
    workflow = load_workflow(ROOT / "tests" / "api" / "1_first_edit.json")
    edit = Edit(image=Path("a.png"), box=(0, 0, 8, 8), prompt="a panda", seed=11, steps=9)
    prompt, shown = filled(workflow, edit, {PICTURE: "a.png", HOLE: "b.png"}, own=False)
    kinds = {name: node["class_type"] for name, node in prompt.items()}
    [decode] = [name for name, kind in kinds.items() if kind == "LazyDecode"]
    [dilate] = [name for name, kind in kinds.items() if kind == "LazyMaskDilate"]
    [encode] = [name for name, kind in kinds.items() if kind == "LazyEncodeContext"]
    assert kinds[shown] == "SaveImage" and prompt[shown]["inputs"]["images"] == [decode, 0]
    inputs = prompt[decode]["inputs"]
    assert (inputs["seed"], inputs["steps"], inputs["image"]) == (11, 4, [PICTURE, 0])
    assert prompt[inputs["positive"][0]]["inputs"]["text"] == "a panda"
    assert prompt[encode]["inputs"]["image"] == [PICTURE, 0] and prompt[encode]["inputs"]["mask"] == [dilate, 0]
    assert prompt[dilate]["inputs"]["mask"] == [HOLE, 0], "the mask is dilated as the workflow has it"
    assert workflow[encode]["inputs"]["image"] != [PICTURE, 0], "the file's own is not changed"


def test_in_a_workflow_with_a_lazy_canvas_the_canvas_is_replaced_whole() -> None:
    """Its EDIT would hide the result behind its own empty mask, its SKETCH would draw its old picture."""
    canvas = {"class_type": "LazyCanvas", "inputs": {"canvas_file": "x"}}
    encode = {"model": ["m", 0], "vae": ["m", 2], "image": ["c", 0], "mask": ["c", 1]}
    sketch = {"context": ["e", 0], "vae": ["m", 2], "sketch": ["c", 2], "strength": 0.5}
    decode = {"model": ["m", 0], "context": ["s", 0], "positive": ["t", 0], "negative": ["z", 0], "image": ["c", 0]}
    workflow = {
        "c": canvas,
        "m": {"class_type": "LazyModelLoader", "inputs": {}},
        "t": {"class_type": "CLIPTextEncode", "inputs": {"text": "x", "clip": ["m", 1]}},
        "z": {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["t", 0]}},
        "e": {"class_type": "LazyEncodeContext", "inputs": encode},
        "s": {"class_type": "LazySketchCondition", "inputs": sketch},
        "d": {"class_type": "LazyDecode", "inputs": {**decode, "seed": 0}},
        "r": {"class_type": "LazyResult", "inputs": {"image": ["d", 0], "edit": ["c", 3]}},
    }
    files = {PICTURE: "a.png", HOLE: "b.png", SKETCH: "c.png"}
    edit = Edit(image=Path("a.png"), box=(0, 0, 8, 8), prompt="a panda")
    prompt, shown = filled(workflow, edit, files, own=False)
    assert "c" not in prompt and "s" not in prompt and shown == "r"
    assert prompt["r"]["inputs"] == {"image": ["d", 0]}
    assert prompt["d"]["inputs"]["context"] == ["e", 0] and prompt["e"]["inputs"]["mask"] == [HOLE, 0]
    drawn, _ = filled(workflow, replace(edit, sketch=Path("s.png"), sketch_strength=0.3), files, own=False)
    assert drawn["d"]["inputs"]["context"] == [SKETCH, 0] and drawn[SKETCH]["inputs"]["context"] == ["e", 0]
    with pytest.raises(ValueError, match="negative prompt is made of its positive one"):
        filled(workflow, replace(edit, negative="dull"), files, own=False)


def test_whatever_goes_wrong_with_an_edit_ends_no_run(
    fakes: list[FakeComfy], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(*_: Any) -> None:
        raise KeyError("99")

    monkeypatch.setattr("batch.servers.filled", odd)
    assert main(["run", str(manifest(tmp_path, 3)), f"--server={fakes[0].address}", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["failed"] == 3


def test_files_that_are_no_workflow_are_refused(tmp_path: Path) -> None:
    (page := tmp_path / "page.json").write_text((ROOT / "workflows" / "1_first_edit.json").read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match=r"page.json is saved for the page: use File, Export \(API\)"):
        load_workflow(page)
    (other := tmp_path / "other.json").write_text('{"1": {"class_type": "KSampler", "inputs": {}}}')
    with pytest.raises(ValueError, match=r"other.json has no single Encode Context and Lazy Decode"):
        load_workflow(other)
    other.write_text("[")
    with pytest.raises(ValueError, match=r"other.json cannot be read as a workflow"):
        ServerExecutor(["localhost:1"], other)


def test_edits_on_the_real_server_are_those_of_this_process(server: ComfyClient, tmp_path: Path) -> None:
    """Bit for bit outside, near in the hole; and through a workflow that dilates the mask and takes four steps."""
    path = manifest(tmp_path, 3)
    common = ["run", str(path), "--steps", "2", "--json", "--output"]
    assert main([*common, str(tmp_path / "local")]) == 0
    assert main([*common, str(tmp_path / "server"), "--server", server.address]) == 0
    for file in sorted((tmp_path / "local").glob("*.png")):
        here, there = (np.asarray(Image.open(tmp_path / name / file.name)).astype(int) for name in ("local", "server"))
        assert abs(here - there).max() <= 2
    own = ["--server", server.address, "--workflow", str(ROOT / "tests" / "api" / "1_first_edit.json")]
    assert main([*common, str(tmp_path / "own"), *own]) == 0
    x, y = BOX[:2]
    for file in sorted((tmp_path / "own").glob("*.png")):
        before, after = (np.asarray(Image.open(name)) for name in (tmp_path / f"{file.name[0]}.png", file))
        changed = (before != after).any(-1)
        assert changed[y - 8 : y, x + 8].any() and not changed[: y - 9].any(), "8 px more than the box"
    assert Comfy(server.address).get("/queue")["queue_running"] == []
