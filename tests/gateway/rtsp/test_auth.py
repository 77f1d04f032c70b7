"""Digest and Basic: the RFCs' own examples, the choice among challenges, retries that end."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import AuthFailed, AuthUnsupported
from gateway.rtsp.auth import (
    Authenticator,
    Challenge,
    Verdict,
    digest_response,
    parse_challenges,
)
from gateway.rtsp.messages import Credentials

MUFASA = Credentials("Mufasa", "Circle of Life")
RFC7616 = (
    'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={}, '
    'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", '
    'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
)


def one(header: str) -> Challenge:
    (challenge,) = parse_challenges([header])
    return challenge


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_the_examples_of_rfc_7616(algorithm: str, expected: str) -> None:
    response = digest_response(
        one(RFC7616.format(algorithm)),
        MUFASA,
        "GET",
        "/dir/index.html",
        nc=1,
        cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
    )
    assert response == expected


def test_the_example_of_rfc_2617() -> None:
    challenge = one(
        'Digest realm="testrealm@host.com", qop="auth,auth-int", '
        'nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="5ccc069c403ebaf9f0171e9517f40e41"'
    )
    credentials = Credentials("Mufasa", "Circle Of Life")
    response = digest_response(
        challenge, credentials, "GET", "/dir/index.html", nc=1, cnonce="0a4f113b"
    )
    assert response == "6629fae49393a05397450978507c4ef1"


def test_without_qop_the_form_has_five_fields() -> None:
    """What most cameras ask for (RFC 2069)."""
    auth = Authenticator(MUFASA, lambda: "never")
    auth.challenged(['Digest realm="r", nonce="n"'], sent=False)
    value = auth.authorization("DESCRIBE", "rtsp://h/x")
    assert value is not None
    assert "qop" not in value and "cnonce" not in value and "nc=" not in value
    assert 'uri="rtsp://h/x"' in value


@pytest.mark.parametrize(
    ("headers", "chosen"),
    [
        (['Basic realm="x"', 'Digest realm="x", nonce="n"'], "Digest"),
        (['Digest realm="x", nonce="n"', 'Digest realm="x", nonce="m", algorithm=SHA-256'], "SHA"),
        (['Digest realm="x", nonce="n", algorithm=MD5, Basic realm="y"'], "Digest"),
        (['Digest realm="x", nonce="n", algorithm=SHA-512', 'Basic realm="y"'], "Basic"),
        (['Digest realm="x", nonce="n", qop="auth-int"', "Basic"], "Basic"),
        (['Digest realm="x"', "Basic realm=x"], "Basic"),  # no nonce
        (["Digest nonce=n,realm=r,algorithm=sha-256-SESS,qop=auth"], "SESS"),
    ],
)
def test_the_strongest_usable_challenge_is_answered(headers: list[str], chosen: str) -> None:
    auth = Authenticator(MUFASA, lambda: "c")
    assert auth.challenged(headers, sent=False) is Verdict.RETRY
    value = auth.authorization("OPTIONS", "rtsp://h/")
    assert value is not None and chosen in value


def test_basic() -> None:
    auth = Authenticator(Credentials("ü", "p:w"), lambda: "")
    auth.challenged(['Basic realm="x"'], sent=False)
    value = auth.authorization("OPTIONS", "rtsp://h/")
    assert value is not None
    assert base64.b64decode(value.removeprefix("Basic ")).decode() == "ü:p:w"


def test_nc_counts_the_requests_of_a_nonce() -> None:
    auth = Authenticator(MUFASA, lambda: "c")
    header = 'Digest realm="x", nonce="{}", qop="auth"'
    auth.challenged([header.format("a")], sent=False)
    values = [auth.authorization("OPTIONS", "rtsp://h/") for _ in range(2)]
    assert ["nc=00000001" in str(values[0]), "nc=00000002" in str(values[1])] == [True, True]
    auth.accepted()
    auth.challenged([header.format("b")], sent=True)
    assert "nc=00000001" in str(auth.authorization("OPTIONS", "rtsp://h/"))


def test_a_refusal_is_final_but_a_stale_nonce_is_none() -> None:
    """C3, A3: one failed login a connection."""
    header = 'Digest realm="x", nonce="{}"{}'
    auth = Authenticator(MUFASA, lambda: "c")
    assert auth.challenged([header.format("a", "")], sent=False) is Verdict.RETRY
    assert auth.challenged([header.format("a", "")], sent=True) is Verdict.REFUSED
    assert auth.challenged([header.format("b", "")], sent=True) is Verdict.REFUSED
    assert auth.challenged([header.format("c", ", stale=TRUE")], sent=True) is Verdict.RETRY
    auth.accepted()
    # Cameras that hand out a nonce a request and forget to say stale: fine once proven right.
    assert auth.challenged([header.format("d", "")], sent=True) is Verdict.RETRY
    assert auth.challenged([header.format("d", "")], sent=True) is Verdict.REFUSED


def test_what_cannot_be_answered_is_named() -> None:
    with pytest.raises(AuthUnsupported, match="sha-512"):
        Authenticator(MUFASA, str).challenged(['Digest nonce="n", algorithm=SHA-512'], sent=False)
    with pytest.raises(AuthUnsupported, match="nothing"):
        Authenticator(MUFASA, str).challenged([], sent=False)
    with pytest.raises(AuthFailed, match="none are configured"):
        Authenticator(None, str).challenged(["Basic"], sent=False)
    with pytest.raises(AuthUnsupported, match="Basic"):
        Authenticator(MUFASA, str, basic_allowed=False).challenged(["Basic"], sent=False)


@pytest.mark.parametrize(
    "header",
    [
        'Digest realm="a, b=\\"c\\"", nonce="n"',
        'Digest  realm = "a, b=\\"c\\"" ,, nonce=n ,',
        'Bogus,,Digest realm="a, b=\\"c\\"", nonce="n"',
        'Negotiate abc==, Digest realm="a, b=\\"c\\"", nonce="n"',
    ],
)
def test_odd_headers(header: str) -> None:
    challenge = next(c for c in parse_challenges([header]) if c.scheme == "digest")
    assert challenge.get("realm") == 'a, b="c"'
    assert challenge.get("nonce") == "n"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=80), max_size=3))
def test_any_header_parses(values: list[str]) -> None:
    for challenge in parse_challenges(values):
        assert challenge.strength >= 0


def test_a_hostile_header_takes_no_time() -> None:
    """16 KiB that match nothing are skipped word by word; quadratic would take minutes."""
    for text in (
        "a" * 16_000,
        '"' * 16_000,
        "=" * 16_000,
        "\\" * 16_000,
        'Digest a="' + "\\" * 16_000,
    ):
        parse_challenges([text])


def test_a_realm_cannot_smuggle_a_header() -> None:
    auth = Authenticator(Credentials("a\r\nX: y", 'p"'), lambda: "c")
    auth.challenged(['Digest realm="r", nonce="n"'], sent=False)
    value = auth.authorization("OPTIONS", "rtsp://h/")
    assert value is not None and "\r" not in value and "\n" not in value


def test_credentials_are_not_shown() -> None:
    auth = Authenticator(Credentials("user", "hunter2"), lambda: "c")
    assert "hunter2" not in repr(auth) and "user" not in repr(auth.credentials)
