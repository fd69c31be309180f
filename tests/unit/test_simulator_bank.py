"""The simulated bank's transactions: reproducible, well formed, with the traffic and the frauds they promise."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from time import process_time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from fraud_platform.lake import days_between
from fraud_platform.schema import EXPORT, RATES
from fraud_platform.simulator.bank import SimulatedBank
from fraud_platform.simulator.behaviour import Behaviour
from fraud_platform.simulator.campaigns import MAX_LAG, MIN_LAG
from fraud_platform.simulator.geography import EURO_PER_UNIT
from fraud_platform.simulator.rows import minor_units

FIRST = date(2026, 6, 1)
DAYS = days_between(FIRST, FIRST + timedelta(days=27))


def bank(seed: int = 7, **changes: object) -> SimulatedBank:
    arguments = {"first_day": FIRST, "users": 1_500, "merchants": 300, "transactions_per_day": 3_000} | changes
    return SimulatedBank(seed=seed, **arguments)  # type: ignore[arg-type]


def payload(tables: Iterable[tuple[date, pa.Table]]) -> list[bytes]:
    result = []
    for _, table in tables:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())
        result.append(sink.getvalue().to_pybytes())
    return result


@pytest.fixture(scope="module")
def history() -> pd.DataFrame:
    """Four weeks, with `day`, the true `pattern` of each row and `late`, seconds from timestamp to received_at."""
    source = bank()
    parts = []
    for day, table in source.transactions(DAYS):
        truth = source.true_fraud(day).to_pandas().set_index("transaction_id").pattern
        rows = table.to_pandas()
        parts.append(rows.assign(day=day, pattern=rows.transaction_id.map(truth)))
    rows = pd.concat(parts, ignore_index=True)
    return rows.assign(late=(rows.received_at - rows.timestamp).dt.total_seconds())


def test_a_day_alone_has_the_same_bytes_as_in_a_sequence() -> None:
    together = bank()
    transactions = payload(together.transactions(DAYS[:8]))
    labels = payload(together.labels(DAYS[:8]))
    alone = bank()
    assert payload(alone.labels([DAYS[6]])) == [labels[6]]
    assert payload(alone.transactions([DAYS[6]])) == [transactions[6]]
    assert payload(alone.transactions([DAYS[2]])) == [transactions[2]]


def test_another_seed_and_another_day_give_other_transactions() -> None:
    first, second = (next(iter(bank().transactions([day])))[1] for day in DAYS[:2])
    other = next(iter(bank(seed=8).transactions(DAYS[:1])))[1]
    assert not first.equals(other)
    assert first.column("amount_minor").to_pylist()[:50] != second.column("amount_minor").to_pylist()[:50]


def test_a_history_that_begins_earlier_holds_the_same_days() -> None:
    earlier = bank(first_day=FIRST - timedelta(days=30))
    assert payload(earlier.transactions([DAYS[3]])) == payload(bank().transactions([DAYS[3]]))


def test_rows_have_exactly_the_export_schema_and_were_received_that_day_in_order() -> None:
    for day, table in bank().transactions(DAYS[:3]):
        assert table.schema.equals(EXPORT, check_metadata=True)
        midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
        received = table.column("received_at")
        assert pc.min(received).as_py() >= midnight
        assert pc.max(received).as_py() < midnight + timedelta(days=1)
        keys = list(zip(received.to_pylist(), table.column("transaction_id").to_pylist(), strict=True))
        assert keys == sorted(keys)


def test_a_retry_is_the_same_transaction_received_later_and_nothing_else_shares_an_id(history: pd.DataFrame) -> None:
    repeated = history[history.transaction_id.duplicated(keep=False)]
    assert 0.001 < len(repeated) / 2 / len(history) < 0.006
    body = [name for name in EXPORT.names if name != "received_at"]
    for _, rows in repeated.groupby("transaction_id"):
        assert len(rows) == 2
        assert len(rows[body].drop_duplicates()) == 1
        assert 0 < (rows.received_at.max() - rows.received_at.min()).total_seconds() <= 1_200


def test_most_rows_arrive_within_two_seconds_some_hours_late_and_few_from_clocks_ahead(history: pd.DataFrame) -> None:
    first = history[~history.transaction_id.duplicated()]
    assert (first.late.between(0, 2)).mean() > 0.93
    assert 0.002 < first.late.between(3_600, 86_400).mean() < 0.008
    assert 0.0001 < (first.late < 0).mean() < 0.003
    assert (first.late > 86_400).any()
    assert (first.timestamp.dt.date < first.day).any()


def test_volume_and_mix_are_those_of_a_bank_at_home_in_europe(history: pd.DataFrame) -> None:
    assert len(history) / len(DAYS) == pytest.approx(3_000, rel=0.05)
    assert 0.05 < (history.currency != "EUR").mean() < 0.11
    assert 0.3 < (history.channel == "online").mean() < 0.6
    assert history[history.channel == "pos"].device_id.isna().mean() > 0.8
    assert history[history.channel == "online"].device_id.isna().mean() < 0.1
    for column in ("latitude", "merchant_category", "user_country"):
        assert 0 < history[column].isna().mean() < 0.6
    known = history.dropna(subset="user_country")
    assert 0.05 < (known.country != known.user_country).mean() < 0.2
    assert (history.currency[history.country == "JP"] == "JPY").all()
    # activity is heavy tailed: the busiest tenth makes over a quarter of all payments
    per_user = history.user_id.value_counts()
    assert per_user.head(150).sum() > 0.25 * len(history)


def test_nights_are_quiet_by_the_clock_of_the_home_country(history: pd.DataFrame) -> None:
    germans = history[(history.user_country == "DE") & history.pattern.isna()]
    local = germans.received_at.dt.tz_convert("Europe/Berlin").dt.hour
    assert local.between(2, 4).mean() < 0.05
    assert local.between(16, 19).mean() > 0.2


def test_fraud_is_rare_and_every_pattern_occurs(history: pd.DataFrame) -> None:
    assert 0.003 < history.pattern.notna().mean() < 0.009
    shares = history.pattern.value_counts(normalize=True)
    assert set(shares.index) == {
        "card_testing",
        "account_takeover",
        "compromised_merchant",
        "out_of_character",
        "unremarkable",
    }
    assert shares.min() > 0.03


def test_every_true_fraud_is_a_row_of_its_day(history: pd.DataFrame) -> None:
    source = bank()
    for day, rows in history.groupby("day"):
        assert set(source.true_fraud(day).column("transaction_id").to_pylist()) <= set(rows.transaction_id)


def test_card_testing_is_a_burst_of_small_online_amounts_and_often_a_large_one(history: pd.DataFrame) -> None:
    tests = history[(history.pattern == "card_testing") & ~history.transaction_id.duplicated()]
    tests = tests.assign(small=tests.amount_minor < 500)
    # JPY and PLN have other minor units
    tests = tests[tests.currency.isin(["EUR", "USD", "GBP", "CHF"])]
    assert (tests.channel == "online").all()
    bursts = [rows for _, rows in tests.groupby(["user_id", tests.received_at.dt.floor("6h")]) if len(rows) >= 4]
    assert len(bursts) >= 5
    spans = [
        (rows[rows.small].received_at.max() - rows[rows.small].received_at.min()).total_seconds() for rows in bursts
    ]
    assert np.median(spans) < 600
    assert np.mean([rows[rows.small].merchant_id.nunique() <= 2 for rows in bursts]) > 0.9
    cashed = [rows for rows in bursts if not rows.small.all()]
    assert 0.25 < len(cashed) / len(bursts) < 0.95
    for rows in cashed:
        assert rows[~rows.small].received_at.max() >= rows[rows.small].received_at.max()


def test_takeovers_come_from_devices_that_nobody_used_before(history: pd.DataFrame) -> None:
    seen = history[history.pattern.isna()].device_id.dropna().unique()
    stolen = history[(history.pattern == "account_takeover") & history.device_id.notna()]
    assert len(stolen) > 20
    assert not stolen.device_id.isin(seen).any()
    assert (stolen.country != stolen.user_country).mean() > 0.5


def test_a_compromised_card_was_used_legitimately_days_before_at_a_merchant_that_leaks(history: pd.DataFrame) -> None:
    later = history[history.day >= FIRST + timedelta(days=MAX_LAG + 1)]
    abused = later[later.pattern == "compromised_merchant"]
    honest = history[history.pattern.isna()]
    leaking = abused.merchant_id.value_counts().head(4).index
    assert len(abused) >= 15

    def used_where_cards_leak(user: str, day: date) -> bool:
        ago = (pd.Timestamp(day) - pd.to_datetime(honest.day)).dt.days
        visits = honest[(honest.user_id == user) & ago.between(MIN_LAG, MAX_LAG + 1)]
        return bool(visits.merchant_id.isin(leaking).any())

    anyone = honest.user_id.sample(len(abused), random_state=1)
    exposed = [used_where_cards_leak(row.user_id, row.day) for row in abused.itertuples()]
    by_chance = [used_where_cards_leak(user, day) for user, day in zip(anyone, abused.day, strict=True)]
    assert np.mean(exposed) > 0.85
    assert np.mean(by_chance) < 0.6


def test_fraud_concentrates_at_some_merchants(history: pd.DataFrame) -> None:
    by_merchant = history.groupby("merchant_id").agg(rows=("day", "size"), frauds=("pattern", "count"))
    rates = (by_merchant.frauds / by_merchant.rows)[by_merchant.rows >= 30]
    assert rates.max() > 6 * history.pattern.notna().mean()


def test_a_day_before_the_first_is_refused_by_name() -> None:
    source, day = bank(), FIRST - timedelta(days=1)
    for ask in (
        lambda: list(source.transactions([day])),
        lambda: list(source.labels([day])),
        lambda: source.rates(day),
        lambda: source.true_fraud(day),
    ):
        with pytest.raises(ValueError, match="2026-05-31"):
            ask()
    assert source.first_day() == FIRST
    assert source.last_day() is None
    assert source.name == "simulated-bank"


def test_a_currency_that_nobody_here_uses_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="XAU"):
        bank(base_currency="XAU")


@pytest.mark.parametrize("base", ["EUR", "JPY"])
def test_rates_are_positive_reproducible_and_move_little_from_day_to_day(base: str) -> None:
    source = bank(base_currency=base)
    tables = {day: source.rates(day) for day in DAYS}
    assert bank(base_currency=base).rates(DAYS[9]).equals(tables[DAYS[9]])
    frame = pd.DataFrame({day: dict(zip(*table.to_pydict().values(), strict=True)) for day, table in tables.items()})
    assert all(table.schema.equals(RATES, check_metadata=True) for table in tables.values())
    assert (frame.loc[base] == 10**9).all()
    assert (frame > 0).all().all()
    moves = frame.T.pct_change().dropna().drop(columns=base).abs()
    assert 0 < moves.to_numpy().mean() < 0.02
    assert moves.to_numpy().max() < 0.05


def test_ten_euros_are_whole_yen_and_cents_of_a_dollar_of_the_same_worth() -> None:
    currencies = list(EURO_PER_UNIT)
    rates = dict.fromkeys(currencies, 10**9) | {"JPY": 6_100_000, "USD": 920_000_000}
    index = np.array([currencies.index(code) for code in ("EUR", "JPY", "USD")])
    # 10 / 0.0061 = 1,639.3 yen, which have no minor unit; 10 / 0.92 = 10.8696 dollars
    assert minor_units(np.full(3, 1_000.0), index, rates, "EUR").tolist() == [1_000, 1_639, 1_087]
    # 1,000 yen at 0.0061 euros are 6.10 euros where the yen is the base: 163.93 yen per euro
    rates = dict.fromkeys(currencies, 10**9) | {"EUR": 163_934_426_230}
    assert minor_units(np.array([1_000.0]), index[:1], rates, "JPY").tolist() == [610]


def test_behaviour_changes_from_a_given_day_on_and_leaves_the_days_before_alone() -> None:
    changed = bank(changes={DAYS[3]: Behaviour(amount_scale=3.0, card_testing=0.02)})
    usual = bank()
    assert payload(changed.transactions([DAYS[2]])) == payload(usual.transactions([DAYS[2]]))
    after, before = (next(iter(source.transactions([DAYS[3]])))[1] for source in (changed, usual))
    assert pc.sum(after["amount_minor"]).as_py() > 1.5 * pc.sum(before["amount_minor"]).as_py()
    assert len(changed.true_fraud(DAYS[3])) > 2 * len(usual.true_fraud(DAYS[3]))


@pytest.mark.parametrize("size", [1, 12])
def test_a_tiny_bank_works_too(size: int) -> None:
    source = bank(users=size, merchants=size, transactions_per_day=20)
    assert 0 < sum(len(table) for _, table in source.transactions(DAYS[:3])) < 200
    assert len(list(source.labels(DAYS[:3]))) == 3


def test_a_hundred_thousand_rows_take_no_more_than_seconds_of_one_core() -> None:
    source = bank(users=60_000, merchants=5_000, transactions_per_day=100_000)
    started = process_time()
    rows = sum(len(table) for _, table in source.transactions(DAYS[:1]))
    assert rows > 80_000
    assert process_time() - started < 4
