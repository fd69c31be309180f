"""`ingest --check`: what it names that no rule refuses, and when it ends with an error."""

from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from fraud_platform.cli import app
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.history import build_history
from fraud_platform.ingest.advice import features_read
from fraud_platform.ingest.check import check_mapping
from fraud_platform.ingest.mapping import Columns
from fraud_platform.ingest.steps import NothingImportedError
from fraud_platform.lake import Lake
from fraud_platform.settings import Settings

MAPPING = """
path: {path}
currency: EUR
columns: {user_id: who, amount: paid, timestamp: when_, country: land}
label: {column: fraud, arrives_after_days: 5}
"""


def frame(rows: int = 100, **columns: object) -> pd.DataFrame:
    plain: dict[str, object] = {
        "who": [f"u{n % 7}" for n in range(rows)],
        "paid": 1,
        "when_": pd.date_range("2024-03-01", periods=rows, freq="h", tz="UTC"),
        "land": "DE",
        "fraud": ([1] + [0] * 49) * (rows // 50),
    }
    return pd.DataFrame(plain | columns)


def written(folder: Path, rows: pd.DataFrame, mapping: str = MAPPING) -> Path:
    rows.to_parquet(folder / "a.parquet")
    path = folder / "history.yaml"
    path.write_text(mapping.replace("{path}", str(folder / "a.parquet")))
    return path


def told(folder: Path, rows: pd.DataFrame, mapping: str = MAPPING) -> list[str]:
    return check_mapping(written(folder, rows, mapping), Settings(home=folder / "var")).advice


def test_of_a_sound_history_nothing_is_said(tmp_path):
    assert told(tmp_path, frame()) == []


LABELS = [1, 1, *[0] * 38, *[None] * 60]
UNKNOWN = MAPPING.replace("days: 5", "days: 5, unlabelled: unknown")


@pytest.mark.parametrize(
    ("rows", "mapping", "sentence"),
    [
        (frame(fraud=LABELS), MAPPING, "label: 60.0% of the rows have no label although others say good"),
        (frame(fraud=LABELS), UNKNOWN, None),
        (frame(fraud=[1, 1, *[None] * 98]), MAPPING, None),
        (frame(fraud=[1, 1, *[None] * 98]), UNKNOWN, "label: no row says good, and silence means nothing"),
        (frame(fraud=pd.Series([None] * 100, dtype="Int64")), MAPPING, "label.column: no row has a label"),
        (frame(fraud=0), MAPPING, "label.column: no row is fraud"),
        (frame(fraud=[1, 0] * 50), MAPPING, "label.column: 50.0% of the rows are fraud"),
        (frame(), MAPPING.replace("days: 5", "days: 0"), "label: 100 labels (100.0%) arrive at the moment of their"),
        (frame(land=["DE", None] * 50), MAPPING, "columns.country: 50.0% of the rows have no country; the service"),
        (frame(), MAPPING.replace(", country: land", ""), "columns.country: 100.0% of the rows have no country"),
        (
            frame(mcc="5411", lat=1.5),
            MAPPING.replace("land}", "land, merchant_category: mcc, latitude: lat}"),
            "columns: no feature reads merchant_category, latitude; they are kept",
        ),
        (frame(ch="online"), MAPPING.replace("land}", "land, channel: ch}"), None),
        (
            frame(fraud=["bad"] * 2 + ["ok"] * 98),
            MAPPING.replace("fraud,", "fraud, fraud_values: [bad],"),
            "label.column: 'ok' (98.0% of the rows) stands in no list and counts as cleared",
        ),
        (
            frame(fraud=["bad"] * 2 + ["ok"] * 98),
            MAPPING.replace("fraud,", "fraud, fraud_values: [bad], cleared_values: [ok],"),
            None,
        ),
    ],
)
def test_what_looks_odd_is_named_with_its_share(tmp_path, rows, mapping, sentence):
    found = told(tmp_path, rows, mapping)
    assert len(found) == (0 if sentence is None else 1), found
    if sentence is not None:
        assert found[0].startswith(sentence)


def test_what_features_read_follows_the_catalogue():
    assert set(Columns.model_fields) - features_read() == {"merchant_category", "latitude", "longitude"}
    assert features_read() <= set(Columns.model_fields)
    assert any("raw_transactions.channel" in feature.inputs for feature in CATALOGUE.features)


@pytest.mark.parametrize(("land", "code"), [("DE", 0), ("Germany", 1)])
def test_a_check_that_would_take_no_row_ends_with_an_error(tmp_path, monkeypatch, land, code):
    path = written(tmp_path, frame(land=land))
    monkeypatch.setenv("FRAUD_HOME", str(tmp_path / "var"))
    result = CliRunner().invoke(app, ["ingest", "--check", "--mapping", str(path)])
    assert result.exit_code == code
    assert ("every row would be quarantined" in result.output) == bool(code)
    assert ("country is not an ISO 3166 alpha-2 code" in result.output) == bool(code), "and why"


def test_an_import_of_which_nothing_fits_is_none(tmp_path):
    path = written(tmp_path, frame(land="Germany"))
    settings = Settings(home=tmp_path / "var", mapping=path)
    lake = Lake(settings.lake)
    now = pd.Timestamp("2024-06-01", tz="UTC").to_pydatetime()
    with pytest.raises(NothingImportedError, match=r"none of the 100 rows .* country is not an ISO 3166 .* \(100\)"):
        build_history(settings, lake, now)
    assert len(lake.read("quarantine", lake.days("quarantine")[0])) == 24, "the rows are kept, to be looked at"
    assert not lake.days("training_set")
