"""Columns that are stored already: a feature that did not change is not computed again because another one did.

What belongs here: what a partition says of itself, and which of its columns another set of features may take. What does
not: computing what is missing (`snapshots`, `training_set`).

A column of a snapshot or of the training set carries the hash of its feature, and beside its partition stands what that
was made of: the versions of the partitions below it. A set that has no partition of a day takes from one of another set
what has its features' hashes and was made of the very versions that are there now; everything else is missing to it.

A partition from before columns had hashes gives nothing, nor does one that was rewritten since, as erasure does; and a
day that the set has is computed whole, since who writes it again wants that.

A column also carries the population's median, which the rows that pruning keeps do not give any more.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fraud_platform.features.catalogue import VALUES_VERSION, Catalogue, digest_of
from fraud_platform.features.offline import Written
from fraud_platform.features.tables import tables_of
from fraud_platform.lake import Lake, day_of

KEPT_FOR = b"fraud.kept_for"
"""What a pruned snapshot says of itself (`pruning`)."""
_HASH, _MEDIAN = b"hash", b"median"
_SHOWN = 5


def feature_fields(catalogue: Catalogue, names: Sequence[str]) -> list[pa.Field]:
    """The columns of some features, each with its hash and with what people are shown of it."""
    fields = []
    for name in names:
        one = catalogue.features[catalogue.position[name]]
        said = {"unit": one.unit, "window": one.window, "description": one.meaning, _HASH: catalogue.hashes[name]}
        fields.append(pa.field(name, pa.float32(), metadata=said))
    return fields


def basis_of(*parts: object) -> str:
    """What a partition is made of, as a digest: versions of what it reads, and what its values follow beside its
    features' hashes."""
    return digest_of([VALUES_VERSION, json.dumps(parts, default=str)])


def note(lake: Lake, table: str, day: date, basis: str | None) -> None:
    """Say of a partition that was just written what it was made of; None: nobody knows, and it gives nothing."""
    if basis is not None:
        lake.write_document(_note(table, day), f"{basis} {lake.version(table, day)}".encode())


def noted(lake: Lake, table: str, days: Sequence[date]) -> dict[date, str]:
    """What the partitions of `days` were made of, as far as it is known of the very files that are there now."""
    found = {}
    for day, version in lake.versions(table, days).items():
        said = (lake.document(_note(table, day)) or b"").decode()
        basis, _, of = said.partition(" ")
        if of == version:
            found[day] = basis
    return found


def _note(table: str, day: date) -> str:
    # no record of its own, which backups keep: it speaks of the file beside it
    return f"{table}/date={day.isoformat()}/made_of"


def with_medians(schema: pa.Schema, medians: Mapping[str, float | None]) -> pa.Schema:
    """The columns with the population's medians, by name; None: there is none."""
    fields = [
        field.with_metadata({**field.metadata, _MEDIAN: json.dumps(medians[field.name])})
        if field.name in medians
        else field
        for field in schema
    ]
    return pa.schema(fields, schema.metadata)


def medians_in(schema: pa.Schema) -> dict[str, float | None]:
    """The medians that the columns of a partition carry."""
    said = {field.name: (field.metadata or {}).get(_MEDIAN) for field in schema}
    return {name: json.loads(median) for name, median in said.items() if median is not None}


class StoredRowsError(RuntimeError):
    """A stored partition has other rows than what it says that it was made of; the message says what to do."""


@dataclass(frozen=True)
class Reusable:
    """Columns of one partition that another set has stored."""

    table: str
    columns: Mapping[str, str]
    """Per feature the column in that table."""
    pruned: bool
    """Whether its rows are those that payments asked for alone."""


