"""ICC profiles written byte by byte, after the specification (ICC.1:2001-04)."""

from __future__ import annotations

import struct

ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)), 563 / 256
DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)), 2.2
PROPHOTO = ((0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00009, 0.82491)), 1.8
"""XYZ coordinates of red, green and blue under D50, and the common exponent."""
_D50 = (0.9642, 1.0, 0.8249)


def rgb(primaries: tuple[tuple[float, ...], ...], gamma: float) -> bytes:
    """Return an RGB profile with these primaries and exponent."""
    named = {f"{name}XYZ".encode(): _xyz(place) for name, place in zip("rgb", primaries, strict=True)}
    return _profile(b"mntr", b"RGB ", b"XYZ ", named | {f"{name}TRC".encode(): _curve(gamma) for name in "rgb"})


def grey(gamma: float) -> bytes:
    """Return a grayscale profile."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": _curve(gamma)})


def ink() -> bytes:
    """Return a CMYK profile: a table of the CIELAB values of all combinations of no and full ink."""
    full = [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    lab = [(max(0, 240 - 60 * (c + m + y) - 200 * k), 128 + 60 * (m - c), 128 + 60 * (y - m)) for c, m, y, k in full]
    identity = bytes(range(256))
    one = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + one + identity * 4 + bytes(sum(lab, ())) + identity * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table})


def _xyz(place: tuple[float, ...]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(65536 * value) for value in place))


def _curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IHH", 1, round(256 * gamma), 0)


def _profile(kind: bytes, space: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags = {b"desc": text + bytes(-len(text) % 4), b"wtpt": _xyz(_D50), **tags}
    place, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", place + len(body), len(content))
        body += content
    header = struct.pack(">I4sI4s4s4s", place + len(body), bytes(4), 0x02400000, kind, space, pcs)
    header += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    header += struct.pack(">3i", *(round(65536 * value) for value in _D50))
    return header.ljust(128, b"\0") + table + body
