"""Old snapshots keep the rows that payments asked for, so that 90 of them are no 90 copies of every user.

What belongs here: which snapshots, which rows, and knowing later what was kept. What does not: the rows themselves
(`snapshots`), when it is done (the retention's schedule).

While a snapshot was in force it was asked for whoever paid or was paid. The training set and replay ask for them again;
nobody asks for the others, and tiles give them back. A pruned file says by a digest whose rows it was kept for, so that
raw transactions that changed since are noticed rather than given defaults.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fraud_platform.features import tables
from fraud_platform.features.catalogue import DAY
from fraud_platform.features.in_force import Span
from fraud_platform.features.stored import KEPT_FOR, note, noted
from fraud_platform.lake import Lake, MissingPartition


class PrunedSnapshotError(RuntimeError):
    """A snapshot keeps only what payments asked for, which is not what is asked now; the message says what to do."""


@dataclass(frozen=True)
class Pruned:
    """What pruning made of one snapshot."""

    table: str
    day: date
    rows: tuple[int, int]
    """Before and after."""
    bytes: tuple[int, int]


def prunable(lake: Lake, table: str, spans: Sequence[Span], now_us: int, keep_days: int) -> list[date]:
    """Whole snapshots, older than `keep_days`, that went out of force longer ago. now_us: UTC microseconds."""
    before = now_us - keep_days * DAY
    lasting = {span.snapshot for span in spans if span.visible_until_us >= before}
    # the newest is what a store that lost everything is loaded with
    old = [day for day in lake.days(table)[:-1] if day < _day(before) and day not in lasting]
    return [day for day in old if kept_for(lake, table, day) is None]


def prune(lake: Lake, table: str, key: str, day: date, spans: Sequence[Span]) -> Pruned:
    """Rewrite a snapshot with the rows of who paid, or was paid, while it was in force. key: user_id or merchant_id.

    A snapshot that no span names was never in force: it keeps none. Raises MissingPartition.
    """
    before = lake.size(table, day)
    asked = {each: _asked(lake, key, each, spans_of_day) for each, spans_of_day in _days_in_force(day, spans).items()}
    wanted = pa.concat_arrays([pa.array([], pa.string()), *asked.values()])
    rows = lake.read(table, day)
    kept = rows.filter(pc.is_in(rows[key], value_set=wanted))
    digests = {each.isoformat(): _digest(keys) for each, keys in asked.items()}
    said = {**(rows.schema.metadata or {}), KEPT_FOR: json.dumps(digests, sort_keys=True).encode()}
    made_of = noted(lake, table, [day]).get(day)
    size = lake.write(table, day, kept.replace_schema_metadata(said).combine_chunks())
    note(lake, table, day, made_of)
    return Pruned(table, day, (before[0], kept.num_rows), (before[1], size))


def kept_for(lake: Lake, table: str, day: date) -> dict[date, str] | None:
    """Per raw day a digest of the keys that a pruned snapshot keeps; None of a whole one. Raises MissingPartition."""
    with lake.open(table, day) as file:
        said = (pq.read_schema(file).metadata or {}).get(KEPT_FOR)
    return None if said is None else {date.fromisoformat(each): text for each, text in json.loads(said).items()}


def refuse_pruned(lake: Lake, table: str, day: date) -> None:
    """Raises PrunedSnapshotError for a snapshot that cannot serve every user, and MissingPartition."""
    if kept_for(lake, table, day) is not None:
        raise PrunedSnapshotError(
            f"{table} of {day} keeps only what payments asked for and cannot be loaded: materialize it again"
        )


def check_kept(lake: Lake, table: str, key: str, days: Sequence[date], spans: Sequence[Span]) -> None:
    """Raises PrunedSnapshotError where a pruned snapshot in force on `days` was kept for other payments than there are
    now; MissingPartition is no matter of this."""
    for snapshot in sorted({span.snapshot for span in spans}):
        asking = {day: own for day, own in _days_in_force(snapshot, spans).items() if day in days}
        try:
            kept = kept_for(lake, table, snapshot) if asking else None
        except MissingPartition:
            # nobody has a snapshot then, as the training set will find
            continue
        if kept is None:
            continue
        for day, own in asking.items():
            if kept.get(day) != _digest(_asked(lake, key, day, own)):
                raise PrunedSnapshotError(
                    f"{table} of {snapshot} was kept for other payments than {tables.RAW_TRANSACTIONS} of {day} has"
                    " now: materialize it again"
                )


def _days_in_force(snapshot: date, spans: Sequence[Span]) -> dict[date, list[Span]]:
    """UTC days of received_at on which a snapshot was in force, each with the spans that say so."""
    found: dict[date, list[Span]] = {}
    for span in spans:
        if span.snapshot == snapshot:
            day = _day(span.visible_from_us)
            while _start(day) < span.visible_until_us:
                found.setdefault(day, []).append(span)
                day += timedelta(days=1)
    return found


def _asked(lake: Lake, key: str, day: date, spans: Sequence[Span]) -> pa.Array:
    """Who paid, or was paid, on a raw day while one of the spans lasted: each once, in order."""
    if not lake.exists(tables.RAW_TRANSACTIONS, day):
        return pa.array([], pa.string())
    rows = lake.read(tables.RAW_TRANSACTIONS, day, [key, "received_at"])
    received = rows["received_at"].cast(pa.int64()).to_numpy()
    inside = np.zeros(len(received), bool)
    for span in spans:
        inside |= (received >= span.visible_from_us) & (received < span.visible_until_us)
    keys = pc.unique(rows[key].filter(pa.array(inside)))
    return keys.take(pc.sort_indices(keys))


def _digest(keys: pa.Array) -> str:
    return hashlib.sha256(json.dumps(keys.to_pylist()).encode()).hexdigest()


def _start(day: date) -> int:
    return (day - date(1970, 1, 1)).days * DAY


def _day(instant_us: int) -> date:
    return date(1970, 1, 1) + timedelta(days=instant_us // DAY)