class StoredColumns:
    """What other sets of features have stored of a table for some days."""

    def __init__(self, lake: Lake, table: str, days: Sequence[date]) -> None:
        """table: that of the set that is written, `user_features/<hash>`."""
        self._lake = lake
        paths = lake.files(table.split("/")[0], "data.parquet")
        listed = {lake.name_of(path).rpartition("/date=")[0] for path in paths}
        self._own = set(lake.held(table, days))
        self._others = {other: noted(lake, other, days) for other in sorted(listed - {table})}

    def find(self, day: date, basis: str | None, hashes: Mapping[str, str]) -> Reusable | None:
        """The partition of `day` that has most of the features of these hashes, by name; None where none has any.

        basis: what a partition of the day would be made of now; None: nobody knows.
        """
        if basis is None or day in self._own:
            return None
        best: Reusable | None = None
        for table in (table for table, made_of in self._others.items() if made_of.get(day) == basis):
            schema = schema_of(self._lake, table, day)
            held = _columns(schema)
            columns = {name: held[one] for name, one in hashes.items() if one in held}
            if columns and (best is None or len(columns) > len(best.columns)):
                best = Reusable(table, columns, KEPT_FOR in (schema.metadata or {}))
        return best

    def read(self, day: date, found: Reusable, beside: Sequence[str]) -> pa.Table:
        """Columns that are no features, and the features found, under their names; with what the partition says of
        itself and what their columns carry."""
        rows = self._lake.read(found.table, day, [*beside, *found.columns.values()])
        taken = {name: name for name in beside} | dict(found.columns)
        fields = [rows.schema.field(column).with_name(name) for name, column in taken.items()]
        return pa.table([rows[column] for column in taken.values()], pa.schema(fields, rows.schema.metadata))

    def joined(self, day: date, found: Reusable, beside: Sequence[str], computed: pa.Table | None) -> pa.Table:
        """`read` with computed columns of the same rows, which both have in order of the first of `beside`; None: there
        are none. Of a pruned partition, those of its rows. Raises StoredRowsError."""
        held, key = self.read(day, found, beside), beside[0]
        if computed is None:
            return held
        if found.pruned:
            at = pc.index_in(held[key].combine_chunks(), value_set=computed[key].combine_chunks())
            computed = computed.take(at.drop_null())
        if not held[key].combine_chunks().equals(computed[key].combine_chunks()):
            raise StoredRowsError(
                f"{found.table} of {day} has {held.num_rows} rows, which are not the {computed.num_rows} of the tiles "
                f"that it says it was made of: delete {self._lake.path(found.table, day)} and build the day again"
            )
        for name in computed.column_names:
            if name not in (*held.column_names, "date"):
                held = held.append_column(name, computed[name])
        return held


def account(written: Sequence[Written]) -> str:
    """What was computed and what was taken as it was stored, in a line for people."""
    groups: dict[tuple[tuple[str, ...], int], list[Written]] = {}
    for each in written:
        groups.setdefault((each.computed, len(each.reused)), []).append(each)
    lines = []
    for (computed, reused), days in groups.items():
        named = ", ".join(computed[:_SHOWN]) + (f" and {len(computed) - _SHOWN} more" * (len(computed) > _SHOWN))
        rows, seconds = sum(each.rows for each in days), sum(each.seconds for each in days)
        lines.append(
            f"{len(days)} day(s): computed {len(computed)} feature(s){f' ({named})' if computed and reused else ''}, "
            f"reused {reused}, {rows:,} rows in {seconds:.1f} s"
        )
    return "; ".join(lines)


@dataclass(frozen=True)
class Holding:
    """What one table holds of the features of a set."""

    table: str
    days: int
    rows: int
    bytes: int
    noted: int
    """Days of which it is known what they were made of."""
    held: tuple[str, ...]
    """Features of the set whose columns the newest of these days has, by hash."""
    lacking: tuple[str, ...]


def holdings(lake: Lake, catalogue: Catalogue) -> list[Holding]:
    """The snapshots and the training set of a set of features, each followed by those of other sets beside it."""
    own, found = tables_of(catalogue), []
    for table, wanted in (
        (own.user_features, catalogue.of("user")),
        (own.merchant_features, catalogue.of("merchant")),
        (own.training_set, catalogue.features),
    ):
        paths = lake.files(table.split("/")[0], "data.parquet")
        days_of: dict[str, list[date]] = {table: []}
        for path in paths:
            days_of.setdefault(lake.name_of(path).rpartition("/date=")[0], []).append(day_of(path))
        for each, days in days_of.items():
            sizes = [lake.size(each, day) for day in days]
            known = noted(lake, each, days)
            hashes = set(_columns(schema_of(lake, each, max(known)))) if known else set()
            held = tuple(one.name for one in wanted if catalogue.hashes[one.name] in hashes)
            lacking = tuple(one.name for one in wanted if one.name not in held)
            rows, size = (sum(part[index] for part in sizes) for index in (0, 1))
            found.append(Holding(each, len(days), rows, size, len(known), held, lacking))
    return found


def schema_of(lake: Lake, table: str, day: date) -> pa.Schema:
    """The columns of a partition and what they say of themselves. Raises MissingPartition."""
    with lake.open(table, day) as file:
        return pq.read_schema(file)


def _columns(schema: pa.Schema) -> dict[str, str]:
    """The columns of a partition by the hash of their feature."""
    return {said.decode(): field.name for field in schema if (said := (field.metadata or {}).get(_HASH)) is not None}
