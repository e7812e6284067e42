"""How does an image become a file that every browser shows?

Written by hand, so that a report needs no library of images. This module knows no data set.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

MAX_SIDE = 64  # pixels; of a larger image every second, third, ... is kept
_COLOURS = {1: 0, 3: 2}  # of PNG: greyscale and RGB


def png(image: np.ndarray) -> bytes:
    """An image [height, width, channels], of bytes or of floats from 0 to 1, as a PNG of at most
    `MAX_SIDE` pixels a side. One channel is grey, three are RGB; of others the first is shown.

    Source: Portable Network Graphics, third edition, W3C 2025.
    """
    step = -(-max(image.shape[:2]) // MAX_SIDE)
    pixels = image[::step, ::step]
    if pixels.dtype.kind == "f":
        pixels = np.rint(pixels.clip(0, 1) * 255)
    if pixels.shape[2] not in _COLOURS:
        pixels = pixels[..., :1]
    height, width, channels = pixels.shape
    lines = b"".join(b"\0" + line.tobytes() for line in pixels.astype(np.uint8))  # 0: unfiltered
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOURS[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*each) for each in chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)
