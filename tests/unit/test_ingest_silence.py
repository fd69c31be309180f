"""What it means that a row has no label, from the mapping through labels, fraud rates, examples and figures.

The oracle is pandas over the very rows that the file holds; it knows nothing of the lake.
"""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from fraud_platform.features import tables
from fraud_platform.features.label_rules import Distrust, LabelRules, label_rules
from fraud_platform.features.labels import label_transactions, resolve_labels
from fraud_platform.history import build_history
from fraud_platform.ingest.mapped_source import MappedSource
from fraud_platform.ingest.mapping import MappingError, load_mapping
from fraud_platform.lake import Lake
from fraud_platform.model.data import find_known, labels_before
from fraud_platform.model.split import microseconds
from fraud_platform.quality import evaluate, every_label_has_a_payment
from fraud_platform.schema import LABELS, TIME, UNLABELLED
from fraud_platform.settings import Settings

FIRST, DAYS, DELAY, MATURITY = date(2024, 1, 1), 24, 3, 10
MAPPING = """
path: {path}
currency: EUR
columns: {transaction_id: id, user_id: who, merchant_id: shop, amount: paid, timestamp: when_}
label:
  column: found
  fraud_values: [stolen, forged]
  cleared_values: [fine]
  unknown_values: [open]
  arrives_after_days: 3
"""


def world() -> pd.DataFrame:
    """Some days of payments, 60% of them without a word."""
    random = np.random.default_rng(7)
    count = 600
    moments = np.sort(random.integers(0, DAYS * 86_400, count))
    return pd.DataFrame(
        {
            "id": [f"p{n}" for n in range(count)],
            "who": random.choice(["ana", "ben", "cem"], count),
            "shop": random.choice(["kiosk", "fair"], count),
            "paid": random.integers(1, 900, count) / 10,
            "when_": pd.to_datetime(FIRST) + pd.to_timedelta(moments, unit="s"),
            "found": random.choice(["stolen", "forged", "fine", "open", None], count, p=[0.06, 0.04, 0.3, 0.1, 0.5]),
        }
    )


def built(folder: Path, rows: pd.DataFrame, silence: str | None) -> tuple[Settings, Lake]:
    folder.mkdir()
    rows.to_parquet(folder / "a.parquet")
    told = MAPPING.replace("{path}", str(folder / "a.parquet"))
    (folder / "m.yaml").write_text(told + (f"  unlabelled: {silence}\n" if silence else ""))
    settings = Settings(home=folder / "var", mapping=folder / "m.yaml", label_maturity_days=MATURITY)
    lake = Lake(settings.lake)
    build_history(settings, lake, datetime(2024, 3, 1, tzinfo=UTC))
    return settings, lake


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return world()


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory, rows: pd.DataFrame) -> dict[str, tuple[Settings, Lake]]:
    folder = tmp_path_factory.mktemp("silence")
    return {
        name: built(folder / name, rows, silence)
        for name, silence in (("unsaid", None), ("good", "good_after_maturity"), ("unknown", "unknown"))
    }


def known_at(rows: pd.DataFrame, cut: pd.Timestamp, unknown: bool) -> pd.Series:
    """1 fraud, 0 good, NaN unknown, by what had arrived before the cut."""
    labelled = rows["found"].isin(["stolen", "forged", "fine"]) & (rows["when_"] + pd.Timedelta(days=DELAY) < cut)
    fraud = rows["found"].isin(["stolen", "forged"]).astype(float)
    mature = rows["when_"] + pd.Timedelta(days=MATURITY) <= cut
    silent = pd.Series(np.where(mature & (not unknown), 0.0, np.nan), rows.index)
    return fraud.where(labelled, silent)


