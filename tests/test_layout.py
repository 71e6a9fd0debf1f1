"""The house keeps its plan: which room may import from which, no circles, the host behind one door, and short files."""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LONGEST = 300  # lines of a file in lazy_core and nodes

ORDER: dict[str, dict[str, tuple[str, ...]]] = {
    "lazy_core": {
        "checks": ("checks",),
        "values": ("config", "geometry", "masks", "holes", "prompts", "tokens", "cache", "attention"),
        "text": ("text",),
        "vae": ("vae",),
        "networks": ("networks",),
        "diffusion": ("diffusion",),
        "blend": ("blend",),
        "manifest": ("manifest",),
        "kv": ("kv",),
        "calls": (
            "model",
            "downscale",
            "canvas",
            "context",
            "context_notes",
            "context_file",
            "context_pack",
            "cost",
            "throughput",
            "edit",
            "checkpoint",
            "pixart",
            "pipeline",
            "sketch",
            "editor",
        ),
    },
    "nodes": {
        "values": ("checks", "messages", "images", "memory"),
        "families": ("stock.roles", "stock.family", "stock.families"),
        "host": ("host",),
        "stock": ("stock",),
        "engines": ("engines",),
        "nodes": ("schema", "editing", "batch", "canvas", "context", "decode", "loader", "mask", "saved", "sketch", ""),
    },
    "batch": {
        "values": ("missing", "plan", "stores", "journal"),
        "comfy": ("comfy", "workflows"),
        "executors": ("local", "ray_data", "servers"),
        "commands": ("__main__", ""),
    },
    "training": {
        "scenery": ("scenery",),
        "corpus": ("corpus",),
        "loop": ("loop",),
        "evaluation": ("evaluation",),
        "commands": (
            *(
                "autoencoder",
                "average",
                "classifier",
                "decoding",
                "estimate",
                "evaluate",
                "few_steps",
                "help",
                "matte",
                "named",
                "naming",
            ),
            *(
                "plot",
                "precompute",
                "prepare",
                "progressive",
                "removal",
                "several_holes",
                "showcase",
                "sketch_study",
                "train",
            ),
        ),
    },
}
"""The rooms of each package from the ground up, with their modules or packages. A room imports from itself and from
those before it.
"""

ALONE = {
    "lazy_core": ("text", "vae", "diffusion", "blend", "kv"),
    "nodes": (),
    "batch": (),
    "training": ("scenery", "corpus"),
}
"""Of these rooms, those that import from no other but `FOUNDATIONS` and what is named here."""
FOUNDATIONS = ("checks", "values")
BESIDE = {"diffusion": ("networks",)}

LIBRARIES = {"torch", "numpy", "scipy", "einops", "safetensors"}
HOST = (
    "comfy",
    "comfy_api",
    "comfyui_version",
    "folder_paths",
    "latent_preview",
    "node_helpers",
    "server",
    "execution",
)
PUBLIC = "comfy_api.latest"


def modules_of(package: str) -> dict[str, Path]:
    """Dotted names below the repository -> files."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        if path.is_relative_to(ROOT / "training" / "data"):  # what commands unpack there
            continue
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = {name: path for package in ORDER for name, path in modules_of(package).items()}


@cache
def imports_of(module: str) -> frozenset[str]:
    """Dotted names that a module imports anywhere, in functions too: modules of the repository where they are, else as
    they are written.
    """
    path, found = MODULES[module], set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            target = ".".join([*base, *([node.module] if node.module else [])])
            inner = {f"{target}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else target for name in inner}
    return frozenset(found)


def room_of(module: str) -> str:
    package, _, rest = module.partition(".")
    fits = {
        inside: room
        for room, names in ORDER[package].items()
        for inside in names
        if rest == inside or (inside and rest.startswith(f"{inside}."))
    }
    assert fits, f"{module} is in no room: say in ORDER of {Path(__file__).name} where it belongs"
    return fits[max(fits, key=len)]


def arrows(package: str) -> dict[tuple[str, str], list[str]]:
    """From room to room: which imports these are. Packages' own docstrings are no modules."""
    found: dict[tuple[str, str], list[str]] = {}
    for module in modules_of(package):
        for other in imports_of(module) & MODULES.keys():
            if (
                other.partition(".")[0] == package
                and is_code(module)
                and is_code(other)
                and room_of(module) != room_of(other)
            ):
                found.setdefault((room_of(module), room_of(other)), []).append(f"{module} imports {other}")
    return found


