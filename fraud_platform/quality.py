"""Data quality: what must hold of a daily table before anything is built on it.

What belongs here: the rules per table and their evaluation over partitions. What does not: who is told (`assets`). An
`error` stops whatever depends on the day; a `warn` is shown and goes on.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from statistics import median
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fraud_platform import schema
from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE, ENTITIES, Catalogue, Source
from fraud_platform.features.labels import read_labels
from fraud_platform.features.offline import connect
from fraud_platform.features.snapshots import MEDIANS, snapshot_schema
from fraud_platform.features.tables import tables_of
from fraud_platform.features.tiles import LABEL_TILE, MERCHANT_TILE, USER_TILE
from fraud_platform.features.training_set import training_schema
from fraud_platform.inference_log import table as inference_log
from fraud_platform.ingest.read_by import ReadOtherwise
from fraud_platform.ingest.waiting import PATIENCE_DAYS, known_payments, waiting_standing
from fraud_platform.lake import Lake
from fraud_platform.monitoring import drift, freshness, performance, skew
from fraud_platform.settings import Settings

ROW_COUNT_DAYS = 28
ROW_COUNT_FACTOR = 3
QUARANTINE_LIMIT = 0.05
ORPHAN_LIMIT = 0.05


@dataclass(frozen=True)
class Finding:
    """The outcome of one rule over the days it was asked for."""

    rule: str
    passed: bool
    severity: Literal["error", "warn"]
    facts: dict[str, Any]


@dataclass(frozen=True)
class TableRules:
    """What must hold of one table. `ranges` are SQL conditions, true or null for every good row."""

    schema: pa.Schema
    keys: tuple[str, ...]
    ranges: tuple[str, ...] = ()
    counted: str = "true"
    """SQL condition of the rows among which keys are unique."""
    row_count: bool = True
    """Whether a day's row count is comparable with the days before it."""

    @property
    def names(self) -> tuple[tuple[str, Literal["error", "warn"]], ...]:
        """Every rule with its severity, in the order of `evaluate`."""
        rules: list[tuple[str, Literal["error", "warn"]]] = [
            ("schema", "error"),
            ("nulls", "error"),
            ("duplicates", "error"),
        ]
        if self.ranges:
            rules.append(("ranges", "error"))
        if self.row_count:
            rules.append(("row_count", "warn"))
        rules.append(("freshness", "warn"))
        return tuple(rules)


def _feature_ranges(catalogue: Catalogue, source: Source) -> tuple[str, ...]:
    conditions = []
    for feature in catalogue.of(source):
        conditions.append(f"isfinite({feature.name})")
        if feature.unit in ("share", "flag"):
            conditions.append(f"{feature.name} BETWEEN 0 AND 1")
        elif feature.unit not in ("ratio", "deviations"):
            conditions.append(f"{feature.name} >= 0")
    return tuple(conditions)


_TILE_RANGES = (
    "txn_count > 0",
    "amount_known <= txn_count",
    "amount_sum >= 0",
    "amount_max <= amount_sum",
    "foreign_count <= foreign_known",
)

_RULES: dict[str, TableRules] = {
    tables.RAW_TRANSACTIONS: TableRules(
        schema.RAW_TRANSACTIONS,
        ("caller", "transaction_id"),
        (
            "amount_minor >= 0",
            "amount >= 0",
            "event_time <= received_at + INTERVAL 5 MINUTE",
            "event_time >= received_at - INTERVAL 24 HOUR",
            "CAST(received_at AS DATE) = date",
            "length(country) = 2",
            "length(user_country) = 2",
        ),
        counted="NOT is_duplicate",
    ),
    tables.FRAUD_LABELS: TableRules(
        schema.LABELS,
        tuple(schema.LABELS.names),
        (
            "state IN ('suspected', 'confirmed', 'disputed', 'cleared', 'unlabelled')",
            "CAST(arrived_at AS DATE) = date",
            "transaction_date <= date",
            "revision >= 1",
        ),
        row_count=False,
    ),
    tables.FX_RATES: TableRules(schema.RATES, ("currency",), ("rate_e9 > 0",), row_count=False),
    tables.USER_TILES: TableRules(USER_TILE, ("user_id",), _TILE_RANGES),
    tables.MERCHANT_TILES: TableRules(MERCHANT_TILE, ("merchant_id",), _TILE_RANGES),
    tables.LABEL_TILES: TableRules(
        LABEL_TILE, ("merchant_id", "transaction_date"), ("fraud_delta <> 0 OR unknown_delta <> 0",), row_count=False
    ),
    drift.FEATURE_DRIFT: TableRules(
        drift.FEATURE_DRIFT_SCHEMA, ("name",), ("psi >= 0", "null_share BETWEEN 0 AND 1"), row_count=False
    ),
    drift.SCORE_DRIFT: TableRules(
        drift.SCORE_DRIFT_SCHEMA,
        ("hour",),
        ("mean BETWEEN 0 AND 1", "psi >= 0", "rows > 0", "blocked + flagged <= rows"),
        row_count=False,
    ),
    performance.PERFORMANCE: TableRules(
        performance.PERFORMANCE_SCHEMA,
        ("model_version",),
        (
            "frauds <= labelled",
            "labelled <= decisions",
            "blocks_known <= blocks",
            "auc BETWEEN 0 AND 1",
            "catch_rate BETWEEN 0 AND 1",
        ),
        row_count=False,
    ),
    skew.SKEW: TableRules(skew.SKEW_SCHEMA, ("feature",), ("differences BETWEEN 0 AND compared",), row_count=False),
    freshness.FRESHNESS: TableRules(
        freshness.FRESHNESS_SCHEMA, ("entity",), ("without BETWEEN 0 AND decisions",), row_count=False
    ),
    inference_log.TABLE: TableRules(
        inference_log.SCHEMA,
        ("decision_id",),
        (
            "score BETWEEN 0 AND 1",
            "propensity > 0 AND propensity <= 1",
            "decision IN ('allow', 'block', 'flag_for_review')",
            "amount >= 0",
            "CAST(received_at AS DATE) = date",
        ),
        row_count=False,
    ),
}