def fraud_rate(rows: pd.DataFrame, shop: str, snapshot: pd.Timestamp, window: int, unknown: bool) -> float:
    """Of the payments of the window that ends 7 days before the snapshot; what is unknown counts nowhere."""
    day = rows["when_"].dt.floor("D")
    age = (snapshot - day).dt.days
    inside = rows[(rows["shop"] == shop) & (age >= 7) & (age < 7 + window)]
    cut = snapshot + pd.Timedelta(days=1)
    arrived = inside["found"].isin(["stolen", "forged", "fine"]) & (inside["when_"] + pd.Timedelta(days=DELAY) < cut)
    counted = inside[arrived] if unknown else inside
    frauds = (arrived & inside["found"].isin(["stolen", "forged"])).sum()
    return float(np.float32(frauds / len(counted))) if len(counted) else float("nan")


@pytest.mark.parametrize("name", ["unsaid", "good", "unknown"])
def test_a_fraud_rate_is_pandas_own(rows, homes, name):
    _, lake = homes[name]
    compared = 0
    for day in lake.days(tables.MERCHANT_FEATURES):
        for row in lake.read(tables.MERCHANT_FEATURES, day).to_pylist():
            for window in (7, 30, 90):
                expected = fraud_rate(rows, row["merchant_id"], pd.Timestamp(day), window, name == "unknown")
                found = row[f"merchant_fraud_rate_{window}d"]
                assert (float("nan") if found is None else found) == pytest.approx(expected, nan_ok=True), (day, window)
                compared += not np.isnan(expected)
    assert compared > 50


@pytest.mark.parametrize("name", ["unsaid", "good", "unknown"])
def test_an_unknown_row_is_no_example(rows, homes, name):
    settings, lake = homes[name]
    for cut in (date(2024, 1, 8), date(2024, 1, 15), date(2024, 1, 25)):
        days = [day for day in lake.days(tables.TRAINING_SET) if day < cut]
        known = find_known(lake, days, labels_before(lake, cut, label_rules(settings)), cut, MATURITY)
        ids = lake.read_days(tables.TRAINING_SET, days, ["transaction_id"])["transaction_id"].to_pylist()
        expected = known_at(rows, pd.Timestamp(cut), name == "unknown").set_axis(rows["id"])[ids]
        assert known.rows.tolist() == expected.notna().tolist()
        assert known.is_fraud.tolist() == (expected.dropna() == 1).tolist()
    # the same frauds, less than half of the good ones
    assert (len(known.is_fraud), int(known.is_fraud.sum())) == ((217, 48) if name == "unknown" else (415, 48))


def test_without_a_word_nothing_is_other_than_it_was(homes):
    (_, unsaid), (_, good) = homes["unsaid"], homes["good"]
    for table in (tables.FRAUD_LABELS, tables.LABEL_TILES, tables.MERCHANT_FEATURES, tables.TRAINING_SET):
        for day in unsaid.days(table):
            assert unsaid.read(table, day).equals(good.read(table, day))
    states = {
        state
        for day in good.days(tables.FRAUD_LABELS)
        for state in good.read(tables.FRAUD_LABELS, day)["state"].to_pylist()
    }
    assert states == {"confirmed", "cleared"}


def test_the_checks_accept_what_silence_writes(homes):
    settings, lake = homes["unknown"]
    for table in (tables.FRAUD_LABELS, tables.LABEL_TILES):
        days = lake.days(table)
        failed = [each for each in evaluate(settings, lake, table, days, days[-1]) if not each.passed]
        assert failed == []
    assert every_label_has_a_payment(settings.home, lake, lake.days(tables.FRAUD_LABELS)).passed


def test_older_label_tiles_without_the_column_count_as_they_did(rows, tmp_path):
    from fraud_platform.features.snapshots import write_merchant_features

    settings, lake = built(tmp_path / "old", rows, None)
    day = lake.days(tables.MERCHANT_FEATURES)[-1]
    before = lake.read(tables.MERCHANT_FEATURES, day)
    for each in lake.days(tables.LABEL_TILES)[:-2]:
        lake.write(tables.LABEL_TILES, each, lake.read(tables.LABEL_TILES, each).drop_columns(["unknown_delta"]))
    write_merchant_features(settings, lake, [day])
    assert lake.read(tables.MERCHANT_FEATURES, day).equals(before)


AT = datetime(2024, 5, 1, 12, tzinfo=UTC)


