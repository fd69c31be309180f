"""Whether enough has been learned since the champion was trained to train again: frauds that have matured since.

What belongs here: counting them, and one training per release and count-step. What does not: starting it (`assets`).
"""

from datetime import date, timedelta

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from fraud_platform.features import tables
from fraud_platform.features.label_rules import LabelRules
from fraud_platform.lake import Lake
from fraud_platform.model.data import labels_before
from fraud_platform.monitoring.retrain import Outcome, Request, again


class CountMemory(msgspec.Struct, frozen=True):
    """What the sensor's cursor keeps."""

    after: int = 0
    """The last day of labels that was looked at, as the event log counts them."""
    release: str | None = None
    step: int = 0
    """How many times the limit had matured when a training of that release was last asked for."""
    last: Request | None = None


def matured_frauds(lake: Lake, known_until: date, maturity_days: int, rules: LabelRules) -> tuple[int, date | None]:
    """Known frauds among payments after the UTC day `known_until` that have matured by the end of the labels, and the
    last day that has; 0 and None before there are labels.

    Matured is a day of which silence says as much as a label: only then a training takes it, frauds and good alike.
    """
    days = lake.days(tables.FRAUD_LABELS)
    if not days:
        return 0, None
    cut = days[-1] + timedelta(days=1)
    last = cut - timedelta(days=maturity_days + 1)
    labels = labels_before(lake, cut, rules)
    dates = labels["transaction_date"]
    fresh = pc.and_(
        pc.greater(dates, pa.scalar(known_until, pa.date32())), pc.less_equal(dates, pa.scalar(last, pa.date32()))
    )
    return int(pc.sum(pc.and_kleene(fresh, labels["is_fraud"])).as_py() or 0), last


def decide_by_count(
    count: int, limit: int, day: date, release: str, memory: CountMemory, outcome: Outcome
) -> tuple[Request | None, CountMemory]:
    """The training to start now, or None, and what to remember: one for each `limit` frauds of a release, and again
    where it failed. limit: above 0."""
    step, known = count // limit, memory.step if memory.release == release else 0
    if step <= known:
        request = again(memory.last, outcome)
        return request, msgspec.structs.replace(memory, last=request or memory.last)
    request = Request(
        window=f"{release}-matured-{step * limit}",
        attempt=1,
        cause="matured_labels",
        subject="frauds",
        value=float(count),
        sentence=f"{count:,} frauds up to {day} have matured since the data of {release}, the limit is {limit:,}",
    )
    return request, CountMemory(memory.after, release, step, request)
