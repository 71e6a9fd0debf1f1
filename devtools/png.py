"""Read the PNG files that ComfyUI writes, with the standard library alone."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from .problem import Problem

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # colour type -> bytes a pixel at 8 bits


@dataclass(frozen=True)
class Picture:
    """`pixels` are rows from the top, `channels` bytes for each pixel."""

    width: int
    height: int
    channels: int
    pixels: bytes

    def pixel(self, index: int) -> bytes:
        return self.pixels[index * self.channels : (index + 1) * self.channels]


def read_png(data: bytes) -> Picture:
    """Decode an 8-bit PNG without interlacing or palette. Raises Problem for anything else."""
    chunks = list(read_chunks(data)) if data.startswith(SIGNATURE) else []
    header = next((body for name, body in chunks if name == b"IHDR"), b"")
    width, height, depth, colour, _, _, interlace = (
        struct.unpack(">IIBBBBB", header) if len(header) == 13 else (0, 0, 0, 0, 0, 0, 0)
    )
    if depth != 8 or colour not in CHANNELS or interlace:
        raise Problem(
            f"ComfyUI answered with a picture that is no plain 8-bit PNG ({depth} bits, colour type {colour})."
        )
    raw = zlib.decompress(b"".join(body for name, body in chunks if name == b"IDAT"))
    return Picture(width, height, CHANNELS[colour], unfilter(raw, width * CHANNELS[colour], CHANNELS[colour]))


def read_chunks(data: bytes):
    position = len(SIGNATURE)
    while position + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, position)
        yield name, data[position + 8 : position + 8 + size]
        position += size + 12


def unfilter(raw: bytes, stride: int, step: int) -> bytes:
    """Undo the filter of every row; `stride` bytes a row, `step` bytes a pixel (PNG specification, section 9)."""
    pixels = bytearray()
    above = bytearray(stride)
    for start in range(0, len(raw), stride + 1):
        kind, row = raw[start], bytearray(raw[start + 1 : start + 1 + stride])
        for i in range(stride) if kind else ():
            left, corner = (row[i - step], above[i - step]) if i >= step else (0, 0)
            row[i] = (row[i] + predict(kind, left, above[i], corner)) & 255
        pixels += row
        above = row
    return bytes(pixels)


def predict(kind: int, left: int, up: int, corner: int) -> int:
    if kind == 1:
        return left
    if kind == 2:
        return up
    if kind == 3:
        return (left + up) // 2
    distances = [
        (abs(up - corner), left),
        (abs(left - corner), up),
        (abs(left + up - 2 * corner), corner),
    ]  # kind 4: Paeth
    return min(distances, key=lambda pair: pair[0])[1]


def same_outside(canvas: Picture, result: Picture, mask: Picture) -> bool:
    """Whether the two pictures agree in every pixel that is black in `mask`."""
    if not (canvas.width, canvas.height) == (result.width, result.height) == (mask.width, mask.height):
        return False
    keep = [i for i in range(canvas.width * canvas.height) if not any(mask.pixel(i)[:3])]
    return all(canvas.pixel(i)[:3] == result.pixel(i)[:3] for i in keep)
