"""Read files out of pinned packages without installing them: Debian's .deb, Python's wheels, Qt's .rcc resources."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

QT_COMPRESSED, QT_FOLDER = 1, 2  # flags of an entry of a Qt resource file


def deb_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of each regular file that a .deb installs; names without the leading "./".

    A .deb is an `ar` archive (man 5 deb) whose member data.tar.* holds the files. Raises ValueError for anything else.
    """
    content = path.read_bytes()
    if content[:8] != b"!<arch>\n":
        raise ValueError(f"{path} is no Debian package: it begins with {content[:8]!r}. Delete it and run again.")
    at = 8
    while at < len(content):
        name, size = content[at : at + 16].decode().strip(), int(content[at + 48 : at + 58])
        if name.startswith("data.tar"):
            with tarfile.open(fileobj=io.BytesIO(content[at + 60 : at + 60 + size])) as archive:
                for member in archive:
                    if member.isfile() and (file := archive.extractfile(member)) is not None:
                        yield member.name.removeprefix("./"), file.read()
        at += 60 + size + size % 2


def wheel_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of each file in a wheel."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            yield name, archive.read(name)


def rcc_files(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) of each file in a Qt binary resource file, uncompressed or with zlib (Qt's `rcc --binary`).

    Raises ValueError for anything else.
    """
    magic, version, tree, data, names = struct.unpack(">4siiii", content[:20])
    if magic != b"qres":
        raise ValueError(f"no Qt resource file: it begins with {magic!r}, expected b'qres'.")
    entry = 14 if version < 2 else 22

    def walk(index: int, folder: str) -> Iterator[tuple[str, bytes]]:
        at = tree + index * entry
        name_at, flags, first, second = struct.unpack(">IHII", content[at : at + 14])
        length = struct.unpack(">H", content[names + name_at : names + name_at + 2])[0]
        name = content[names + name_at + 6 : names + name_at + 6 + 2 * length].decode("utf-16-be")
        if flags & QT_FOLDER:
            for child in range(second, second + first):
                yield from walk(child, f"{folder}{name}/" if index else "")
            return
        start = data + struct.unpack(">I", content[at + 10 : at + 14])[0]
        size = struct.unpack(">I", content[start : start + 4])[0]
        raw = content[start + 4 : start + 4 + size]
        yield folder + name, zlib.decompress(raw[4:]) if flags & QT_COMPRESSED else raw

    return walk(0, "")