def rules_of(table: str, catalogue: Catalogue) -> TableRules:
    """The rules of a daily table; those that stand on a set of features are the set's. Raises KeyError."""
    own = tables_of(catalogue)
    made = {
        **{
            own.snapshots(entity): TableRules(
                snapshot_schema(entity, catalogue),
                (f"{entity}_id",),
                _feature_ranges(catalogue, entity),
                row_count=False,
            )
            for entity in ENTITIES
        },
        own.feature_medians: TableRules(MEDIANS, ("feature",), row_count=False),
        own.training_set: TableRules(
            training_schema(catalogue),
            ("caller", "transaction_id"),
            (
                *_feature_ranges(catalogue, "velocity"),
                *_feature_ranges(catalogue, "request"),
                "user_snapshot < transaction_date",
            ),
        ),
    }
    return made[table] if table in made else _RULES[table]


@dataclass
class _Facts:
    """Facts of a rule by day, kept short for people."""

    bad: dict[str, Any] = field(default_factory=dict)

    def note(self, day: date, what: Any) -> None:
        if what:
            self.bad[day.isoformat()] = what

    def finding(self, rule: str, severity: Literal["error", "warn"], checked: int) -> Finding:
        shown = dict(list(self.bad.items())[:20])
        return Finding(rule, not self.bad, severity, {"days": checked, "bad_days": len(self.bad), "examples": shown})


def evaluate(
    settings: Settings,
    lake: Lake,
    table: str,
    days: Sequence[date],
    expected_day: date,
    catalogue: Catalogue = CATALOGUE,
) -> list[Finding]:
    """Every rule of `table` over the partitions of `days`. `expected_day`: the newest day that should be there.
    catalogue: the features that the table is of, where it is of any."""
    rules = rules_of(table, catalogue)
    files = {day: footer(lake, table, day) for day in days}
    findings = [_schema(rules, files), _nulls(rules, files), _duplicates(settings, lake, table, rules, days)]
    if rules.ranges:
        findings.append(_ranges(settings, lake, table, rules, days))
    if rules.row_count:
        findings.append(_row_counts(lake, table, days))
    newest = max(lake.days(table), default=None)
    facts = {"newest_day": str(newest), "expected_day": str(expected_day)}
    findings.append(Finding("freshness", newest is not None and newest >= expected_day, "warn", facts))
    return findings


def quarantine_share(lake: Lake, days: Sequence[date]) -> Finding:
    """The share of rows that did not fit; a day above QUARANTINE_LIMIT is a broken export."""
    facts, accepted, quarantined = _Facts(), 0, 0
    for day in days:
        good = footer(lake, tables.RAW_TRANSACTIONS, day).num_rows
        bad = footer(lake, tables.QUARANTINE, day).num_rows
        accepted, quarantined = accepted + good, quarantined + bad
        share = bad / max(good + bad, 1)
        facts.note(day, f"{share:.1%} of {good + bad} rows" if share > QUARANTINE_LIMIT else None)
    finding = facts.finding("quarantine", "error", len(days))
    return Finding(finding.rule, finding.passed, "error", finding.facts | {"accepted": accepted, "rows": quarantined})


