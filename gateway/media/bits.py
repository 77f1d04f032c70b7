"""A bit reader for the raw byte sequence payload of a NAL unit (H.264 section 7.2, H.265 9.2).

Owns reading only. Every read past the end is a BitstreamError with the bit's offset; nothing is
returned for bits that are not there.
"""

from __future__ import annotations

from gateway.errors import BitstreamError

EXP_GOLOMB_ZEROS_MAX = 32  # ue(v) of H.264 and H.265 ends at 2**32 - 2


def unescape(nal: bytes) -> bytes:
    """Without emulation prevention bytes: 00 00 03 becomes 00 00 (H.264 section 7.4.1.1)."""
    if b"\x00\x00\x03" not in nal:
        return nal
    out = bytearray()
    position = 0
    while (found := nal.find(b"\x00\x00\x03", position)) >= 0:
        out += nal[position : found + 2]
        position = found + 3
    return bytes(out + nal[position:])


class BitReader:
    """Bits of ``data``, most significant first, from bit ``position`` on."""

    __slots__ = ("_size", "_value", "position")

    def __init__(self, data: bytes, position: int = 0) -> None:
        self._value = int.from_bytes(data, "big")
        self._size = 8 * len(data)
        self.position = position

    def bits(self, count: int) -> int:
        """The next ``count`` bits as an unsigned number."""
        end = self.position + count
        if end > self._size:
            raise BitstreamError(self.position, f"{count} bits wanted, the data ends")
        value = (self._value >> (self._size - end)) & ((1 << count) - 1)
        self.position = end
        return value

    def flag(self) -> bool:
        """One bit."""
        return self.bits(1) == 1

    def skip(self, count: int) -> None:
        """Pass over ``count`` bits, which must be there."""
        self.bits(count)

    def ue(self, maximum: int, name: str) -> int:
        """An unsigned Exp-Golomb code of at most ``maximum``; ``name`` is for the error."""
        start = self.position
        zeros = 0
        while not self.flag():
            zeros += 1
            if zeros > EXP_GOLOMB_ZEROS_MAX:
                raise BitstreamError(start, f"{name} is no Exp-Golomb code")
        value = (1 << zeros) - 1 + self.bits(zeros)
        if value > maximum:
            raise BitstreamError(start, f"{name} is {value}, more than {maximum}")
        return value

    def se(self, name: str) -> int:
        """A signed Exp-Golomb code."""
        code = self.ue(2**32 - 2, name)
        return (code + 1) // 2 if code & 1 else -(code // 2)
