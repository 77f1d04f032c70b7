"""Authentication towards a camera: Basic (RFC 7617) and Digest (RFC 2617, RFC 7616).

Owns the choice among challenges, the digest and its counters. Never puts a credential anywhere but
into the Authorization header it returns (C2 to C5 of docs/design/rtsp.md).

- A1 The strongest usable challenge is chosen: SHA-256-sess, SHA-256, MD5-sess, MD5, Basic.
- A2 ``nc`` counts the requests of one nonce, from 1; a new nonce starts anew.
- A3 A refusal of credentials that were never accepted is final: cameras lock accounts.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from gateway.errors import AuthFailed, AuthUnsupported
from gateway.limits import AUTH_CHALLENGES_MAX
from gateway.rtsp.messages import Credentials

# Strength counts upwards; a key is the algorithm as compared, without case.
_STRENGTH = {"md5": 1, "md5-sess": 2, "sha-256": 3, "sha-256-sess": 4}
_HASHES: dict[str, Callable[[bytes], str]] = {
    "md5": lambda data: hashlib.md5(data, usedforsecurity=False).hexdigest(),
    "sha-256": lambda data: hashlib.sha256(data).hexdigest(),
}
_SCHEME = re.compile(r"([A-Za-z][\w-]*)(?=\s|$)\s*")
_WORD = re.compile(r"[^\s,]+|.", re.S)
_PARAMETER = re.compile(r'\s*([\w*-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,"]*)\s*')


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge: the scheme in lower case, its parameters with names in lower case."""

    scheme: str
    parameters: tuple[tuple[str, str], ...] = ()

    def get(self, name: str, default: str = "") -> str:
        """The first value of a parameter."""
        return next((value for key, value in self.parameters if key == name), default)

    @property
    def algorithm(self) -> str:
        """Of a digest, in lower case; MD5 if none is named (RFC 7616 section 3.3)."""
        return self.get("algorithm", "MD5").lower()

    @property
    def stale(self) -> bool:
        """The nonce was too old, not the password wrong."""
        return self.get("stale").lower() == "true"

    @property
    def qop(self) -> str | None:
        """``auth``, ``""`` for the form without qop, None if only what we cannot do is offered."""
        offered = {item.strip().lower() for item in self.get("qop").split(",")} - {""}
        if not offered:
            return ""
        return "auth" if "auth" in offered else None

    @property
    def strength(self) -> int:
        """0 = not usable."""
        if self.scheme == "basic":
            return 1
        if self.scheme == "digest" and self.get("nonce") and self.qop is not None:
            known = _STRENGTH.get(self.algorithm, 0)
            return 1 + known if known else 0
        return 0


def parse_challenges(values: Sequence[str]) -> tuple[Challenge, ...]:
    """All challenges of all WWW-Authenticate headers, in order; several may share a header."""
    found: list[Challenge] = []
    for value in values:
        found.extend(_parse_header(value))
    return tuple(found[:AUTH_CHALLENGES_MAX])


def _parse_header(value: str) -> list[Challenge]:
    found: list[tuple[str, list[tuple[str, str]]]] = []
    position = 0
    while position < len(value):
        parameter = _PARAMETER.match(value, position)
        scheme = _SCHEME.match(value, position)
        if parameter and found:
            found[-1][1].append((parameter[1].lower(), _unquote(parameter[2])))
            position = parameter.end()
        elif scheme:
            found.append((scheme[1].lower(), []))
            position = scheme.end()
        else:
            # What is neither is skipped as a whole: one odd word must not lock us out.
            position = _WORD.match(value, position).end()  # type: ignore[union-attr]
        while position < len(value) and value[position] in ", \t":
            position += 1
    return [Challenge(name, tuple(parameters)) for name, parameters in found]


def _unquote(text: str) -> str:
    if text.startswith('"'):
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


def digest_response(
    challenge: Challenge,
    credentials: Credentials,
    method: str,
    uri: str,
    *,
    nc: int = 0,
    cnonce: str = "",
) -> str:
    """The ``response`` of a digest in hex; the five-field form of RFC 2069 if qop is absent."""
    algorithm = challenge.algorithm.removesuffix("-sess")
    hexdigest = _HASHES[algorithm]
    nonce = challenge.get("nonce")

    def joined(*parts: str) -> str:
        return hexdigest(":".join(parts).encode("utf-8", "surrogateescape"))

    secret = joined(credentials.username, challenge.get("realm"), credentials.password)
    if challenge.algorithm.endswith("-sess"):
        secret = joined(secret, nonce, cnonce)
    action = joined(method, uri)
    if challenge.qop:
        return joined(secret, nonce, f"{nc:08x}", cnonce, challenge.qop, action)
    return joined(secret, nonce, action)


