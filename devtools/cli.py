"""The commands of dev.py."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from . import demo
from .environment import ensure_environment, run_inside, tell
from .host import find_host
from .places import ROOT, output, serve_folder
from .problem import Problem, sentence_of
from .server import Server

CHECKS = (["ruff", "format", "--check", "."], ["ruff", "check", "."], ["pyright"])


def main(arguments: list[str], usage: str | None) -> int:
    """Run one command -> exit code. Every failure that a person can act on is one sentence on stderr."""
    commands = {"demo": run_demo, "test": run_tests, "serve": serve, "bench": bench, "run": run_command}
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage)
        return 0 if arguments else 2
    if arguments[0] not in commands:
        tell(f"dev.py has no command {arguments[0]!r}; it has {', '.join(commands)}.")
        return 2
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `with Server` ends its server
    try:
        return commands[arguments[0]](arguments[1:])
    except Problem as problem:
        tell(str(problem))
    except OSError as error:
        tell(sentence_of(error))
    except KeyboardInterrupt:
        tell("Interrupted.")
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return 1


def prepare() -> Path:
    """Make the environment and the host if need be -> the host's folder. COMFYUI_PATH is checked before gigabytes are
    downloaded.
    """
    if os.environ.get("COMFYUI_PATH"):
        find_host(Path(sys.executable))
    return find_host(ensure_environment())


def run_demo(arguments: list[str]) -> int:
    if unknown := [a for a in arguments if a != "--json"]:
        raise Problem(f"demo takes only --json, not {' '.join(unknown)}.")
    return demo.run(prepare(), as_json="--json" in arguments)


def run_tests(arguments: list[str]) -> int:
    """With arguments: pytest alone. Without: format, lint, types, then all tests; pytest's summary comes last."""
    host = prepare()
    failed = []
    for check in () if arguments else CHECKS:
        tell(f"== {' '.join(check)}")
        if run_inside(["python", "-m", *check], ROOT, host):
            failed.append(check[0])
    if failed:
        tell(f"== failed so far: {', '.join(failed)}")
    code = run_inside(["python", "-m", "pytest", *arguments], ROOT, host)
    return code or bool(failed)


def serve(arguments: list[str]) -> int:
    if arguments:
        raise Problem(f"serve takes no arguments, not {' '.join(arguments)}.")
    host, folder = prepare(), output("serve")
    with Server(host, serve_folder(), folder / "server.log", ["--output-directory", str(folder)]) as server:
        try:
            print(f"ComfyUI {server.client.version()} with LazyDiffusion: {server.client.address}", flush=True)
            tell(f"Pictures and the log go to {folder}. Ctrl-C ends it.")
            while True:
                server.check_alive()
                time.sleep(0.5)
        except KeyboardInterrupt:
            tell("Ended.")
    return 0


def bench(arguments: list[str]) -> int:
    return run_inside(["python", "-m", "benchmarks", *arguments], ROOT, prepare())


def run_command(arguments: list[str]) -> int:
    command = arguments[1:] if arguments[:1] == ["--"] else arguments
    if not command:
        raise Problem("run needs a command, for example: python dev.py run -- python -m training.train")
    return run_inside(command, ROOT, prepare())
