"""CRC-32C bit by bit, as RFC 3720 appendix B.4 defines it."""

POLYNOMIAL = 0x82F63B78  # 0x1EDC6F41 with its bits reversed


def _byte(crc: int) -> int:
    for _ in range(8):
        crc = crc >> 1 ^ (POLYNOMIAL if crc & 1 else 0)
    return crc


_OF_BYTE = tuple(_byte(value) for value in range(256))


def crc32c(data: bytes, value: int = 0) -> int:
    crc = value ^ 0xFFFFFFFF
    for octet in data:
        crc = crc >> 8 ^ _OF_BYTE[(crc ^ octet) & 0xFF]
    return crc ^ 0xFFFFFFFF
