"""SHA-256 from the definition in FIPS 180-4: constants out of primes, no tables, no library."""

from math import isqrt

WORD = 0xFFFFFFFF


def _primes(count: int) -> list[int]:
    found: list[int] = []
    candidate = 2
    while len(found) < count:
        if all(candidate % prime for prime in found):
            found.append(candidate)
        candidate += 1
    return found


def _cube_root(n: int) -> int:
    low, high = 0, 1 << (n.bit_length() // 3 + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**3 <= n else (low, middle - 1)
    return low


# The first 32 bits of the fractional parts of square and cube roots of the first primes.
INITIAL = [isqrt(p << 64) & WORD for p in _primes(8)]
K = [_cube_root(p << 96) & WORD for p in _primes(64)]


def _rotate(x: int, n: int) -> int:
    return (x >> n | x << (32 - n)) & WORD


def _compress(state: list[int], block: bytes) -> list[int]:
    w = [int.from_bytes(block[i : i + 4]) for i in range(0, 64, 4)]
    for t in range(16, 64):
        x, y = w[t - 15], w[t - 2]
        sigma0 = _rotate(x, 7) ^ _rotate(x, 18) ^ x >> 3
        sigma1 = _rotate(y, 17) ^ _rotate(y, 19) ^ y >> 10
        w.append((w[t - 16] + sigma0 + w[t - 7] + sigma1) & WORD)
    a, b, c, d, e, f, g, h = state
    for t in range(64):
        big1 = _rotate(e, 6) ^ _rotate(e, 11) ^ _rotate(e, 25)
        big0 = _rotate(a, 2) ^ _rotate(a, 13) ^ _rotate(a, 22)
        t1 = h + big1 + ((e & f) ^ (~e & g)) + K[t] + w[t]
        t2 = big0 + ((a & b) ^ (a & c) ^ (b & c))
        a, b, c, d, e, f, g, h = (t1 + t2) & WORD, a, b, c, (d + t1) & WORD, e, f, g
    return [(x + y) & WORD for x, y in zip(state, (a, b, c, d, e, f, g, h), strict=True)]


def sha256(data: bytes) -> bytes:
    padded = data + b"\x80" + bytes(-(len(data) + 9) % 64) + (8 * len(data)).to_bytes(8)
    state = INITIAL
    for at in range(0, len(padded), 64):
        state = _compress(state, padded[at : at + 64])
    return b"".join(word.to_bytes(4) for word in state)
