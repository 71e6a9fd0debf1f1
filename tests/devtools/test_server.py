"""How dev.py starts and ends a server, shown with small stand-ins for ComfyUI's main.py; and that the real one writes
nowhere else.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from comfy_client import ComfyClient
from devtools import server as server_module
from devtools.places import PACK, ROOT
from devtools.problem import Problem
from devtools.server import Server, link_pack

ANSWERS = """
import http.server, os, sys
open(PID_FILE, "w").write(str(os.getpid()))
print(LINES, flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"system": {"comfyui_version": "0.0.1"}}')
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""
FAILED = " 0.0 seconds (IMPORT FAILED): /x/custom_nodes/ComfyUI-LazyDiffusion"
NO_EINOPS = "No module named 'einops'"


def stand_in(folder: Path, code: str, lines: str = "") -> Path:
    """A ComfyUI folder whose main.py is `code` -> the folder; its process id comes into the file `pid`."""
    folder.mkdir()
    (folder / "main.py").write_text(f"PID_FILE = {str(folder / 'pid')!r}\nLINES = {lines!r}\n{code}")
    return folder


def start(tmp_path: Path, code: str, lines: str = "") -> Server:
    return Server(
        stand_in(tmp_path / "host", code, lines),
        tmp_path / "base",
        tmp_path / "server.log",
        python=Path(sys.executable),
    )


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or ") Z" not in status.read_text()  # a zombie has ended


def ends_soon(pid: int, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_running(pid)


def test_server_that_dies_is_told_with_its_last_line(tmp_path: Path):
    with pytest.raises(Problem) as caught, start(tmp_path, "import sys; print('first'); sys.exit('torch is broken')"):
        pass
    assert "torch is broken" in str(caught.value)
    assert str(tmp_path / "server.log") in str(caught.value)


@pytest.mark.parametrize(
    "says", ["Cannot import /x/pack module for custom nodes: ", "Error while calling comfy_entrypoint in /x/pack: "]
)
def test_pack_that_cannot_be_imported_is_told(tmp_path: Path, says: str):
    with pytest.raises(Problem, match=NO_EINOPS), start(tmp_path, ANSWERS, f"{says}{NO_EINOPS}\n{FAILED}"):
        pass
    assert ends_soon(int((tmp_path / "host" / "pid").read_text()))


def test_nodes_of_core_that_lack_a_library_are_not_the_pack(tmp_path: Path):
    with start(
        tmp_path, ANSWERS, "IMPORT FAILED: nodes_glsl.py\n  0.1 seconds (IMPORT FAILED): /x/custom_nodes/another\n"
    ) as running:
        assert running.client.version() == "0.0.1"


def test_server_ends_with_the_block_also_after_an_exception(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), start(tmp_path, ANSWERS) as running:
        assert running.client.version() == "0.0.1"
        assert running.client.address.startswith("http://127.0.0.1:")
        _ = 1 / 0
    assert ends_soon(int((tmp_path / "host" / "pid").read_text()))


def test_server_that_ignores_terminate_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server_module, "END_SECONDS", 0.5)
    with start(tmp_path, "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + ANSWERS):
        pid = int((tmp_path / "host" / "pid").read_text())
    assert ends_soon(pid)


def heed_interrupts() -> None:
    """A shell starts background jobs deaf to SIGINT, and their children inherit that: these tests may run in one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the children of a killed process")
@pytest.mark.parametrize(
    ("kill", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 0), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_serve_ends_its_server_however_it_is_ended(tmp_path: Path, kill: signal.Signals, code: int):
    host = stand_in(tmp_path / "host", ANSWERS)
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from devtools import cli, server
cli.prepare = lambda: Path({str(host)!r})
cli.output = lambda name: Path({str(tmp_path)!r})
server.python_of = lambda folder: Path(sys.executable)
sys.exit(cli.main(["serve"], ""))
"""
    variables = os.environ | {"LAZYDIFFUSION_HOME": str(tmp_path / "home")}
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )
    assert process.stdout
    assert "http://127.0.0.1:" in process.stdout.readline()
    pid = int((host / "pid").read_text())
    process.send_signal(kill)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == code
    assert "Traceback" not in errors
    assert ends_soon(pid)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that a process can handle")
def test_run_ends_its_command_when_it_is_ended(tmp_path: Path):
    command = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"]
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from devtools import cli
cli.prepare = lambda: None
sys.exit(cli.main(["run", "--", *{command!r}], ""))
"""
    variables = os.environ | {"LAZYDIFFUSION_HOME": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", program], env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    pid = int(process.stdout.readline())
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 143
    assert ends_soon(pid)


def test_link_is_made_corrected_and_kept(tmp_path: Path):
    pack, other, link = tmp_path / "pack", tmp_path / "other", tmp_path / "base" / "custom_nodes" / PACK
    for folder in (pack, other):
        folder.mkdir()
    link_pack(other, link)
    link_pack(pack, link)
    assert link.samefile(pack)
    before = link.lstat().st_mtime_ns
    link_pack(pack, link)
    assert link.lstat().st_mtime_ns == before
    assert other.exists()


def test_pack_is_copied_where_links_are_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def forbidden(*_: object, **__: object) -> None:
        raise OSError("a required privilege is not held")

    pack = tmp_path / "pack"
    (pack / "output").mkdir(parents=True)
    (pack / "__init__.py").write_text("one")
    monkeypatch.setattr(Path, "symlink_to", forbidden)
    for text in ("one", "two"):  # a copy of before is replaced: it may be old
        (pack / "__init__.py").write_text(text)
        link_pack(pack, tmp_path / "link")
        assert (tmp_path / "link" / "__init__.py").read_text() == text
    assert not (tmp_path / "link" / "output").exists()


def listing(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.host
def test_somebodys_own_comfyui_stays_as_it_is(host: Path, tmp_path: Path):
    """COMFYUI_PATH may be an install that its owner cares about: not one file is written into it."""
    theirs = tmp_path / "ComfyUI"
    shutil.copytree(host, theirs, ignore=shutil.ignore_patterns("__pycache__"))
    before = listing(theirs)
    with Server(theirs, tmp_path / "base", tmp_path / "server.log", python=Path(sys.executable)) as running:
        nodes = ComfyClient(running).object_info()
    assert {
        "LazyModelLoader",
        "LazyMaskDilate",
        "LazyEncodeContext",
        "LazySketchCondition",
        "LazyDecode",
    } <= nodes.keys()
    assert listing(theirs) == before
