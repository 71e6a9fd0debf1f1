"""The Python environment: made once from the pins, never mistaken for finished when its making was interrupted."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from .places import PINS, environment_folder, home
from .problem import Problem

NEEDED_BYTES = 12 * 10**9
FINISHED = "finished"  # written last, holds the environment's own path: a moved environment does not work either
NO_SPACE = ("No space left on device", "not enough space on the disk", "Disk quota exceeded")
NO_NETWORK = (
    "from versions: none",
    "NewConnectionError",
    "Failed to establish a new connection",
    "Temporary failure in name resolution",
    "Name or service not known",
    "Network is unreachable",
    "ConnectTimeout",
    "ReadTimeout",
    "Connection refused",
    "Connection reset",
    "ProxyError",
    "Max retries exceeded",
)


def ensure_environment() -> Path:
    """-> the environment's Python; makes the environment first if it is not there. Raises Problem."""
    folder = environment_folder()
    if not is_finished(folder):
        home().mkdir(parents=True, exist_ok=True)
        with locked(home() / "install.lock"):
            if not is_finished(folder):  # another dev.py may have made it while this one waited
                build(folder)
    return python_of(folder)


def python_of(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def is_finished(folder: Path) -> bool:
    """`exists` follows the link: an environment whose base Python was removed is not finished."""
    try:
        return (folder / FINISHED).read_text(encoding="utf-8") == str(folder) and python_of(folder).exists()
    except OSError:
        return False


def build(folder: Path) -> None:
    """Make the environment at its final place, for its scripts carry that path; the mark of completion comes last.
    Raises Problem.
    """
    check_python()
    check_space(home(), NEEDED_BYTES)
    tell(f"Making the environment in {folder} (once; some gigabytes and several minutes).")
    shutil.rmtree(folder, ignore_errors=True)
    log = home() / "install.log"
    log.write_bytes(b"")
    try:
        call([sys.executable, "-m", "venv", str(folder)], log, "Python could not make a virtual environment")
        pip(python_of(folder), ["install", "--progress-bar", "off", "-r", str(PINS)], log)
        (folder / FINISHED).write_text(str(folder), encoding="utf-8")
    except (Problem, OSError):
        shutil.rmtree(folder, ignore_errors=True)  # half an environment would only fill the disk
        raise
    shutil.rmtree(
        home() / "cache" / "pip", ignore_errors=True
    )  # kept until now, so that an interrupted install resumes quickly
    others = [str(f) for f in home().glob("env-*") if f != folder]
    if others:
        tell(f"Environments of other pins, to delete when no checkout needs them: {', '.join(others)}")


def check_python() -> None:
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if missing:
        what = " and ".join(missing)
        raise Problem(
            f"This Python ({sys.executable}) has no {what} module: install it (on Debian and Ubuntu: apt install"
            " python3-venv)."
        )


def check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        got, want = f"{free / 1e9:.1f} GB", f"{needed / 1e9:.0f} GB"
        raise Problem(
            f"The disk of {folder} has {got} free, the install needs {want}: free some space or move it with"
            " LAZYDIFFUSION_HOME."
        )


def pip(python: Path, arguments: list[str], log: Path) -> None:
    """Run the environment's pip; its lines go to `log`, the important ones also to the screen. Raises Problem."""
    call([str(python), "-m", "pip", "--disable-pip-version-check", *arguments], log, "Installing the packages failed")


def call(command: list[str], log: Path, failure: str) -> None:
    """Run `command`, append its output to `log`. Raises Problem: `failure`, what is known of the reason, and where the
    log is.
    """
    temporary = home() / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=install_variables(temporary),
        text=True,
        encoding="utf-8",
        errors="replace",
        preexec_fn=end_with_parent,
    )
    try:
        lines = list(copy_lines(process, log))
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if code:
        raise Problem(f"{failure}: {reason(lines)} (whole log: {log}).")


def install_variables(temporary: Path) -> dict[str, str]:
    """A small /tmp in memory cannot hold the downloads; the user's own settings must not send the packages
    elsewhere.
    """
    places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    unwanted = ("PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")
    return {k: v for k, v in child_environment().items() if k not in unwanted} | places | {"PIP_USER": "0"}


