"""Refusals: a code, the article it rests on, and what would make the request lawful.

Owns the table of codes. A refusal is an answer, not a fault: it goes to the requester and, by
whoever asked, to the audit log. No role overrides one. "Measure" is the Changzhou measure of 2014
on public-security video systems, "Reg-799" State Council Order 799.
"""

from __future__ import annotations

from gateway.errors import GatewayError

# code -> (article, remedy)
RULES: dict[str, tuple[str, str]] = {
    "PRIVATE_PLACE": (
        "measure art. 9; Reg-799 art. 8",
        "no camera may be installed there: take it down and report it to the police",
    ),
    "UNKNOWN_PLACE": (
        "measure art. 7",
        "use a place type of the vocabulary: `ringvault camera add --help` lists it",
    ),
    "NO_BASIS": (
        "measure art. 7(13)",
        "name the law or government decision that demands video there with --basis-doc",
    ),
    "NO_DOCUMENT": (
        "measure art. 24, 25(2); Reg-799 art. 16",
        "give the number of the document that was presented with --document",
    ),
    "ONE_PERSON_ONLY": (
        "measure art. 25(1)",
        "two different officials, each with a card of their own: give --official NAME:CARD twice",
    ),
    "DOC_INCOMPLETE": (
        "measure art. 25(2)",
        "give each official as NAME:CARD, both as on the work card",
    ),
    "OUT_OF_SCOPE": (
        "measure art. 24; Reg-799 art. 20",
        "ask for no more than the document covers",
    ),
    "CAPACITY": (
        "measure art. 21(7); Reg-799 art. 17",
        "add a volume, lower the bit rate, or record fewer cameras",
    ),
}


class Refused(GatewayError):
    """The law does not allow this. ``code`` is one of RULES, ``article`` what it rests on."""

    def __init__(self, code: str, message: str) -> None:
        article, remedy = RULES[code]
        super().__init__(message, remedy=remedy)
        self.code = code
        self.article = article
