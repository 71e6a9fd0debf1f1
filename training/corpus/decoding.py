"""Pictures and masks decoded in a process of its own: a library that crashes, hangs or takes all memory takes that
process alone.

`python -m training.decoding` is that process: it reads requests from its input and writes answers to its output, both
pickled.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import stat
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .segments import mask_of

ROOT = Path(__file__).resolve().parent.parent.parent
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
FILE = 256 << 20  # bytes of a picture's file
MASKS = 1 << 30  # pixels of all masks of a picture
LETTERS = 10_000  # of a caption
SECONDS = 60.0  # for one picture
MEMORY = 8 << 30  # bytes that the process may take


@dataclass(frozen=True)
class Instance:
    """The `number`-th annotation of its picture: an object's `mask` [H, W] bool, and what it is called, one or more
    captions."""

    number: int
    mask: np.ndarray
    captions: list[str]


@dataclass(frozen=True)
class Picture:
    name: str
    image: Image.Image
    instances: list[Instance]


@dataclass
class Skipped:
    """What was left out: `names` [(name, reason)] in the order they came."""

    names: list[tuple[str, str]] = field(default_factory=list)

    def add(self, name: str, reason: str) -> None:
        self.names.append((printable(name), reason))

    def counts(self) -> dict[str, int]:
        return dict(Counter(reason for _, reason in self.names))


def printable(name: str) -> str:
    """A file's name as it may stand in a line of text: halves of surrogates and control characters escaped, not too
    long."""
    text = name[:300].encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def regular(path: Path) -> bool:
    """Whether `path` is a file that ends: no pipe, no device. Raises OSError for none at all."""
    return stat.S_ISREG(path.stat().st_mode)


class Decoder:
    """`decode` in another process, which is started anew after it was lost."""

    def __init__(self, seconds: float = SECONDS):
        self.seconds = seconds
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def decode(self, name: str, data: bytes | Path, annotations: list[Any], skipped: Skipped) -> Picture | None:
        """As `decode` below; what ends or outlasts the process is skipped as well."""
        process = self.process or self.start()
        assert process.stdin and process.stdout
        late = threading.Event()
        timer = threading.Timer(self.seconds, lambda: (late.set(), process.kill()))
        timer.start()
        try:
            process.stdin.write(pickle.dumps((name, data.absolute() if isinstance(data, Path) else data, annotations)))
            process.stdin.flush()
            picture, found = pickle.load(process.stdout)
        except RecursionError:
            skipped.add(name, "no readable annotations")
            return None
        except (OSError, EOFError, pickle.UnpicklingError):
            self.stop()
            skipped.add(name, f"took longer than {self.seconds:g} s" if late.is_set() else "crashed its decoder")
            return None
        finally:
            timer.cancel()
        if late.is_set():
            self.stop()
        skipped.names += found
        return picture

    def start(self) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        arguments = [sys.executable, "-m", "training.decoding"]
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=environment
        )
        return self.process

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            with contextlib.suppress(OSError):
                process.communicate()


def decode(name: str, data: bytes | Path, annotations: list[Any], skipped: Skipped) -> Picture | None:
    """A picture with those of its annotations that have a mask and a caption; what is left out goes to `skipped`."""
    try:
        image = opened(data)
    except FileNotFoundError:
        skipped.add(name, "missing image")
        return None
    except OverflowError as error:
        skipped.add(name, str(error))
        return None
    except Exception:  # Pillow raises what its plug-ins raise: OSError, SyntaxError, struct.error, MemoryError, ...
        skipped.add(name, "broken image")
        return None
    instances, pixels = [], 0
    for number, entry in enumerate(annotations):
        reason, mask = (
            ("malformed annotation", None) if not isinstance(entry, dict) else ("more masks than memory", None)
        )
        if isinstance(entry, dict) and pixels + image.height * image.width <= MASKS:
            reason, mask = mask_of(entry.get("segmentation"), image.height, image.width)
        captions = captions_of(entry)
        if mask is None or not captions:
            skipped.add(f"{name}#{number}", reason or "no caption")
            continue
        pixels += mask.size
        instances.append(Instance(number, mask, captions))
    if not annotations:
        skipped.add(name, "no annotations")
    return Picture(name, image, instances) if instances else None


def opened(data: bytes | Path) -> Image.Image:
    """Raises OverflowError, with a sentence, for a file that is none or too large, and whatever Pillow raises."""
    if isinstance(data, Path) and not regular(data):
        raise OverflowError("no file, but a folder, a pipe or a device")
    if (len(data) if isinstance(data, bytes) else data.stat().st_size) > FILE:
        raise OverflowError(f"larger than {FILE >> 20} MB")
    with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS) as file:
        return file.convert("RGB")


def captions_of(entry: Any) -> list[str]:
    caption = entry.get("caption") if isinstance(entry, dict) else None
    return [text for text in (caption if isinstance(caption, list) else [caption]) if is_caption(text)]  # type: ignore


def is_caption(text: Any) -> bool:
    return (
        isinstance(text, str)
        and bool(text.strip())
        and len(text) <= LETTERS
        and not any("\ud800" <= c <= "\udfff" for c in text)
    )


def limit_memory() -> None:
    # Windows has no such limit, and what there is may be lower
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    limit_memory()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    requests = sys.stdin.buffer
    while True:
        try:
            name, data, annotations = pickle.load(requests)
        except EOFError:
            return
        skipped = Skipped()
        picture = decode(name, data, annotations, skipped)
        pickle.dump((picture, skipped.names), answers)
        answers.flush()
