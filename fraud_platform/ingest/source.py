"""Where history comes from: the protocol that every source keeps, and which one the settings name.

What belongs here: the seam between data that somebody gives us and the steps that write the lake. What does not: how a
source makes or reads its rows (the simulated bank, the mapped source).
"""

from collections.abc import Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from fraud_platform.settings import Settings

if TYPE_CHECKING:
    from fraud_platform.simulator.bank import SimulatedBank


class Source(Protocol):
    """Transactions, labels and rates by UTC day; the same day always gives the same rows."""

    @property
    def name(self) -> str:
        """Short name for reports and logs."""
        ...

    def first_day(self) -> date:
        """The first UTC day of received_at."""
        ...

    def last_day(self) -> date | None:
        """The last UTC day of received_at; None when the source is open ended."""
        ...

    def transactions(self, days: Sequence[date]) -> Iterator[tuple[date, pa.Table]]:
        """Per day of `days`, ascending, the EXPORT rows received then; empty tables for days without rows.

        A source that had to reject a row itself may add the columns `problem` and `source_row` (see standardize), one
        that knows decisions those of DECIDED.
        """
        ...

    def labels(self, days: Sequence[date]) -> Iterator[tuple[date, pa.Table]]:
        """Per day of `days`, ascending, the LABELS rows that arrived then."""
        ...

    def rates(self, day: date) -> pa.Table:
        """The RATES known on `day`; the base currency may be left out."""
        ...


def open_source(settings: Settings, first_day: date) -> Source:
    """The source that the settings name, the mapping file's history or else the simulated bank, with the payments that
    the service decided, with the labels that callers sent back to this home or to another region, and without the users
    that were erased.

    `first_day` is where the simulated bank's history starts; a mapped history starts where its data does. Raises
    MappingError when the mapping file or what it points at does not fit.
    """
    from fraud_platform.erasure.suppression import WithoutErased
    from fraud_platform.inference_log.table import LogTable
    from fraud_platform.ingest.decided import WithDecisions
    from fraud_platform.ingest.told import WithFeedback
    from fraud_platform.lake import open_lake

    lake = open_lake(settings)
    decided = WithDecisions(_history(settings, first_day), LogTable(lake))
    return WithoutErased(WithFeedback(decided, settings.home, lake, settings.feedback_waiting_days), settings.home)


def _history(settings: Settings, first_day: date) -> Source:
    if settings.mapping is not None:
        from fraud_platform.ingest.mapped_source import MappedSource

        return MappedSource.open(settings.mapping, settings)
    return simulated_bank(settings, first_day)


def simulated_bank(settings: Settings, first_day: date) -> "SimulatedBank":
    """The simulated bank of these settings, whose history starts on `first_day`."""
    from fraud_platform.simulator.bank import SimulatedBank
    from fraud_platform.simulator.behaviour import behaviour_of

    usual = settings.bank_behaviour
    return SimulatedBank(
        seed=settings.seed,
        first_day=first_day,
        users=settings.users,
        merchants=settings.merchants,
        transactions_per_day=settings.transactions_per_day,
        base_currency=settings.base_currency,
        behaviour=behaviour_of(usual),
        changes={day: behaviour_of(usual | change) for day, change in settings.bank_changes.items()},
    )
