"""What the page reads from the pack: names and tooltips in two languages, help pages, templates. No browser needed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy_client import ComfyClient
from templates import COMPLETE, LOADING, NEED_FILES, TEMPLATES, files_of, graph_of

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "web" / "docs"
LANGUAGES = {"en": ".md", "zh": "/zh.md"}
POLARITY = {"en": r"1 (\(white\) )?= hole", "zh": r"1(（白）)? ?= ?空洞"}
FOLDERS = {
    "UNETLoader": "diffusion_models",
    "DualCLIPLoader": "text_encoders",
    "CLIPLoader": "text_encoders",
    "VAELoader": "vae",
}
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
def test_each_node_has_a_help_page_with_every_input_output_and_a_picture(
    language: str, nodes: dict[str, Any], server: ComfyClient
) -> None:
    for name, node in nodes.items():
        path = f"/extensions/ComfyUI-LazyDiffusion/docs/{name}{LANGUAGES[language]}"
        page = server.request(path).decode()
        rows = " ".join(line.split("|")[1] for line in page.splitlines() if line.startswith("|"))
        for words in (*described(node)["inputs"], *node["output_name"]):
            assert words == "control_after_generate" or re.search(rf"\b{words}\b", rows), (
                f"{path} does not explain {words}"
            )
        pictures = re.findall(r"!\[[^]]+\]\((\S+)\)", page)
        assert pictures, path
        for picture in pictures:  # the page looks them up from docs/, in every language
            assert server.request(f"/extensions/ComfyUI-LazyDiffusion/docs/{picture}") == (DOCS / picture).read_bytes()


@pytest.mark.parametrize("language", LANGUAGES)
def test_masks_polarity_is_repeated_where_a_mask_is_explained(language: str) -> None:
    for name in texts("en"):
        page = (DOCS / f"{name}{LANGUAGES[language]}").read_text(encoding="utf-8")
        if re.search(MASK[language], page):
            assert re.search(POLARITY[language], page), (
                f"{name} ({language}) speaks of a mask and does not say that 1 is the hole"
            )


def types_of(name: str) -> set[str]:
    return {node["type"] for node in graph_of(name)["nodes"]} - {"MarkdownNote"}


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_uses_only_nodes_that_are_there(name: str, server: ComfyClient) -> None:
    types = types_of(name)
    assert types <= server.object_info().keys()
    assert {"LazyEncodeContext", "LazyDecode"} <= types
    assert (ROOT / "workflows" / f"{name}.jpg").is_file()


@pytest.mark.parametrize("name", COMPLETE)
def test_template_runs_where_nothing_was_uploaded(name: str) -> None:
    assert "LazyModelLoader" in types_of(name)
    assert not {kind for kind in types_of(name) if kind.startswith("Load")}


@pytest.mark.parametrize("name", LOADING)
def test_template_for_other_checkpoints_or_masks_starts_from_the_hosts_own_picture(name: str, host: Path) -> None:
    [picture] = {node["widgets_values"][0] for node in graph_of(name)["nodes"] if node["type"] == "LoadImage"}
    assert (host / "input" / picture).is_file()


def box_of(node: dict[str, Any]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a node with its title."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - 30, x + width, y + height


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_has_room_for_its_nodes_and_their_lines(name: str) -> None:
    """No two nodes are nearer than 10 px, and below a line that may wrap there is room for another."""
    nodes = graph_of(name)["nodes"]
    for index, node in enumerate(nodes):
        left, top, right, bottom = box_of(node)
        bottom += 15 if node["type"] in ("LazyEncodeContext", "LazyDecode") else 0
        for other in nodes[:index] + nodes[index + 1 :]:
            l, t, r, b = box_of(other)  # noqa: E741
            assert right + 10 <= l or r + 10 <= left or bottom + 10 <= t or b + 10 <= top, (node["id"], other["id"])


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_passes_the_canvas_on_where_an_edit_is_bypassed(name: str) -> None:
    """Lazy Decode's `image` is what its Encode Context gets."""
    graph = graph_of(name)
    nodes, links = {node["id"]: node for node in graph["nodes"]}, {link[0]: link for link in graph["links"]}

    def source(node: dict[str, Any], wanted: str) -> tuple[int, int]:
        _, origin, slot, *_ = links[next(entry["link"] for entry in node["inputs"] if entry["name"] == wanted)]
        return origin, slot

    for decode in [node for node in nodes.values() if node["type"] == "LazyDecode"]:
        encode = nodes[source(decode, "context")[0]]
        while encode["type"] != "LazyEncodeContext":
            encode = nodes[source(encode, "context")[0]]
        assert source(decode, "image") == source(encode, "image")


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_groups_are_named_in_chinese_too(name: str) -> None:
    assert [
        group["title"] for group in graph_of(name)["groups"] if not re.search("[\u4e00-\u9fff]", group["title"])
    ] == []


def test_every_message_has_a_sentence_in_both_languages() -> None:
    codes = re.findall(r'^    "(\w+)",', (ROOT / "nodes" / "messages.py").read_text(encoding="utf-8"), re.MULTILINE)
    page = (ROOT / "web" / "js" / "messages.js").read_text(encoding="utf-8")
    tables = dict(re.findall(r"^  (en|zh): \{\n(.*?)^  \},", page, re.MULTILINE | re.DOTALL))
    assert codes and tables.keys() == {"en", "zh"}
    for table in tables.values():
        assert sorted(re.findall(r"^    (\w+):", table, re.MULTILINE)) == sorted(codes)


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_names_every_file_to_download(name: str) -> None:
    """In a note, below its folder and with its address, and where the page looks for what is missing."""
    nodes = graph_of(name)["nodes"]
    note = "\n".join(node["widgets_values"][0] for node in nodes if node["type"] == "MarkdownNote")
    sections = dict(re.findall(r"\*\*ComfyUI/models/(\w+)\*\*\n((?:- .*\n)+)", note))
    loaders = [node for node in nodes if files_of(node)]
    assert [node["type"] for node in loaders] == [kind for kind in FOLDERS if kind in types_of(name)]
    assert bool(loaders) == (name in NEED_FILES)
    for node in loaders:
        models = node["properties"]["models"]
        assert [model["name"] for model in models] == files_of(node)
        for model in models:
            assert model["directory"] == FOLDERS[node["type"]]
            page, path = model["url"].split("/resolve/main/")
            assert re.fullmatch(r"https://huggingface\.co/[\w.-]+/[\w.-]+", page)
            assert path.split("/")[-1] == model["name"]
            lines = sections[model["directory"]].splitlines()
            assert any(
                line.startswith(f"- [{model['name']}]({model['url']})") and f"]({page})" in line for line in lines
            )
