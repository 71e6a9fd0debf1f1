"""Does a CONTEXT saved under one ComfyUI decode under another? `python -m devtools.across HOST HOST`

Each host's server makes the first workflow's edit and saves its CONTEXT. Then each loads every file and decodes it: the
picture must be the one that this host made of its own CONTEXT, bit for bit.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from .client import Client, Prompt
from .demo import Outputs, fetch, load_workflow, only, save
from .graphs import node
from .host import check_host
from .png import Picture, read_png
from .problem import Problem
from .server import Server


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m devtools.across", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("hosts", nargs="+", type=Path, help="folders with ComfyUI's main.py")
    hosts = [check_host(host.absolute()) for host in parser.parse_args(argv).hosts]
    with tempfile.TemporaryDirectory() as folder:
        made = [made_by(host, Path(folder)) for host in hosts]
        differ = 0
        for host, (version, own, _) in zip(hosts, made, strict=True):
            with server_of(host, Path(folder)) as server:
                for origin, _, name in made:
                    same = decoded(server.client, name) == own
                    differ += not same
                    print(f"saved under {origin}, decoded under {version}: {'the same edit' if same else 'DIFFERS'}")
    return 1 if differ else 0


def made_by(host: Path, base: Path) -> tuple[str, Picture, str]:
    """-> the host's version, its edit, and the file of its CONTEXT."""
    prompt = load_workflow("1_first_edit")
    with server_of(host, base) as server:
        version = server.client.version()
        context = [only(prompt, "LazyEncodeContext"), 0]
        prompt["file"] = node("LazySaveContext", context=context, filename_prefix=f"across {version}")
        outputs = edited(server.client, prompt)
    return version, outputs[0], outputs[1]["file"]["lazydiffusion"][0]["file"]


def decoded(client: Client, name: str) -> Picture:
    """-> the first workflow's edit from a file instead of its *Encode Context*."""
    prompt = load_workflow("1_first_edit")
    encode, decode = only(prompt, "LazyEncodeContext"), only(prompt, "LazyDecode")
    prompt[encode] = node("LazyLoadContext", context_name=name)
    prompt[decode]["inputs"]["context"] = [encode, 0]
    return edited(client, prompt)[0]


def edited(client: Client, prompt: Prompt) -> tuple[Picture, Outputs]:
    """-> the picture of the prompt's one Lazy Decode, and all outputs."""
    save(prompt, "edit", [only(prompt, "LazyDecode"), 0])
    outputs = client.run(prompt)
    return read_png(fetch(client, outputs, "edit")), outputs


def server_of(host: Path, base: Path) -> Server:
    return Server(host, base, base / "server.log", python=Path(sys.executable))


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except Problem as problem:
        raise SystemExit(str(problem)) from None
