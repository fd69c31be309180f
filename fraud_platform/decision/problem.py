"""RFC 9457 problem documents: the one place where an error becomes an answer.

What belongs here: status, type and title per kind of error. What does not: HTTP transport.
"""

from datetime import datetime

import msgspec

CONTENT_TYPE = b"application/problem+json"
_URN = "urn:fraud-platform:problem:"


class Problem(Exception):  # noqa: N818 - named as RFC 9457 names it
    """An error that is answered as a problem document."""

    retry_after: int | None = None
    """Seconds after which it is worth trying again."""

    def __init__(
        self,
        status: int,
        kind: str,
        title: str,
        detail: str,
        field: str | None = None,
        earlier: "EarlierDecision | None" = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.document = ProblemDocument(
            _URN + kind, title, status, detail, field or msgspec.UNSET, earlier or msgspec.UNSET
        )

    def body(self) -> bytes:
        """The problem document, JSON."""
        return msgspec.json.encode(self.document)


class EarlierDecision(msgspec.Struct, frozen=True, kw_only=True):
    """The decision that stands under the transaction_id; fields as `/v1/predict` answers them."""

    decision_id: str
    decided_at: datetime
    decision: str
    reason: str
    score: float | None
    model_version: str
    policy_version: int


class ProblemDocument(msgspec.Struct, frozen=True):
    """An error, as RFC 9457 defines it; `field` names the field of the request that is wrong, `earlier` the decision
    that stands in its way."""

    type: str
    title: str
    status: int
    detail: str
    field: str | msgspec.UnsetType = msgspec.UNSET
    earlier: EarlierDecision | msgspec.UnsetType = msgspec.UNSET


def malformed(detail: str) -> Problem:
    """The body is not JSON."""
    return Problem(400, "malformed-body", "The body is not JSON", detail)


def bad_request(detail: str) -> Problem:
    """Not the HTTP that is spoken here."""
    return Problem(400, "bad-request", "The request cannot be read", detail)


def invalid(field: str | None, detail: str) -> Problem:
    """A field breaks the contract."""
    return Problem(422, "invalid-request", "The request breaks the contract", detail, field)


def unauthorized(detail: str) -> Problem:
    """Nobody is known by the key that was shown, or none was."""
    return Problem(401, "unauthorized", "An API key is needed", detail)


def forbidden(detail: str) -> Problem:
    """The key is good, and not for this."""
    return Problem(403, "forbidden", "The API key does not allow this", detail)


def foreign_page(detail: str) -> Problem:
    """A web page of somebody else, or one that came by a name which is not this machine's."""
    return Problem(403, "foreign-page", "Requests from other web pages are refused", detail)


def not_found(detail: str) -> Problem:
    """No such route."""
    return Problem(404, "not-found", "Not found", detail)


def unknown_transaction(detail: str) -> Problem:
    """No decision of the caller is kept under this transaction_id."""
    return Problem(404, "unknown-transaction", "No such decision", detail, "transaction_id")


def not_scored(detail: str) -> Problem:
    """The decision was made without a model, so there are no contributions."""
    return Problem(404, "not-scored", "No model made this decision", detail, "transaction_id")


def model_gone(detail: str) -> Problem:
    """The model that decided is no longer kept."""
    return Problem(410, "model-gone", "The model that decided is no longer kept", detail)


def method_not_allowed(detail: str) -> Problem:
    """The route exists, with another method."""
    return Problem(405, "method-not-allowed", "Method not allowed", detail)


def timed_out(detail: str) -> Problem:
    """The caller did not finish sending headers or body."""
    return Problem(408, "request-timeout", "The request did not arrive in time", detail)


def conflict(detail: str, field: str, earlier: EarlierDecision | None) -> Problem:
    """The transaction_id was decided for another payment, which differs in a field; earlier: None while it is being
    decided."""
    return Problem(409, "transaction-conflict", "The transaction_id is already in use", detail, field, earlier)


ALREADY_DECIDED = "already-decided"
CONTRADICTS_POLICY = "contradicts-policy"
_KEPT = frozenset(_URN + kind for kind in (ALREADY_DECIDED, CONTRADICTS_POLICY))


def is_kept(body: bytes) -> bool:
    """Whether the answer to a report is a problem that says that the log keeps it, though another decision stands:
    there is no use in sending it again."""
    try:
        return msgspec.json.decode(body, type=_Type).type in _KEPT
    except msgspec.MsgspecError:
        return False


class _Type(msgspec.Struct):
    type: str = ""


def already_decided(earlier: EarlierDecision) -> Problem:
    """A report on a payment that has a decision; what the report says was told is kept, and does not stand."""
    return Problem(
        409,
        ALREADY_DECIDED,
        "The payment has a decision",
        "the log keeps the report as superseded by this decision",
        "payment.transaction_id",
        earlier,
    )


def contradicts_policy(earlier: EarlierDecision) -> Problem:
    """A report that is more lenient than the policy that was in force, or the block list of now; the policy's decision
    stands."""
    return Problem(
        409,
        CONTRADICTS_POLICY,
        "The policy in force at that time is stricter",
        "the log keeps the report as superseded by the policy's decision",
        "decision",
        earlier,
    )


def policy_conflict(detail: str) -> Problem:
    """The policy is at another version than the one that the change was meant for."""
    return Problem(409, "policy-conflict", "The policy has changed meanwhile", detail, "expected_version")


def followed_policy(detail: str) -> Problem:
    """The policy is the first region's to change."""
    return Problem(409, "followed-policy", "The policy can be changed in the first region only", detail)


def too_large(limit: int) -> Problem:
    """The body is over the limit, in bytes."""
    return Problem(413, "body-too-large", "The body is too large", f"at most {limit} bytes are read")


def unsupported_media(detail: str) -> Problem:
    """The body is declared as something other than JSON."""
    return Problem(415, "unsupported-media-type", "Send application/json", detail)


def rate_limited(detail: str, retry_after: int | None = None) -> Problem:
    """More requests than one caller may send. retry_after: seconds."""
    problem = Problem(429, "rate-limited", "Too many requests", detail)
    problem.retry_after = retry_after
    return problem


def unavailable() -> Problem:
    """Something on our side failed; nothing of it is told to the caller."""
    return Problem(503, "unavailable", "No decision could be made", "an unexpected error; try again")
