"""The fifty values do not change: a digest of each over a simulated month, a world of edges, and a third of the Sparkov
export.

A value that changes on purpose raises `VALUES_VERSION`, is listed with its cause in docs/features.md (What a value was
before), and is written anew by `UPDATE_GOLDEN=yes pytest tests/integration/test_values_digest.py`. The rows
and labels that the simulated bank makes are held the same way: where they change, the values over them do too.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE, VALUES_VERSION
from fraud_platform.history import build_history
from fraud_platform.ingest.source import simulated_bank
from fraud_platform.lake import Lake, days_between, open_lake
from fraud_platform.monitoring.null_share import columns_of, null_shares
from fraud_platform.settings import Settings
from tests.feature_worlds import TODAY, crowded_world, write_world

GOLDEN = Path(__file__).parents[1] / "golden" / "values.json"
MAPPING = Path(__file__).parents[2] / "examples" / "sparkov" / "mapping.yaml"
SPARKOV = os.environ.get("FRAUD_SPARKOV_FILE")
HISTORY = days_between(date(2025, 12, 1), date(2026, 3, 31))
"""Long enough that the longest windows lose days in its last month."""
MONTH = HISTORY[-31:]
OF_VERSION = {"values_version": VALUES_VERSION}
_KEY = ["caller", "transaction_id", "received_at"]


def month_of(home: Path) -> Settings:
    return Settings(home=home, history_start=HISTORY[0], users=150, merchants=25, transactions_per_day=120, seed=11)


def digest(parts: Iterable[bytes]) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()[:16]


def rows_digest(days: Iterable[tuple[date, pa.Table]]) -> str:
    """Of tables' rows, whatever their order; degrees to a metre: the last bits of a sine are the machine's own."""
    lines = []
    for day, table in days:
        for index, field in enumerate(table.schema):
            if pa.types.is_timestamp(field.type):
                table = table.set_column(index, field.name, table[field.name].cast(pa.int64()))
        for row in table.to_pylist():
            plain = {name: round(value, 5) if isinstance(value, float) else value for name, value in row.items()}
            lines.append(f"{day} {json.dumps(plain, sort_keys=True, default=str)}\n")
    return f"{digest(line.encode() for line in sorted(lines))}, {len(lines)} rows"


def values_digests(lake: Lake, days: Sequence[date]) -> dict[str, str]:
    """Per feature, of its float32 bits in the order of the payments; every null has the same bits."""
    rows = pa.concat_tables([lake.read(tables.TRAINING_SET, day) for day in days])
    rows = rows.sort_by([(name, "ascending") for name in _KEY])
    found = {}
    for name in CATALOGUE.names:
        values = rows[name].to_numpy(zero_copy_only=False).astype("<f4")
        bits = np.where(np.isnan(values), np.uint32(0x7FC00000), values.view(np.uint32)).astype("<u4")
        found[name] = f"{digest([bits.tobytes()])}, {int(np.isnan(values).sum())} of {len(values)} null"
    return found


def hold(name: str, found: dict[str, Any]) -> None:
    """What was found is what the file says; `UPDATE_GOLDEN=yes` writes it there instead."""
    golden = json.loads(GOLDEN.read_text())
    if os.environ.get("UPDATE_GOLDEN") == "yes":
        golden[name] = found
        GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
    kept = golden[name]
    changed = sorted(key for key in kept.keys() | found.keys() if found.get(key) != kept.get(key))
    assert not changed, (
        f"{name}: other than in {GOLDEN.name}: {', '.join(changed)}. See the head of {Path(__file__).name}"
    )


def test_the_simulated_bank_makes_the_same_rows_and_labels(tmp_path: Path) -> None:
    bank = simulated_bank(month_of(tmp_path), HISTORY[0])
    hold(
        "simulated rows",
        {"transactions": rows_digest(bank.transactions(MONTH)), "labels": rows_digest(bank.labels(MONTH))},
    )


def test_the_values_of_a_simulated_month_are_the_same(tmp_path: Path) -> None:
    settings = month_of(tmp_path)
    lake = open_lake(settings)
    build_history(settings, lake, datetime(2026, 4, 1, 6, tzinfo=UTC))
    found = values_digests(lake, MONTH)
    assert len(set(found.values())) == len(found), "no value stands for another, and none is null throughout"
    hold("simulated month", OF_VERSION | found)
    for table in columns_of(CATALOGUE):
        finding = null_shares(lake, table, HISTORY)
        assert (finding.passed, finding.facts["examples"]) == (True, {}), "no false alarm"
        assert finding.facts["days_compared"] > 60


def test_the_values_of_a_world_of_edges_are_the_same(tmp_path: Path) -> None:
    """Amounts without a rate, channels in every spelling, wrong clocks, repeats, two regions."""
    lake = Lake(str(tmp_path / "lake"))
    write_world(Settings(home=tmp_path), lake, *crowded_world())
    hold("edges", OF_VERSION | values_digests(lake, [TODAY]))


@pytest.mark.skipif(
    not SPARKOV or not Path(SPARKOV).exists(),
    reason="THE VALUES OVER SPARKOV ARE NOT HELD: set FRAUD_SPARKOV_FILE to its export (Parquet, 254,471 rows)",
)
def test_the_values_over_sparkov_are_the_same(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, mapping=MAPPING, base_currency="USD")
    lake = open_lake(settings)
    build_history(settings, lake, datetime(2024, 5, 1, 6, tzinfo=UTC))
    days = days_between(date(2024, 1, 1), date(2024, 4, 30))
    hold("sparkov, January to April", OF_VERSION | values_digests(lake, days))