def every_transaction_has_a_row(
    settings: Settings, lake: Lake, days: Sequence[date], catalogue: Catalogue = CATALOGUE
) -> Finding:
    """The training set holds each counted transaction of the day, no more and no fewer."""
    counted = _counts(settings, lake, tables.RAW_TRANSACTIONS, days, "NOT is_duplicate")
    facts = _Facts()
    for day in days:
        rows = footer(lake, tables_of(catalogue).training_set, day).num_rows
        expected = counted.get(day, 0)
        facts.note(day, f"{rows} rows for {expected} transactions" if rows != expected else None)
    return facts.finding("completeness", "error", len(days))


def every_decision_is_a_transaction(lake: Lake, days: Sequence[date]) -> Finding:
    """Each decision of the day is among its transactions or in its quarantine: what was decided also happened."""
    log, facts, decisions = inference_log.LogTable(lake), _Facts(), 0
    for day in sorted(set(days) & set(log.days())):
        decided = set(log.read(day, ["decision_id"])["decision_id"].to_pylist())
        held = set(lake.read(tables.RAW_TRANSACTIONS, day, ["decision_id"])["decision_id"].to_pylist())
        lost = len(decided - held)
        room = footer(lake, tables.QUARANTINE, day).num_rows
        decisions += len(decided)
        facts.note(day, f"{lost} of {len(decided)} decisions are no transaction" if lost > room else None)
    finding = facts.finding("decisions", "error", len(days))
    return Finding(finding.rule, finding.passed, "error", finding.facts | {"decisions": decisions})


def exported_rows_have_their_caller(lake: Lake, days: Sequence[date]) -> Finding:
    """No exported row is what another caller decided, by transaction_id, user and merchant: where a mapping names the
    wrong caller, each such payment counts twice."""
    facts, same = _Facts(), ["transaction_id", "user_id", "merchant_id"]
    for day in days:
        rows = lake.read(tables.RAW_TRANSACTIONS, day, ["caller", "decision_id", *same])
        decided = pc.is_valid(rows["decision_id"])
        theirs, own = rows.filter(decided), rows.filter(pc.invert(decided))
        own = own.filter(pc.is_in(own["transaction_id"], value_set=theirs["transaction_id"].combine_chunks()))
        callers = {tuple(row[name] for name in same): row["caller"] for row in theirs.to_pylist()}
        found = [(row["caller"], callers.get(tuple(row[name] for name in same))) for row in own.to_pylist()]
        other = Counter(caller for mine, caller in found if caller is not None and caller != mine)
        facts.note(day, {f"decided for {caller}": count for caller, count in sorted(other.items())})
    return facts.finding("callers", "warn", len(days))


def days_are_read_alike(lake: Lake, other: ReadOtherwise) -> Finding:
    """No day was built under other words of `channel` or other exchange rates than those of today; where some were,
    which, and the command that builds them again with what stands on them."""
    facts: dict[str, Any] = {
        "days": len(other.days),
        "other_words": _span(other.words),
        "other_rates": {currency: _span(days) for currency, days in sorted(other.rates.items())},
    }
    if other.days:
        facts |= {
            "remedy": "docs/bring-your-own-data.md, Words and rates that come later",
            "command": "dagster asset materialize -m assets.definitions --select 'group:raw or group:features' "
            f"--partition-range {other.days[0]}...{max(lake.days(tables.RAW_TRANSACTIONS))}",
        }
    return Finding("read_alike", not other.days, "warn", facts)


def _span(days: Sequence[date]) -> str:
    return f"{len(days)} day(s), {days[0]} to {days[-1]}" if days else "none"


def every_label_has_a_payment(home: Path, lake: Lake, days: Sequence[date]) -> Finding:
    """Labels speak of payments that there are: at most ORPHAN_LIMIT of those that arrived speak of none, and none that
    a caller sent has waited longer than PATIENCE_DAYS for its payment."""
    labels = read_labels(lake, days)
    labels = labels.filter(pc.not_equal(labels["state"], schema.UNLABELLED))
    labels = labels.select(["caller", "transaction_id", "transaction_date"])
    said = list(zip(*(column.to_pylist() for column in labels.columns), strict=True))
    known = known_payments(lake, ((name, on) for _, name, on in said))
    orphans = [payment for payment in said if payment not in known]
    standing = waiting_standing(home, lake)
    late = standing.oldest is not None and standing.oldest < max(days) - timedelta(days=PATIENCE_DAYS)
    facts = {
        "labels": len(said),
        "orphans": len(orphans),
        "waiting": sum(standing.waiting.values()),
        "waiting_by_caller": dict(standing.waiting.most_common(20)),
        "waiting_since": str(standing.oldest),
        "given_up": standing.given_up,
        "remedy": "docs/labels.md, Labels without a payment",
    }
    return Finding("orphans", not late and len(orphans) <= ORPHAN_LIMIT * len(said), "warn", facts)


