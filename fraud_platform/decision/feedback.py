"""`POST /v1/feedback`: what a caller learned about a payment, sent back as a label.

What belongs here: what may be sent, and which payment it speaks of. What does not: the files and the lake (`ingest`).
"""

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from fraud_platform.decision.answer import Answer
from fraud_platform.decision.problem import unknown_transaction
from fraud_platform.decision.request import InvalidRequest, decode_json
from fraud_platform.ingest.feedback import FeedbackLabel, FeedbackWriter

OLDEST_DAYS = 730
"""A label speaks of a payment no older than this: disputes end long before, and each label makes the nightly run read
the history back to its payment."""

_PERSONAL = re.compile(r"@|\d(?:[ .-]?\d){8,}")
"""An address for mail, or digits as long as an account's, a card's or a telephone's number."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PRINTABLE = r"^[^\x00-\x1f\x7f]+$"


class FeedbackRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A label on one payment."""

    transaction_id: Annotated[str, Meta(min_length=1, max_length=128, pattern=_PRINTABLE, description="As decided.")]
    state: Annotated[
        Literal["suspected", "confirmed", "disputed", "cleared"],
        Meta(description="confirmed and disputed count as fraud, cleared as good, suspected as not known yet."),
    ]
    source: Annotated[
        str, Meta(pattern="^[a-z][a-z0-9_]{0,31}$", description="Who says so: investigator, chargeback, customer, …")
    ] = "feedback"
    revision: Annotated[
        int, Meta(ge=1, le=1_000_000, description="The highest that has arrived counts; of equal ones the latest.")
    ] = 1
    transaction_date: (
        Annotated[date, Meta(description="UTC day on which the payment was received; looked up where it is absent.")]
        | None
    ) = None
    comment: (
        Annotated[
            str, Meta(min_length=1, max_length=280, pattern=_PRINTABLE, description="For people; no personal data.")
        ]
        | None
    ) = None


class FeedbackAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The label as it was kept. It counts from the nightly run after its day of arrival."""

    feedback_id: str
    transaction_id: str
    transaction_date: date
    arrived_at: datetime
    source: str
    revision: int
    state: str


_decode = msgspec.json.Decoder(FeedbackRequest).decode


class FeedbackDesk:
    """Takes labels for one worker.

    decided_on: the UTC day on which a caller's payment was received, by caller and transaction_id, None where nothing
    is known of it. clock: UTC microseconds.
    """

    def __init__(
        self,
        writer: FeedbackWriter,
        decided_on: Callable[[str, str], Awaitable[date | None]],
        clock: Callable[[], int],
    ) -> None:
        self._writer = writer
        self._decided_on = decided_on
        self._clock = clock

    async def take(self, body: bytes, caller: str) -> Answer:
        """Keep a label (JSON) and say so, 202. Raises MalformedBody, InvalidRequest, Problem 404; OSError if it could
        not be kept."""
        request = decode_json(_decode, body)
        if request.comment is not None and _PERSONAL.search(request.comment):
            raise InvalidRequest("comment", "holds what looks like an e-mail address or a number of a person")
        arrived_at = self._clock()
        label = FeedbackLabel(
            feedback_id=uuid.uuid4().hex,
            caller=caller,
            transaction_id=request.transaction_id,
            transaction_date=await self._transaction_date(request, caller, arrived_at),
            arrived_at=arrived_at,
            source=request.source,
            revision=request.revision,
            state=request.state,
            comment=request.comment,
        )
        await asyncio.to_thread(self._writer.append, label)
        return Answer(202, _answer(label))

    async def _transaction_date(self, request: FeedbackRequest, caller: str, now: int) -> date:
        today = datetime.fromtimestamp(now // 1_000_000, UTC).date()
        given = request.transaction_date
        if given is not None:
            if not today - timedelta(days=OLDEST_DAYS) <= given <= today:
                raise InvalidRequest("transaction_date", f"is in the future, or over {OLDEST_DAYS} days ago")
            return given
        found = await self._decided_on(caller, request.transaction_id)
        if found is None:
            raise unknown_transaction("no decision of yours on it is kept; send its transaction_date as well")
        return found


def _answer(label: FeedbackLabel) -> bytes:
    return msgspec.json.encode(
        FeedbackAnswer(
            feedback_id=label.feedback_id,
            transaction_id=label.transaction_id,
            transaction_date=label.transaction_date,
            arrived_at=_EPOCH + timedelta(microseconds=label.arrived_at),
            source=label.source,
            revision=label.revision,
            state=label.state,
        )
    )