def said(state: str, after: timedelta, source: str = "import", revision: int = 1) -> dict[str, object]:
    return dict(zip(LABELS.names, ("a", "default", AT.date(), AT + after, source, revision, state), strict=True))


@pytest.mark.parametrize(
    ("labels", "ranks", "expected"),
    [
        ([], {}, False),
        ([said(UNLABELLED, timedelta(0))], {}, None),
        ([said(UNLABELLED, timedelta(0)), said("confirmed", timedelta(0))], {}, True),
        ([said("confirmed", timedelta(0)), said(UNLABELLED, timedelta(hours=1))], {}, True),
        ([said(UNLABELLED, timedelta(0)), said("cleared", timedelta(days=1), "feedback")], {}, False),
        ([said(UNLABELLED, timedelta(0)), said("cleared", timedelta(days=1), "feedback")], {"feedback": -9}, False),
        ([said(UNLABELLED, timedelta(0)), said("suspected", timedelta(days=1), "desk")], {}, None),
    ],
)
def test_any_label_stands_above_silence(labels, ranks, expected):
    cut = int((AT + timedelta(days=60)).timestamp() * 1_000_000)
    rules = LabelRules({"import": 10, **ranks})
    payment = pa.table(
        {
            "transaction_id": ["a"],
            "transaction_date": pa.array([AT.date()], pa.date32()),
            "received_at": pa.array([AT], TIME),
        }
    )
    resolved = resolve_labels(pa.Table.from_pylist(labels, LABELS), cut, rules)
    assert label_transactions(payment, resolved, cut, 30)["is_fraud"].to_pylist() == [expected]


def test_distrust_takes_labels_away_and_leaves_silence_what_it_is():
    import_of_all = Distrust(id="1", at=AT, who="me", why="wrong", source="import")
    labels = [said(UNLABELLED, timedelta(0)), said("confirmed", timedelta(days=2))]
    cut = microseconds(date(2024, 7, 1))
    resolved = resolve_labels(pa.Table.from_pylist(labels, LABELS), cut, LabelRules(distrusted=(import_of_all,)))
    assert resolved.select(["state", "is_fraud"]).to_pylist() == [{"state": UNLABELLED, "is_fraud": None}]


SHORT = MAPPING.replace("  cleared_values: [fine]\n", "").replace("  unknown_values: [open]\n", "")


@pytest.mark.parametrize(
    ("values", "mapping", "message"),
    [
        (["stolen", "fine", "open"], SHORT, r"'fine' \(33.3% of the rows\), 'open' \(33.3% of the rows\): list those"),
        (["stolen", "fine", "Open", "lost"], MAPPING, r"label.column has the values 'lost' \(25.0% of the rows\)"),
        (["stolen", "fine", "open", None], MAPPING, None),
        (["stolen", "fine", None], SHORT, None),
    ],
)
def test_a_value_that_no_list_names_is_not_cleared_without_a_word(tmp_path, values, mapping, message):
    count = len(values)
    frame = pd.DataFrame({"who": ["u"] * count, "shop": ["s"] * count, "paid": [1] * count, "found": values})
    frame["id"], frame["when_"] = [str(n) for n in range(count)], pd.Timestamp("2024-01-01 10:00", tz="UTC")
    frame.to_parquet(tmp_path / "a.parquet")
    (tmp_path / "m.yaml").write_text(mapping.replace("{path}", str(tmp_path / "a.parquet")))
    source = MappedSource.open(tmp_path / "m.yaml", Settings(home=tmp_path / "var"))
    if message is not None:
        with pytest.raises(MappingError, match=message):
            source.first_day()
        return
    assert source.label_counts() == {"cleared": 1, "confirmed": 1}
    assert source.remarks().unlisted == ({} if mapping == MAPPING else {"fine": 1})


def test_a_value_stands_in_one_list(tmp_path):
    (tmp_path / "m.yaml").write_text(MAPPING.replace("[fine]", "[fine, Stolen]"))
    with pytest.raises(MappingError, match="'stolen' appears more than once in fraud_values, cleared_values, unknown"):
        load_mapping(tmp_path / "m.yaml")
