"""Where the decision on a payment stands in Redis: first a claim, then the record, for a day.

What belongs here: names and scripts. What does not: sending them (`store`), what a record is (`inference_log`).
"""

import hashlib
from pathlib import Path

from fraud_platform import processing

LIFE_MS = processing.DUPLICATE_WINDOW_US // 1_000
"""A decision stands for 24 hours after it was made."""

CLAIM = b"claim:"
"""A claim is this and the body's hash; no record begins so."""

SETTLE_SCRIPT = (Path(__file__).parent / "settle.lua").read_text()
SETTLE_SHA = hashlib.sha1(SETTLE_SCRIPT.encode()).hexdigest().encode()
"""The name that Redis gives the script; no secret."""

CLAIM_SCRIPT = (Path(__file__).parent / "claim.lua").read_text()
CLAIM_SHA = hashlib.sha1(CLAIM_SCRIPT.encode()).hexdigest().encode()


def decision_key(caller: str, transaction_id: str, prefix: bytes = b"") -> bytes:
    """Key of the decision on a caller's payment. Callers' names hold no colon, or two could share a key; under the
    empty name stands whose a reported decision_id is (`decision.identity`)."""
    return b"%sfraud:decision:%s:%s" % (prefix, caller.encode(), transaction_id.encode())


def claim(content_hash: str) -> bytes:
    """What the first to decide a body puts at its key."""
    return CLAIM + content_hash.encode()
