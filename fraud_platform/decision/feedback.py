"""`POST /v1/feedback`: what a caller learned about a payment, sent back as a label.

What belongs here: what may be sent, and which payment it speaks of. What does not: the files and the lake (`ingest`).
"""

import asyncio
import re
import threading
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from math import ceil
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from fraud_platform.decision.answer import Answer
from fraud_platform.decision.problem import rate_limited, unknown_transaction
from fraud_platform.decision.quota import Quota
from fraud_platform.decision.request import InvalidRequest, decode_json, identity
from fraud_platform.features.catalogue import DAY
from fraud_platform.features.label_rules import LabelRules, counting
from fraud_platform.ingest.feedback import FeedbackLabel, FeedbackWriter
from fraud_platform.ingest.feedback_index import FeedbackIndex

OLDEST_DAYS = 730
"""A label speaks of a payment no older than this: disputes end long before, and each label makes the nightly run read
the history back to its payment."""

WAITING_RETRY_SECONDS = 3_600
"""When a caller with too many labels that wait may look again whether the nightly run has taken some up."""

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
        int, Meta(ge=1, le=1_000_000, description="Within a source the highest stands; of equal ones the latest.")
    ] = 1
    transaction_date: (
        Annotated[
            date,
            Meta(description="UTC day on which the payment was received; the decision's, where one is known."),
        ]
        | None
    ) = None
    comment: (
        Annotated[
            str, Meta(min_length=1, max_length=280, pattern=_PRINTABLE, description="For people; no personal data.")
        ]
        | None
    ) = None


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """The label that counts for the payment, of those that were sent here."""

    source: str
    revision: int
    state: str


class FeedbackAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The label as it was kept, and whether it counts."""

    feedback_id: str
    transaction_id: str
    transaction_date: date
    arrived_at: datetime
    source: str
    revision: int
    state: str
    counts: Annotated[
        str, Meta(description="`from the next nightly run`, or why not: outranked by …, waiting …, distrusted ….")
    ]
    standing: Annotated[
        Standing | None, Meta(description="Of the labels sent here on this payment, the one that counts.")
    ] = None
    sent_transaction_date: Annotated[
        date | None, Meta(description="The date that was sent, where your decision is of another: transaction_date.")
    ] = None


_decode = msgspec.json.Decoder(FeedbackRequest).decode


class FeedbackDesk:
    """Takes labels for one worker.

    decided_on: the UTC day on which a caller's payment was received, by caller, transaction_id and the day on which the
    caller believes it was (None: it does not say); None where no decision is known. clock: UTC microseconds.
    """

    def __init__(
        self,
        writer: FeedbackWriter,
        index: FeedbackIndex,
        decided_on: Callable[[str, str, date | None], Awaitable[date | None]],
        clock: Callable[[], int],
        *,
        rules: Callable[[], LabelRules] = LabelRules,
        per_minute: int = 600,
        most_waiting: int = 10_000,
        waiting_days: int = 60,
    ) -> None:
        self._writer = writer
        self._index = index
        self._decided_on = decided_on
        self._clock = clock
        self._rules = rules
        self._quota = Quota(per_minute, clock)
        self._per_minute = per_minute
        self._most_waiting = most_waiting
        self._waiting_days = waiting_days
        self._one_at_a_time = threading.Lock()

    async def take(self, body: bytes, caller: str) -> Answer:
        """Keep a label (JSON) and say so, 202. Raises MalformedBody, InvalidRequest, Problem 404, 429; OSError,
        sqlite3.Error if it could not be kept."""
        seconds = self._quota.take(caller)
        if seconds:
            raise rate_limited(f"one caller may send at most {self._per_minute} labels a minute", ceil(seconds))
        request = decode_json(_decode, body)
        transaction_id = identity("transaction_id", request.transaction_id)
        if request.comment is not None and _PERSONAL.search(request.comment):
            raise InvalidRequest("comment", "holds what looks like an e-mail address or a number of a person")
        now = self._clock()
        today = datetime.fromtimestamp(now // 1_000_000, UTC).date()
        given = request.transaction_date
        if given is not None and not today - timedelta(days=OLDEST_DAYS) <= given <= today:
            raise InvalidRequest("transaction_date", f"is in the future, or over {OLDEST_DAYS} days ago")
        decided = await self._decided_on(caller, transaction_id, given)
        paid = decided or given
        if paid is None:
            raise unknown_transaction("we keep no decision of yours on this payment; send its transaction_date as well")
        label = FeedbackLabel(
            feedback_id=uuid.uuid4().hex,
            caller=caller,
            transaction_id=transaction_id,
            transaction_date=paid,
            # another machine's clock may be a moment ahead: no label arrives before its payment's day
            arrived_at=max(now, (paid - _EPOCH.date()).days * DAY),
            source=request.source,
            revision=request.revision,
            state=request.state,
            comment=request.comment,
        )
        counts, standing = await asyncio.to_thread(self._keep, label, decided is None)
        return Answer(202, _answer(label, counts, standing, given if given != paid else None))

    def _keep(self, label: FeedbackLabel, waits: bool) -> tuple[str, FeedbackLabel | None]:
        """Write the label; whether it counts, in words, and which label of its payment does."""
        rules = self._rules()
        with self._one_at_a_time:
            if waits:
                self._refuse_too_many(label)
                self._writer.append(label, waits=True)
                return "waiting: no payment of yours with this id is known yet", None
            said = self._index.said(label.caller, label.transaction_id, label.transaction_date)
            self._writer.append(label)
        standing = counting([*said, label], rules)
        if counting([label], rules) is None:
            return "distrusted: labels like this one are left out", standing
        if standing is not label and standing is not None:
            return f"outranked by {standing.source} revision {standing.revision}", standing
        return "from the next nightly run", standing

    def _refuse_too_many(self, label: FeedbackLabel) -> None:
        waiting = self._index.waiting(label.caller, label.day - timedelta(days=self._waiting_days))
        if waiting >= self._most_waiting:
            raise rate_limited(
                f"{waiting} labels of yours wait for payments that are not known yet, and no more are accepted; the "
                "nightly run takes up those whose payments have come",
                WAITING_RETRY_SECONDS,
            )


def _answer(label: FeedbackLabel, counts: str, standing: FeedbackLabel | None, sent: date | None) -> bytes:
    fields = ("feedback_id", "transaction_id", "transaction_date", "source", "revision", "state")
    return msgspec.json.encode(
        FeedbackAnswer(
            **{name: getattr(label, name) for name in fields},
            arrived_at=_EPOCH + timedelta(microseconds=label.arrived_at),
            counts=counts,
            standing=None
            if standing is None
            else Standing(source=standing.source, revision=standing.revision, state=standing.state),
            sent_transaction_date=sent,
        )
    )
