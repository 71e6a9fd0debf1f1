"""A ComfyUI server with this pack, in a base folder of its own, always ended with the `with` block."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .client import Client
from .environment import child_environment, end_with_parent, python_of
from .places import PACK, ROOT, environment_folder, home
from .problem import Problem

START_SECONDS = 300
END_SECONDS = 10
REASONS = (
    r"Cannot import .*? for custom nodes: (.*)",
    r"Error while calling comfy_entrypoint in .*?: (.*)",
)  # what ComfyUI writes
NOT_THE_PACK = (".git", "output", "data", "runs", "__pycache__", "*.pyc")


class Server:
    """`with Server(host, base, log) as server: server.client.run(prompt)`. `flags` are further options of ComfyUI's
    main.py.
    """

    def __init__(
        self,
        host: Path,
        base: Path,
        log: Path,
        flags: Sequence[str] = (),
        pack: Path = ROOT,
        python: Path | None = None,
    ):
        self.host, self.base, self.log_path, self.flags, self.pack = host, base, log, tuple(flags), pack
        self.python = python or python_of(environment_folder())
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        link_pack(self.pack, self.base / "custom_nodes" / PACK)
        port = free_port()
        self.client = Client(f"http://127.0.0.1:{port}", self.check_alive)
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.start(port)
            self.wait_until_ready()
            self.check_pack()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, port: int) -> None:
        command = [str(self.python), "-u", str(self.host / "main.py"), *options(self.base, port), *self.flags]
        if not has_cuda(self.python):
            command.append("--cpu")
        variables = child_environment(self.host) | {"HF_HUB_OFFLINE": "1"}
        variables.pop("PYTHONPATH", None)
        if packages := os.environ.get("COMFYUI_PACKAGES"):  # a folder with what a newer host needs beside the pins
            variables["PYTHONPATH"] = packages
        if not self.host.is_relative_to(home()):
            variables["PYTHONDONTWRITEBYTECODE"] = "1"  # somebody's own ComfyUI stays as it is
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.base,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=end_with_parent,
            )

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self.check_alive()
            try:
                self.client.request("/system_stats", timeout=5)
                return
            except OSError:
                time.sleep(0.1)
        raise Problem(f"ComfyUI did not answer within {START_SECONDS} seconds (its log: {self.log_path}).")

    def check_alive(self) -> None:
        """Raises Problem with the log's last line when the process has ended."""
        if self.process is not None and self.process.poll() is not None:
            lines = [line for line in self.log().splitlines() if line.strip()] or ["it wrote nothing"]
            raise Problem(f"ComfyUI ended by itself: {lines[-1].strip()[:300]} (its log: {self.log_path}).")

    def check_pack(self) -> None:
        """A pack that cannot be imported does not stop ComfyUI. Raises Problem with the reason that its log gives."""
        log = self.log()
        # Core names its own optional nodes that way, too, without a path
        if re.search(rf"\(IMPORT FAILED\): .*{PACK}", log):
            reasons = [reason for pattern in REASONS for reason in re.findall(pattern, log)] or [
                "its log gives no reason"
            ]
            raise Problem(f"ComfyUI started but could not import this pack: {reasons[-1]} (its log: {self.log_path}).")

    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def throwaway(host: Path, name: str, log: Path) -> Iterator[Server]:
    """A Server whose base folder is made for the `with` block alone, under a name that tells whose it was."""
    (home() / "servers").mkdir(parents=True, exist_ok=True)
    base = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=home() / "servers"))
    try:
        with Server(host, base, log) as server:
            yield server
    finally:
        shutil.rmtree(base, ignore_errors=True)


def options(base: Path, port: int) -> list[str]:
    """Our pack alone, everything that is written below `base`, no network."""
    return [
        *("--listen", "127.0.0.1", "--port", str(port)),
        *("--base-directory", str(base), "--database-url", "sqlite:///:memory:"),
        *("--disable-all-custom-nodes", "--whitelist-custom-nodes", PACK),
        *("--disable-api-nodes", "--disable-auto-launch"),
    ]


def has_cuda(python: Path) -> bool:
    """Whether torch can use a CUDA device. Asking torch takes seconds, so the driver's library is looked for first."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    question = "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 1)"
    return subprocess.run([str(python), "-c", question], env=child_environment(), capture_output=True).returncode == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def link_pack(pack: Path, link: Path) -> None:
    """Make `link` lead to the pack: a symbolic link, else (Windows without that right) a junction, else a copy."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.exists() and link.samefile(pack):
        return
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        shutil.rmtree(link)
    try:
        link.symlink_to(pack, target_is_directory=True)
    except OSError:
        junction = (
            subprocess.run(["cmd", "/c", "mklink", "/J", str(link), str(pack)], capture_output=True)
            if os.name == "nt"
            else None
        )
        if junction is None or junction.returncode:
            shutil.copytree(pack, link, ignore=shutil.ignore_patterns(*NOT_THE_PACK))