def copy_lines(process: subprocess.Popen[str], log: Path) -> Iterator[str]:
    """Each line of a process goes to `log` and to the caller, pip's milestones also to the screen."""
    assert process.stdout
    with log.open("a", encoding="utf-8") as file:
        for line in process.stdout:
            file.write(line)
            if line.startswith(("Collecting ", "Installing collected")):
                tell("  " + line.split(" (from ")[0].strip()[:100])
            yield line.strip()


def reason(lines: list[str]) -> str:
    """The likely cause in a tool's output."""
    text = "\n".join(lines)
    if any(mark in text for mark in NO_SPACE):
        return "the disk is full"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return (
            "the certificate of the package index is not trusted here: if a proxy is in between, name its certificate"
            " in PIP_CERT"
        )
    if any(mark in text for mark in NO_NETWORK):
        return "no package could be downloaded, so check the network and run the command again"
    errors = (
        [line for line in lines if line.lower().startswith("error")]
        or [line for line in lines if line]
        or ["no message"]
    )
    return errors[-1].rstrip(".")


def child_environment(host: Path | None = None) -> dict[str, str]:
    """os.environ for our child processes: the environment's programs first, and every cache inside our own folder."""
    cache = home() / "cache"
    folder = environment_folder()
    places = {
        "LAZYDIFFUSION_HOME": str(home()),
        "VIRTUAL_ENV": str(folder),
        "PATH": os.pathsep.join([str(python_of(folder).parent), os.environ.get("PATH", os.defpath)]),
        "XDG_CACHE_HOME": str(cache),
        "PIP_CACHE_DIR": str(cache / "pip"),
        "MPLCONFIGDIR": str(cache / "matplotlib"),
        "HF_HOME": str(cache / "huggingface"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "PYRIGHT_PYTHON_CACHE_DIR": str(cache / "pyright"),
        "NPM_CONFIG_CACHE": str(cache / "npm"),
        "PYTHONUTF8": "1",
        "PYTHONNOUSERSITE": "1",
    }
    if host is not None:
        places["COMFYUI_PATH"] = str(host)
    return {k: v for k, v in os.environ.items() if k != "PYTHONHOME"} | places


def made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """`folder`, which `make` fills under a temporary name if it is not there: one with the final name is always
    complete.
    """
    if not folder.is_dir():
        home().mkdir(parents=True, exist_ok=True)
        with locked(home() / "install.lock"):
            if not folder.is_dir():  # another process may have made it while this one waited
                partial = folder.with_name(folder.name + ".partial")
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                make(partial)
                partial.rename(folder)
    return folder


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the system releases it when this process ends, however it ends."""
    with path.open("a") as file:
        if not try_lock(file.fileno()):
            tell("Another dev.py is installing; waiting for it.")
            while not try_lock(file.fileno()):
                time.sleep(0.5)
        yield


def try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def tell(line: str) -> None:
    """Progress goes to stderr: stdout is for results."""
    print(line, file=sys.stderr, flush=True)


def run_inside(command: list[str], cwd: Path, host: Path | None, extra: Mapping[str, str] | None = None) -> int:
    """Run `command` inside the environment, output to this terminal -> its exit code. Raises Problem if there is no
    such program.
    """
    environment = child_environment(host) | dict(extra or {})
    program = shutil.which(command[0], path=environment["PATH"])
    if program is None:
        raise Problem(f"There is no program {command[0]!r} in the environment or on PATH: check its spelling.")
    process = subprocess.Popen([program, *command[1:]], cwd=cwd, env=environment)
    try:
        return process.wait()
    except BaseException as ending:
        if not isinstance(ending, KeyboardInterrupt):  # Ctrl-C reaches the command without our help
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=15)  # tests end their servers, a training writes its last checkpoint
        process.kill()
        raise


def _end_with_parent() -> None:
    """In a child, before it becomes another program: Linux ends it when dev.py dies, even by SIGKILL."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1 = PR_SET_PDEATHSIG


end_with_parent: Callable[[], None] | None = _end_with_parent if sys.platform == "linux" else None
"""For `preexec_fn` of a child process."""
