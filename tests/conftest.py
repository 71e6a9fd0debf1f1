"""Fixtures: a real ComfyUI server with this pack, its modules inside this process, and the browser."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def arrange_path() -> Path | None:
    """Put ComfyUI before the repository: `import nodes` must mean ComfyUI's nodes.py, not our folder -> ComfyUI's
    folder, if any.
    """
    sys.path[:] = [entry for entry in sys.path if entry and Path(entry).resolve() != ROOT]
    for folder in (ROOT / "tests" / "support", ROOT):  # the helpers: scripts that are no tests import them, too
        sys.path.insert(0, str(folder))
    from devtools.host import pinned_folder

    host = Path(os.environ.get("COMFYUI_PATH") or pinned_folder())
    if not host.is_dir():
        return None
    sys.path.insert(0, str(host))
    return host


HOST = arrange_path()

from comfy_client import ComfyClient  # noqa: E402  (needs the path above)
from devtools import frontend  # noqa: E402
from devtools.server import Server  # noqa: E402
from host_graphs import Lazy  # noqa: E402

NO_HOST = "no ComfyUI: run the tests with `python dev.py test`, or set COMFYUI_PATH to a ComfyUI folder"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server, so that `-m 'not host'` leaves the quick tests; leave out what is long, unless it is
    asked for.
    """
    nightly = os.environ.get("LAZYDIFFUSION_NIGHTLY") == "1"
    for item in items:
        if item.get_closest_marker("nightly") and not nightly:
            item.add_marker(pytest.mark.skip(reason="takes minutes: LAZYDIFFUSION_NIGHTLY=1 runs it"))
        if {"server", "start_server"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.host)


@pytest.fixture(scope="session")
def host() -> Path:
    """ComfyUI's folder."""
    if HOST is None:
        pytest.skip(NO_HOST)
    return HOST


@pytest.fixture(scope="session")
def comfy(host: Path) -> ModuleType:
    """ComfyUI's package `comfy` inside this process, on the CPU; nothing of it may be imported before this fixture."""
    import comfy.options  # without its enable_args_parsing(): pytest's arguments are not ComfyUI's
    from comfy.cli_args import args

    args.cpu = os.environ.get("LAZYDIFFUSION_TEST_DEVICE", "cpu") == "cpu"  # "cuda": those tests that need no server
    import comfy.model_management

    return comfy


@pytest.fixture(scope="session")
def pack(comfy: ModuleType) -> ModuleType:
    """This pack inside this process, loaded as ComfyUI loads it: from its folder, under a name of its own."""
    name = "lazydiffusion_under_test"
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec and spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def lazy(pack: ModuleType) -> Lazy:
    """The pack's nodes with the shipped model, called in this process; loaded anew for each module."""
    return Lazy(pack)


@pytest.fixture(scope="session")
def server(host: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyClient]:
    """One ComfyUI with the pack for the whole session."""
    folder = tmp_path_factory.mktemp("comfyui")
    with Server(host, folder, folder / "server.log", frontend.flags(), python=Path(sys.executable)) as running:
        yield ComfyClient(running)


@pytest.fixture
def start_server(host: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., ComfyClient]]:
    """`start_server("--cache-none")` -> a client of a further server with these flags, ended with the test."""
    with contextlib.ExitStack() as stack:

        def start(*flags: str) -> ComfyClient:
            folder = tmp_path_factory.mktemp("comfyui")
            server = Server(
                host, folder, folder / "server.log", [*flags, *frontend.flags()], python=Path(sys.executable)
            )
            return ComfyClient(stack.enter_context(server))

        yield start


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's program. Without one the tests skip, except where LAZYDIFFUSION_REQUIRE_BROWSER=1 says that there
    must be one (CI).
    """
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        sentence = "no browser: install Chromium (on Debian: apt install chromium)"
        if os.environ.get("LAZYDIFFUSION_REQUIRE_BROWSER") == "1":
            pytest.fail(sentence)
        pytest.skip(sentence)
    return program
