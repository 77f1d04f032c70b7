"""Slow twin of cext.interleaved: the whole connection at once, as a list of what came."""

import re

MESSAGE_BYTES_MAX = 65536


class Broken(Exception):
    """The bytes at ``offset`` break a rule."""

    def __init__(self, offset: int) -> None:
        super().__init__(offset)
        self.offset = offset


Frame = tuple[int, bytes]  # channel, payload


def demultiplex(data: bytes) -> tuple[list[Frame | bytes], int | None]:
    """Frames and messages in order; and where the first rule is broken, if one is."""
    out: list[Frame | bytes] = []
    at = 0
    while at < len(data):
        first = data[at : at + 1]
        if first == b"$":
            if len(data) - at < 4:
                break
            length = int.from_bytes(data[at + 2 : at + 4], "big")
            if len(data) - at - 4 < length:
                break
            out.append((data[at + 1], data[at + 4 : at + 4 + length]))
            at += 4 + length
        elif first in (b"\r", b"\n"):
            at += 1
        elif first.isalpha():
            try:
                message = _message(data, at)
            except Broken as error:
                return out, error.offset
            if message is None:
                break
            out.append(message)
            at += len(message)
        else:
            return out, at
    return out, None


def _message(data: bytes, at: int) -> bytes | None:
    text = data[at : at + MESSAGE_BYTES_MAX]
    end = re.search(rb"\n\r?\n", text)
    head = text[: end.end()] if end else text
    if bad := re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", head):
        raise Broken(at + bad.start())
    if end is None:
        if len(text) == MESSAGE_BYTES_MAX:
            raise Broken(at)
        return None
    lengths = set()
    for line in head.split(b"\n"):
        name, colon, value = line.partition(b":")
        if colon and name.rstrip(b" \t").lower() == b"content-length":
            if not re.fullmatch(rb"[ \t]*[0-9]+[ \t\r]*", value):
                raise Broken(at)
            lengths.add(int(value))
    if len(lengths) > 1:
        raise Broken(at)
    total = len(head) + (lengths.pop() if lengths else 0)
    if total > MESSAGE_BYTES_MAX:
        raise Broken(at)
    return data[at : at + total] if len(data) - at >= total else None
