"""What becomes known about a day's transactions, and when: late, sometimes wrong, sometimes revised, sometimes never.

What belongs here: every label that one day's transactions will ever get. What does not: which of them arrive on a given
day (`bank`).
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from fraud_platform.schema import LABEL_STATES
from fraud_platform.simulator.randomness import Floats, Ints, Stream
from fraud_platform.simulator.rows import Rows
from fraud_platform.simulator.world import DAY_US, World

SOURCES = ("investigator", "chargeback", "customer")
INVESTIGATOR, CHARGEBACK, CUSTOMER = range(3)
SUSPECTED, CONFIRMED, DISPUTED, CLEARED = (
    LABEL_STATES.index(state) for state in ("suspected", "confirmed", "disputed", "cleared")
)

LONGEST_DELAY_DAYS = 40
LONGEST_REVISION_DAYS = 20
LONGEST_AGE_DAYS = LONGEST_DELAY_DAYS + LONGEST_REVISION_DAYS + 2
"""No label arrives more days than this after its transaction's day."""

_DELAY_SPREAD = 0.76
"""Of the log delay: with a median of 4 days 95% arrive within 14."""


@dataclass(frozen=True)
class LabelRows:
    """Labels of one day's transactions, arrays of shape (n,)."""

    number: Ints
    """`Rows.number` of the transaction."""
    arrived: Ints
    """UTC microseconds."""
    source: NDArray[np.int8]
    revision: NDArray[np.int32]
    state: NDArray[np.int8]

    def take(self, which: Ints) -> "LabelRows":
        """The labels at these positions."""
        return LabelRows(**{field.name: getattr(self, field.name)[which] for field in fields(self)})


def concat_labels(parts: list[LabelRows]) -> LabelRows:
    """All labels, in order. `parts` is not empty."""
    return LabelRows(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(LabelRows)})


def _rows(number: Ints, arrived: Floats, source: int | Ints, revision: int, state: int | Ints) -> LabelRows:
    size = len(number)
    return LabelRows(
        number,
        np.rint(arrived / 1_000_000).astype(np.int64) * 1_000_000,
        np.broadcast_to(np.asarray(source, np.int8), size),
        np.full(size, revision, np.int32),
        np.broadcast_to(np.asarray(state, np.int8), size),
    )


def _delays(world: World, rng: np.random.Generator, size: int) -> Floats:
    """Microseconds until the first label in a fraud state."""
    days = world.behaviour.label_delay_days * rng.lognormal(0, _DELAY_SPREAD, size)
    return np.clip(days, 0.1, LONGEST_DELAY_DAYS) * DAY_US


def _revisions(rng: np.random.Generator, size: int) -> Floats:
    """Microseconds from one revision to the next."""
    return np.clip(rng.lognormal(np.log(5), 0.7, size), 0.5, LONGEST_REVISION_DAYS) * DAY_US


def fraud_labels(world: World, frauds: Rows) -> LabelRows:
    """Labels of the frauds received on the world's day.

    A case that an investigator opens is first `suspected`; one that a customer opens is `disputed`. Both are usually
    confirmed by revision 2, some are confirmed at once, a few are cleared by mistake, some never come up.
    """
    rng = world.rng(Stream.FRAUD_LABELS)
    known = frauds.take(rng.random(len(frauds)) < world.behaviour.labelled)
    size = len(known)
    delay, revised = _delays(world, rng, size), _revisions(rng, size)
    opened = delay * rng.uniform(0.1, 0.6, size)
    wrong = rng.random(size) < world.behaviour.wrongly_cleared
    path, rest, customer = rng.random(size), rng.random(size), rng.random(size) < 0.55
    first = known.received.astype(np.float64)
    suspected, disputed = path < 0.45, (path >= 0.45) & (path < 0.8)
    direct = path >= 0.8
    second = np.where(suspected, rest < 0.98, np.where(disputed, (rest < 0.8) | wrong, wrong))
    verdict = np.where(wrong, CLEARED, CONFIRMED)
    opener = np.where(disputed, np.where(customer, CUSTOMER, CHARGEBACK), INVESTIGATOR)
    closer = np.where(disputed & ~wrong, CHARGEBACK, INVESTIGATOR)
    state = np.where(suspected, SUSPECTED, np.where(disputed, DISPUTED, CONFIRMED))
    source = np.where(direct & customer, CUSTOMER, opener)
    start = first + np.where(suspected, opened, delay)
    end = first + np.where(suspected, delay, delay + revised)
    return concat_labels(
        [
            _rows(known.number, start, source, 1, state),
            _rows(known.number[second], end[second], closer[second], 2, verdict[second]),
        ]
    )


def legitimate_labels(world: World, legitimate: int, frauds: int) -> LabelRows:
    """Labels of legitimate transactions, which are numbered below `legitimate`: false accusations, half of them taken
    back, and alerts that were cleared, half of them suspected first. `frauds`: expected frauds of the day.
    """
    rng = world.rng(Stream.LEGITIMATE_LABELS)
    behaviour = world.behaviour
    accused = int(rng.poisson(behaviour.wrongly_accused * frauds))
    alerts = int(rng.poisson(behaviour.cleared_alerts * legitimate))
    accused, alerts = min(accused, legitimate), min(alerts, max(legitimate - accused, 0))
    number = rng.choice(legitimate, accused + alerts, replace=False).astype(np.int64)
    # when the transaction was received is not known here, that it was before midnight is
    opened = world.start_us + DAY_US + _delays(world, rng, len(number))
    closed = opened + _revisions(rng, len(number))
    blamed = np.arange(len(number)) < accused
    twice = rng.random(len(number)) < 0.5
    customer = rng.random(len(number)) < 0.5
    accusation = np.where(customer, DISPUTED, CONFIRMED)
    state = np.where(blamed, accusation, np.where(twice, SUSPECTED, CLEARED))
    source = np.where(blamed & customer, CUSTOMER, INVESTIGATOR)
    return concat_labels(
        [
            _rows(number, opened, source, 1, state),
            _rows(number[twice], closed[twice], INVESTIGATOR, 2, CLEARED),
        ]
    )