def is_code(module: str) -> bool:
    return MODULES[module].name != "__init__.py" or module == "nodes"


@pytest.mark.parametrize("package", ORDER)
def test_rooms_import_from_those_below(package: str):
    order = list(ORDER[package])
    back = {arrow: lines for arrow, lines in arrows(package).items() if order.index(arrow[0]) < order.index(arrow[1])}
    assert back == {}


@pytest.mark.parametrize("package", ORDER)
def test_wings_stand_by_themselves(package: str):
    """So that a reader of one can skip the others."""
    allowed = {(room, other) for room in ALONE[package] for other in (*FOUNDATIONS, *BESIDE.get(room, ()))}
    assert {
        arrow: lines for arrow, lines in arrows(package).items() if arrow[0] in ALONE[package] and arrow not in allowed
    } == {}


def test_commands_do_not_import_each_other():
    commands = {f"training.{name}" for name in ORDER["training"]["commands"]}
    assert {(one, other) for one in commands for other in imports_of(one) & commands} == set()
    assert all('if __name__ == "__main__":' in MODULES[name].read_text(encoding="utf-8") for name in commands)


@pytest.mark.parametrize("package", ORDER)
def test_no_imports_in_a_circle(package: str):
    """Not even by way of functions."""
    done: set[str] = set()

    def walk(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            for other in sorted(imports_of(module) & MODULES.keys()):
                if other.partition(".")[0] == package:
                    walk(other, (*way, module))
            done.add(module)

    for module in modules_of(package):
        walk(module, ())


def test_the_core_knows_no_host_and_no_node():
    for module in modules_of("lazy_core"):
        tops = {name.partition(".")[0] for name in imports_of(module)}
        more = (
            {"PIL", "pyarrow"} if module.startswith("lazy_core.manifest.") else set()
        )  # pictures are read there alone
        assert tops - sys.stdlib_module_names <= {"lazy_core", *LIBRARIES, *more}, module


def test_the_host_is_behind_one_door():
    """What is not its public node API is imported in nodes/host alone; its version is asked before anything of it
    is.
    """
    for module in modules_of("nodes"):
        private = {name for name in imports_of(module) if name.partition(".")[0] in HOST and name != PUBLIC}
        if not module.startswith("nodes.host"):
            assert private <= ({"comfyui_version"} if module == "nodes" else set()), module


@pytest.mark.parametrize("package", ["lazy_core", "nodes"])
def test_files_are_short(package: str):
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules_of(package).items()}
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}


def test_all_that_is_public_in_the_core_says_what_it_is():
    """But for what overrides something that does."""
    trees = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in modules_of("lazy_core").items()}
    classes = {node.name: node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}

    def has(owner: ast.ClassDef, name: str) -> bool:
        return any(isinstance(node, ast.FunctionDef) and node.name == name for node in owner.body)

    def inherits(owner: ast.ClassDef | None, name: str) -> bool:
        names = [base.id for base in owner.bases if isinstance(base, ast.Name)] if owner else []
        return any(has(classes[base], name) or inherits(classes[base], name) for base in names if base in classes)

    silent: list[str] = []
    for module, tree in trees.items():
        bodies: list[tuple[ast.Module | ast.ClassDef, ast.ClassDef | None]] = [(tree, None)]
        for body, owner in bodies:
            for node in body.body:
                if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
                    continue
                if isinstance(node, ast.ClassDef):
                    bodies.append((node, node))
                if ast.get_docstring(node) is None and not inherits(owner, node.name):
                    silent.append(f"{module}, line {node.lineno}: {node.name}")
    assert silent == []