def footer(lake: Lake, table: str, day: date) -> pq.FileMetaData:
    """What a partition's file says of itself: rows, types, and each column's nulls."""
    with lake.open(table, day) as file:
        return pq.read_metadata(file)


def _schema(rules: TableRules, files: dict[date, pq.FileMetaData]) -> Finding:
    facts = _Facts()
    wanted = {column.name: column.type for column in rules.schema}
    for day, metadata in files.items():
        found = {column.name: column.type for column in metadata.schema.to_arrow_schema()}
        facts.note(day, sorted(str(item) for item in set(found.items()) ^ set(wanted.items())))
    return facts.finding("schema", "error", len(files))


def _nulls(rules: TableRules, files: dict[date, pq.FileMetaData]) -> Finding:
    """Required columns have no null, by the files' own statistics."""
    facts = _Facts()
    required = {column.name for column in rules.schema if not column.nullable} | set(rules.keys)
    for day, metadata in files.items():
        facts.note(day, {name: count for name, count in null_counts(metadata).items() if name in required and count})
    return facts.finding("nulls", "error", len(files))


def null_counts(metadata: pq.FileMetaData) -> dict[str, int]:
    """Nulls by column, of those that are no lists and whose file counts them."""
    nulls: Counter[str] = Counter()
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(metadata.num_columns)):
            if column.statistics is not None and column.statistics.has_null_count:
                nulls[column.path_in_schema] += column.statistics.null_count
    return dict(nulls)


def _query(settings: Settings, lake: Lake, table: str, days: Sequence[date], sql: str) -> list[tuple[Any, ...]]:
    """Rows of `sql`, whose `{rows}` stands for the partitions with a `date` column."""
    paths = ", ".join(f"'{path}'" for path in lake.scan_paths(table, days))
    rows = f"(SELECT * REPLACE (CAST(date AS DATE) AS date) FROM read_parquet([{paths}], hive_partitioning = true))"
    result: list[tuple[Any, ...]] = connect(settings, lake).execute(sql.format(rows=rows)).fetchall()
    return result


def _counts(settings: Settings, lake: Lake, table: str, days: Sequence[date], condition: str) -> dict[date, int]:
    sql = f"SELECT date, count(*) FROM {{rows}} WHERE {condition} GROUP BY date"
    return dict(_query(settings, lake, table, days, sql))


def _duplicates(settings: Settings, lake: Lake, table: str, rules: TableRules, days: Sequence[date]) -> Finding:
    keys = ", ".join(rules.keys)
    sql = (
        f"SELECT date, sum(n - 1) FROM (SELECT date, count(*) AS n FROM {{rows}} WHERE {rules.counted} "
        f"GROUP BY date, {keys} HAVING n > 1) GROUP BY date"
    )
    facts = _Facts()
    for day, extra in _query(settings, lake, table, days, sql):
        facts.note(day, f"{extra} rows repeat ({keys})")
    return facts.finding("duplicates", "error", len(days))


def _ranges(settings: Settings, lake: Lake, table: str, rules: TableRules, days: Sequence[date]) -> Finding:
    sums = ", ".join(f"count(*) FILTER (WHERE NOT ({condition}))" for condition in rules.ranges)
    facts = _Facts()
    for day, *broken in _query(settings, lake, table, days, f"SELECT date, {sums} FROM {{rows}} GROUP BY date"):
        facts.note(day, {rule: n for rule, n in zip(rules.ranges, broken, strict=True) if n})
    return facts.finding("ranges", "error", len(days))


def _row_counts(lake: Lake, table: str, days: Sequence[date]) -> Finding:
    """A day has neither a third nor three times the rows of the median of the four weeks before it."""
    facts = _Facts()
    counts: dict[date, int] = {}

    def rows(day: date) -> int:
        if day not in counts:
            counts[day] = footer(lake, table, day).num_rows
        return counts[day]

    written = set(lake.days(table))
    for day in days:
        before = [day - timedelta(days=back) for back in range(1, ROW_COUNT_DAYS + 1)]
        usual = median([rows(other) for other in before if other in written] or [rows(day)])
        odd = not usual / ROW_COUNT_FACTOR <= rows(day) <= usual * ROW_COUNT_FACTOR
        facts.note(day, f"{rows(day)} rows, usually {usual:.0f}" if odd else None)
    return facts.finding("row_count", "warn", len(days))