class Verdict(Enum):
    """What a 401 means."""

    RETRY = "retry"
    REFUSED = "refused"


@dataclass(slots=True)
class Authenticator:
    """The credentials of one connection and what the camera asked for last.

    ``make_cnonce`` gives fresh random text for every digest request. ``basic_allowed`` is False on
    a host that only a redirect named: Basic would hand it the password.
    """

    credentials: Credentials | None
    make_cnonce: Callable[[], str]
    basic_allowed: bool = True
    _challenge: Challenge | None = field(default=None, init=False)
    _nc: int = field(default=0, init=False)
    _accepted: bool = field(default=False, init=False)

    def authorization(self, method: str, uri: str) -> str | None:
        """The Authorization value of the next request, or None before the first challenge."""
        challenge = self._challenge
        if challenge is None or self.credentials is None:
            return None
        if challenge.scheme == "basic":
            pair = f"{self.credentials.username}:{self.credentials.password}".encode()
            return "Basic " + base64.b64encode(pair).decode("ascii")
        return self._digest(challenge, self.credentials, method, uri)

    def accepted(self) -> None:
        """A request that carried credentials was answered with something other than 401."""
        self._accepted = self._accepted or self._challenge is not None

    def challenged(self, values: Sequence[str], *, sent: bool) -> Verdict:
        """Take the WWW-Authenticate values of a 401; ``sent``: the request carried credentials.

        RETRY: send the request again. REFUSED: the credentials are wrong (A3). Raises
        AuthUnsupported if no challenge can be answered, AuthFailed if there are no credentials.
        """
        challenges = parse_challenges(values)
        usable = [c for c in challenges if c.strength and self._allowed(c)]
        if not usable:
            offered = ", ".join(_describe(c) for c in challenges) or "nothing"
            raise AuthUnsupported(
                f"the camera asks for credentials by {offered}; none of it can be answered",
                remedy="enable Digest (MD5 or SHA-256) or Basic authentication for RTSP",
            )
        if self.credentials is None:
            raise AuthFailed(
                "the camera asks for credentials and none are configured",
                remedy="put them into the URL: rtsp://user:password@host/path",
            )
        best = max(usable, key=lambda c: c.strength)
        before = self._challenge
        if sent and before is not None:
            same_nonce = before.get("nonce") == best.get("nonce")
            if not best.stale and (same_nonce or not self._accepted):
                return Verdict.REFUSED
        if before is None or before.get("nonce") != best.get("nonce"):
            self._nc = 0
        self._challenge = best
        return Verdict.RETRY

    def _allowed(self, challenge: Challenge) -> bool:
        return challenge.scheme != "basic" or self.basic_allowed

    def _digest(self, challenge: Challenge, credentials: Credentials, method: str, uri: str) -> str:
        self._nc += 1
        cnonce = self.make_cnonce()
        response = digest_response(challenge, credentials, method, uri, nc=self._nc, cnonce=cnonce)
        fields = [
            f"username={_quote(credentials.username)}",
            f"realm={_quote(challenge.get('realm'))}",
            f"nonce={_quote(challenge.get('nonce'))}",
            f"uri={_quote(uri)}",
            f'response="{response}"',
        ]
        if challenge.get("algorithm"):
            fields.append(f"algorithm={_one_line(challenge.get('algorithm'))}")
        if challenge.qop:
            fields += [f"qop={challenge.qop}", f"nc={self._nc:08x}"]
        if challenge.qop or challenge.algorithm.endswith("-sess"):
            fields.append(f'cnonce="{cnonce}"')
        if any(name == "opaque" for name, _ in challenge.parameters):
            fields.append(f"opaque={_quote(challenge.get('opaque'))}")
        return "Digest " + ", ".join(fields)


def _describe(challenge: Challenge) -> str:
    if challenge.scheme == "digest":
        return f"Digest {challenge.algorithm} qop={challenge.get('qop') or 'none'}"
    return challenge.scheme.capitalize()


def _one_line(text: str) -> str:
    """A realm or nonce goes back as it came, but never as two lines."""
    return text.replace("\r", "").replace("\n", "")


def _quote(text: str) -> str:
    escaped = _one_line(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
