"""The simulated bank as a source of history: transactions, labels and rates by day.

What belongs here: putting a day together from its streams, caches, tables. What does not: what happens on a day.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import lru_cache

import numpy as np
import pyarrow as pa

from fraud_platform.schema import DEFAULT_CALLER, LABEL_STATES, LABELS, RATES, TIME
from fraud_platform.simulator.behaviour import Behaviour
from fraud_platform.simulator.campaigns import MAX_LAG, MIN_LAG
from fraud_platform.simulator.everyday import purchases
from fraud_platform.simulator.fraud import PATTERNS, Leaked, concat_leaked, incidents, leaked_cards
from fraud_platform.simulator.geography import EURO_PER_UNIT
from fraud_platform.simulator.labels import (
    LONGEST_AGE_DAYS,
    SOURCES,
    concat_labels,
    fraud_labels,
    legitimate_labels,
)
from fraud_platform.simulator.legitimate import everyday_count, fraud_share, legitimate_rows, with_retries
from fraud_platform.simulator.population import draw_merchants, draw_users
from fraud_platform.simulator.randomness import Stream
from fraud_platform.simulator.rates import rates_e9
from fraud_platform.simulator.rows import NUMBERS, Naming, Rows, concat, names, shuffled, transaction_ids
from fraud_platform.simulator.world import DAY_US, World

# where each kind of row is numbered from, so that every stream knows its identifiers without the others
VISITS_FROM, FRAUDS_FROM, YESTERDAYS_FROM = NUMBERS // 10 * 6, NUMBERS // 10 * 8, NUMBERS // 10 * 9

TRUTH = pa.schema([pa.field("transaction_id", pa.string()), pa.field("pattern", pa.string())])


class SimulatedBank:
    """A bank whose every day follows from (seed, day) alone, whatever was asked before.

    users, merchants: how many exist. transactions_per_day: the mean, fraud included. behaviour: from the first day on;
    changes: other behaviour from the given days on. Raises ValueError for a base currency that nobody here uses and
    for more transactions a day than there are numbers.
    """

    name = "simulated-bank"

    def __init__(
        self,
        *,
        seed: int,
        first_day: date,
        users: int,
        merchants: int,
        transactions_per_day: int,
        base_currency: str = "EUR",
        behaviour: Behaviour | None = None,
        changes: Mapping[date, Behaviour] | None = None,
    ) -> None:
        if base_currency not in EURO_PER_UNIT:
            raise ValueError(f"base_currency {base_currency} is unknown here; known: {', '.join(EURO_PER_UNIT)}")
        if transactions_per_day > NUMBERS // 2:
            raise ValueError(f"transactions_per_day is {transactions_per_day}; a day has room for {NUMBERS // 2}")
        self._seed = seed
        self._first_day = first_day
        self._expected = float(transactions_per_day)
        self._base_currency = base_currency
        self._behaviours = {date.min: behaviour or Behaviour(), **(changes or {})}
        self._merchants = draw_merchants(seed, merchants)
        self._users = draw_users(seed, users, self._merchants)
        self._naming = Naming(seed, base_currency, names("u", users, 5), names("m", merchants, 4))
        # a day's labels look back LONGEST_AGE_DAYS days; consecutive days share all but one
        self._leaked = lru_cache(maxsize=LONGEST_AGE_DAYS + 2 * MAX_LAG)(self._draw_leaked)
        self._incidents = lru_cache(maxsize=LONGEST_AGE_DAYS + 3)(self._draw_incidents)
        self._label_history = lru_cache(maxsize=LONGEST_AGE_DAYS + 2)(self._draw_label_history)

    def first_day(self) -> date:
        """The day on which history begins."""
        return self._first_day

    def last_day(self) -> date | None:
        """None: any day can be generated."""
        return None

    def transactions(self, days: Sequence[date]) -> Iterator[tuple[date, pa.Table]]:
        """EXPORT rows received on each UTC day, in order of (received_at, transaction_id), retries included.

        Raises ValueError for a day before the first.
        """
        for day in days:
            self._check(day)
            world = self._world(day.toordinal())
            rows = with_retries(world, concat([legitimate_rows(world), self._visits(world), self._frauds(world)]))
            rows = rows.take(np.lexsort((shuffled(self._seed, world.ordinal, rows.number), rows.received)))
            rates = rates_e9(self._seed, world.ordinal, self._base_currency)
            table = self._naming.export(rows, world, rates)
            yield day, table

    def labels(self, days: Sequence[date]) -> Iterator[tuple[date, pa.Table]]:
        """LABELS rows that arrived on each UTC day, by (arrived_at, transaction_id); raises ValueError like
        `transactions`.
        """
        for day in days:
            self._check(day)
            oldest = max(self._first_day.toordinal(), day.toordinal() - LONGEST_AGE_DAYS)
            histories = [self._label_history(ordinal) for ordinal in range(oldest, day.toordinal() + 1)]
            arrived = [history[day.toordinal()] for history in histories if day.toordinal() in history]
            table = pa.concat_tables([LABELS.empty_table(), *arrived]).combine_chunks()
            yield day, table.sort_by([(name, "ascending") for name in ("arrived_at", "transaction_id", "revision")])

    def rates(self, day: date) -> pa.Table:
        """RATES of a day; the base currency stands at 10^9."""
        self._check(day)
        rates = rates_e9(self._seed, day.toordinal(), self._base_currency)
        return pa.table({"currency": list(rates), "rate_e9": list(rates.values())}, schema=RATES)

    def true_fraud(self, day: date) -> pa.Table:
        """The frauds received on a UTC day as (transaction_id, pattern): what no label tells for certain."""
        self._check(day)
        frauds = self._frauds(self._world(day.toordinal()))
        patterns = pa.array(PATTERNS, pa.string()).take(pa.array(frauds.pattern))
        ids = transaction_ids(self._seed, day.toordinal(), frauds.number)
        return pa.table({"transaction_id": ids, "pattern": patterns}, schema=TRUTH)

    def _check(self, day: date) -> None:
        if day < self._first_day:
            raise ValueError(f"{day} is before {self._first_day}, the first day of the simulated bank")

    def _world(self, ordinal: int) -> World:
        since = max(day for day in self._behaviours if day.toordinal() <= ordinal)
        return World(self._seed, ordinal, self._expected, self._users, self._merchants, self._behaviours[since])

    def _draw_leaked(self, ordinal: int) -> Leaked:
        return leaked_cards(self._world(ordinal))

    def _draw_incidents(self, ordinal: int) -> Rows:
        lags = range(MIN_LAG, MAX_LAG + 1)
        due = concat_leaked([self._leaked(ordinal - lag).after(lag) for lag in lags])
        return incidents(self._world(ordinal), due)

    def _frauds(self, world: World) -> Rows:
        """Frauds received on the world's day: of incidents that began on it and of those that began the day before."""
        today, before = self._incidents(world.ordinal), self._incidents(world.ordinal - 1)
        today = today.but(number=today.number + FRAUDS_FROM)
        before = before.but(number=before.number + YESTERDAYS_FROM)
        rows = concat([before, today])
        return rows.take((rows.received >= world.start_us) & (rows.received < world.start_us + DAY_US))

    def _visits(self, world: World) -> Rows:
        """Legitimate purchases of today at leaking merchants, of the cards that will be abused for it."""
        leaked = self._leaked(world.ordinal)
        rows = purchases(world, world.rng(Stream.LEAK_VISITS), leaked.user, leaked.merchant)
        return rows.but(number=rows.number + VISITS_FROM)

    def _draw_label_history(self, ordinal: int) -> dict[int, pa.Table]:
        """Every label that the transactions of a day will get, by the day (ordinal) on which it arrives."""
        world = self._world(ordinal)
        # the expected share, so that quiet days have their false accusations too
        expected = round(fraud_share(world) * world.expected)
        accused = legitimate_labels(world, everyday_count(world), expected)
        rows = concat_labels([fraud_labels(world, self._frauds(world)), accused])
        rows = rows.take(np.argsort(rows.arrived, kind="stable"))
        table = pa.table(
            {
                "transaction_id": transaction_ids(self._seed, ordinal, rows.number),
                "caller": pa.repeat(DEFAULT_CALLER, len(rows.number)),
                "transaction_date": pa.array(np.full(len(rows.number), world.epoch_day, np.int32)).cast(pa.date32()),
                "arrived_at": pa.array(rows.arrived).cast(TIME),
                "source": pa.array(SOURCES, pa.string()).take(pa.array(rows.source)),
                "revision": pa.array(rows.revision),
                "state": pa.array(LABEL_STATES, pa.string()).take(pa.array(rows.state)),
            },
            schema=LABELS,
        )
        age = (rows.arrived - world.start_us) // DAY_US
        days, starts, sizes = np.unique(age, return_index=True, return_counts=True)
        return {
            ordinal + int(day): table.slice(start, size) for day, start, size in zip(days, starts, sizes, strict=True)
        }
