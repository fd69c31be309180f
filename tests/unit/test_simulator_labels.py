"""Labels of the simulated bank: late, sometimes wrong, revised or missing, always of a transaction that exists."""

from datetime import date, timedelta

import pandas as pd
import pytest

from fraud_platform.lake import days_between
from fraud_platform.schema import FRAUD_STATES, LABELS
from fraud_platform.simulator.bank import SimulatedBank
from fraud_platform.simulator.labels import LONGEST_AGE_DAYS

FIRST = date(2026, 3, 1)
TRANSACTION_DAYS = days_between(FIRST, FIRST + timedelta(days=29))
ARRIVAL_DAYS = days_between(FIRST, TRANSACTION_DAYS[-1] + timedelta(days=LONGEST_AGE_DAYS))


@pytest.fixture(scope="module")
def bank() -> SimulatedBank:
    return SimulatedBank(seed=11, first_day=FIRST, users=9_000, merchants=900, transactions_per_day=12_000)


@pytest.fixture(scope="module")
def truth(bank: SimulatedBank) -> pd.Series:
    """Pattern by transaction of a month's frauds."""
    return pd.concat([bank.true_fraud(day).to_pandas() for day in TRANSACTION_DAYS]).set_index("transaction_id").pattern


@pytest.fixture(scope="module")
def labels(bank: SimulatedBank) -> pd.DataFrame:
    """Every label that the month's transactions ever get, with `age` in days when it arrived."""
    parts = []
    for day, table in bank.labels(ARRIVAL_DAYS):
        assert table.schema.equals(LABELS, check_metadata=True)
        rows = table.to_pandas()
        assert (rows.arrived_at.dt.date == day).all()
        parts.append(rows)
    rows = pd.concat(parts, ignore_index=True)
    rows = rows[rows.transaction_date <= TRANSACTION_DAYS[-1]]
    return rows.assign(
        age=(rows.arrived_at - pd.to_datetime(rows.transaction_date, utc=True)).dt.total_seconds() / 86_400
    )


@pytest.fixture(scope="module")
def final(labels: pd.DataFrame) -> pd.DataFrame:
    """The last word on each transaction."""
    return labels.sort_values(["transaction_id", "revision"]).groupby("transaction_id").tail(1)


def test_most_frauds_are_labelled_in_the_end_and_some_never(labels: pd.DataFrame, truth: pd.Series) -> None:
    assert len(truth) > 1_000
    share = truth.index.isin(labels.transaction_id).mean()
    assert 0.90 < share < 0.96


def test_a_fraud_is_known_after_four_days_by_half_and_after_a_fortnight_by_most(
    labels: pd.DataFrame, truth: pd.Series
) -> None:
    known = labels[labels.state.isin(FRAUD_STATES) & labels.transaction_id.isin(truth.index)]
    age = known.sort_values("arrived_at").groupby("transaction_id").age.first() - 0.5
    assert 3 < age.median() < 5
    assert 0.92 < (age <= 14).mean() < 0.98
    assert 25 < age.max() < 41


def test_no_label_arrives_before_its_transaction(bank: SimulatedBank, labels: pd.DataFrame) -> None:
    assert (labels.age > 0).all()
    rows = next(iter(bank.transactions([TRANSACTION_DAYS[5]])))[1].to_pandas()
    joined = labels.merge(rows.drop_duplicates("transaction_id"), on="transaction_id")
    assert len(joined) > 30
    assert (joined.arrived_at > joined.received_at).all()


def test_every_label_speaks_of_a_transaction_received_on_its_transaction_date(
    bank: SimulatedBank, labels: pd.DataFrame
) -> None:
    for day, table in bank.transactions(TRANSACTION_DAYS[3:7]):
        labelled = labels[labels.transaction_date == day].transaction_id
        assert len(labelled) > 30
        assert set(labelled) <= set(table.column("transaction_id").to_pylist())


def test_revisions_count_from_one_and_arrive_in_order(labels: pd.DataFrame) -> None:
    ordered = labels.sort_values(["transaction_id", "revision"])
    groups = ordered.groupby("transaction_id")
    assert (ordered.revision == groups.cumcount() + 1).all()
    assert (groups.arrived_at.diff().dropna() > pd.Timedelta(0)).all()
    revised = (ordered.revision == 2).sum() / ordered.transaction_id.nunique()
    assert 0.4 < revised < 0.9


def test_cases_open_as_suspected_or_disputed_and_are_confirmed_later(labels: pd.DataFrame, truth: pd.Series) -> None:
    mine = labels[labels.transaction_id.isin(truth.index)]
    first = mine[mine.revision == 1].state.value_counts(normalize=True)
    assert 0.35 < first["suspected"] < 0.55
    assert 0.25 < first["disputed"] < 0.45
    second = mine[mine.revision == 2].state.value_counts(normalize=True)
    assert second["confirmed"] > 0.9
    assert set(mine.source) == {"investigator", "chargeback", "customer"}


def test_some_last_words_are_wrong_either_way(final: pd.DataFrame, truth: pd.Series) -> None:
    fraud = final.transaction_id.isin(truth.index)
    assert 0.01 < (final[fraud].state == "cleared").mean() < 0.06
    accused = final[~fraud & final.state.isin(FRAUD_STATES)]
    assert 0.003 < len(accused) / len(truth) < 0.03


def test_legitimate_transactions_are_accused_and_cleared(labels: pd.DataFrame, truth: pd.Series) -> None:
    others = labels[~labels.transaction_id.isin(truth.index)]
    accused = set(others[(others.revision == 1) & others.state.isin(FRAUD_STATES)].transaction_id)
    taken_back = set(others[(others.revision == 2) & (others.state == "cleared")].transaction_id)
    assert 0.3 < len(accused & taken_back) / len(accused) < 0.7
    alerts = others[~others.transaction_id.isin(accused)]
    assert set(alerts.state) == {"suspected", "cleared"}


def test_history_knows_no_labels_of_what_came_before_it(bank: SimulatedBank) -> None:
    for _, table in bank.labels(ARRIVAL_DAYS[:5]):
        assert all(day >= FIRST for day in table.column("transaction_date").to_pylist())
