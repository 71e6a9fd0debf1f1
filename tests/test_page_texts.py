"""What the page reads from the pack: names and tooltips in two languages, help pages, templates. No browser needed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy_client import ComfyClient

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "web" / "docs"
TEMPLATES = sorted((ROOT / "workflows").glob("*.json"))
LANGUAGES = {"en": ".md", "zh": "/zh.md"}
POLARITY = {"en": r"1 (\(white\) )?= hole", "zh": r"1(（白）)? ?= ?空洞"}
MASK = {"en": r"\bmask\b", "zh": "遮罩"}


def texts(language: str) -> dict[str, Any]:
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def shape(value: Any) -> Any:
    """The keys of nested dictionaries, without their texts."""
    return {key: shape(inner) for key, inner in value.items()} if isinstance(value, dict) else type(value)


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    else:
        yield value


@pytest.fixture(scope="module")
def nodes(server: ComfyClient) -> dict[str, Any]:
    """Our nodes as the server describes them to the page."""
    return {name: node for name, node in server.object_info().items() if node["category"] == "lazydiffusion"}


def described(node: dict[str, Any]) -> dict[str, Any]:
    """A node of the server's /object_info in the shape of a locale file."""
    inputs: dict[str, Any] = {}
    for name, (_, options) in {**node["input"].get("required", {}), **node["input"].get("optional", {})}.items():
        inputs[name] = {"name": name, "tooltip": options["tooltip"]}
        if options.get("control_after_generate"):
            inputs["control_after_generate"] = {"name": "control after generate"}
    outputs = enumerate(zip(node["output_name"], node["output_tooltips"]))
    return {
        "display_name": node["display_name"],
        "description": node["description"],
        "inputs": inputs,
        "outputs": {str(index): {"name": name, "tooltip": tooltip} for index, (name, tooltip) in outputs},
    }


def test_english_texts_are_those_of_the_nodes(nodes: dict[str, Any]) -> None:
    assert texts("en") == {name: described(node) for name, node in nodes.items()}


def test_chinese_says_all_that_english_says() -> None:
    assert shape(texts("zh")) == shape(texts("en"))
    left_english = {text for text in strings(texts("zh")) if not re.search("[\u4e00-\u9fff]", text)}
    assert left_english <= {"CLIP", "VAE", "vae", "cfg", "Latent"}


def test_server_hands_both_languages_to_the_page(server: ComfyClient) -> None:
    served = server.get("/i18n")
    for language in LANGUAGES:
        assert served[language]["nodeDefs"].items() >= texts(language).items()
        assert served[language]["dataTypes"]["CONTEXT"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_node_has_a_help_page_with_every_input_output_and_a_picture(language: str, nodes: dict[str, Any], server: ComfyClient) -> None:
    for name, node in nodes.items():
        path = f"/extensions/ComfyUI-LazyDiffusion/docs/{name}{LANGUAGES[language]}"
        page = server.request(path).decode()
        rows = " ".join(line.split("|")[1] for line in page.splitlines() if line.startswith("|"))
        for words in (*described(node)["inputs"], *node["output_name"]):
            assert words == "control_after_generate" or re.search(rf"\b{words}\b", rows), f"{path} does not explain {words}"
        pictures = re.findall(r"!\[[^]]+\]\((\S+)\)", page)
        assert pictures, path
        for picture in pictures:  # the page looks them up from docs/, in every language
            assert server.request(f"/extensions/ComfyUI-LazyDiffusion/docs/{picture}") == (DOCS / picture).read_bytes()


@pytest.mark.parametrize("language", LANGUAGES)
def test_masks_polarity_is_repeated_where_a_mask_is_explained(language: str) -> None:
    for name in texts("en"):
        page = (DOCS / f"{name}{LANGUAGES[language]}").read_text(encoding="utf-8")
        if re.search(MASK[language], page):
            assert re.search(POLARITY[language], page), f"{name} ({language}) speaks of a mask and does not say that 1 is the hole"


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_template_uses_no_files_and_only_nodes_that_are_there(path: Path, server: ComfyClient) -> None:
    graph = json.loads(path.read_text(encoding="utf-8"))
    types = {node["type"] for node in graph["nodes"]} - {"MarkdownNote"}
    assert types <= server.object_info().keys()
    assert not {name for name in types if name.startswith("Load")}, "a template must run where nothing was uploaded"
    assert {"LazyModelLoader", "LazyEncodeContext", "LazyDecode"} <= types
    assert (path.with_suffix(".jpg")).is_file()
