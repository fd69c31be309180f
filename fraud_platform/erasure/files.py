"""The files of a home that hold rows: the lake, imports, studies. One user counted in them, and taken out of them.

What belongs here: which files, rewriting one whole or not at all. What does not: what becomes of rows (`rows`).
A file that does not name the user is not touched, so an erasure that was killed goes on where it stopped.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fraud_platform.erasure.mentions import mentions, searchable
from fraud_platform.erasure.names import Names
from fraud_platform.erasure.rows import Pseudonyms, anonymised
from fraud_platform.inference_log.callers import with_callers
from fraud_platform.lake import Lake
from fraud_platform.settings import Settings

DELETED = ("quarantine", "inference_log_rejected", "online_source", "user_windows")
"""Tables of which nothing is counted: rows that name the user are deleted."""
SORTED_BY_USER = ("user_tiles", "user_features")
"""Tables in the order of user_id, which a new name changes."""

Payment = tuple[str, str]
"""Caller and transaction_id."""

_BATCH_ROWS = 65_536


@dataclass
class Found:
    """Where files name the user."""

    rows: Counter[str] = field(default_factory=Counter)
    """Rows per table."""
    paths: list[tuple[Lake, str]] = field(default_factory=list)
    payments: set[Payment] = field(default_factory=set)
    """Payments of the user, also those that already bear the pseudonym."""


def lakes(settings: Settings) -> dict[str, Lake]:
    """Every root that holds tables, by what people call it."""
    home = settings.home.absolute()
    found = {
        "lake": Lake(settings.lake),
        "imports": Lake(str(home / "imports")),
        "online_source": Lake(str(home / "feast")),
    }
    for study in sorted(home.glob("evaluate/*")):
        found |= {
            f"{study.name}'s lake": Lake(str(study / "lake")),
            f"{study.name}'s imports": Lake(str(study / "imports")),
        }
    return found


def find(settings: Settings, names: Names, pseudonyms: Collection[str]) -> Found:
    """Read every Parquet file of every root, and count the rows that name the person."""
    found = Found()
    for name, lake in lakes(settings).items():
        for path in lake.every_file(".parquet"):
            table = lake.table_of(path) if name.endswith("lake") else name
            # an import's rows are in the lake as well, which knows whose they are
            payments = set() if name.endswith("imports") else found.payments
            count = _count(lake, path, names, pseudonyms, payments)
            if count:
                found.rows[table if name in ("lake", "imports", "online_source") else f"{name}, {table}"] += count
                found.paths.append((lake, path))
    return found


def _count(lake: Lake, path: str, names: Names, pseudonyms: Collection[str], payments: set[Payment]) -> int:
    """Rows of a file that name the person; their payments are added to those known."""
    count = 0
    with lake.open_file(path) as file:
        parquet = pq.ParquetFile(file)
        schema = parquet.schema_arrow
        columns = searchable(schema)
        if not columns:
            return 0
        owned = {"transaction_id", "user_id", "received_at"} <= set(schema.names)
        keys = [name for name in ("transaction_id", "caller", "received_at") if owned and name in schema.names]
        wanted = [*columns, *keys]
        called = pa.array([*names.users, *pseudonyms])
        for batch in parquet.iter_batches(_BATCH_ROWS, columns=wanted):
            rows = pa.table(batch)
            count += int(mentions(rows, names).sum())
            if owned:
                theirs = rows.filter(pc.fill_null(pc.is_in(rows["user_id"], called), False))
                theirs = with_callers(lake, theirs.filter(pc.is_valid(theirs["transaction_id"])))
                payments.update(zip(theirs["caller"].to_pylist(), theirs["transaction_id"].to_pylist(), strict=True))
    return count


def take_out(found: Found, names: Names, pseudonyms: Pseudonyms) -> None:
    """Rewrite every file that names the person; each is replaced whole."""
    for lake, path in found.paths:
        seen = lake.seen(path)
        try:
            with lake.open_file(path) as file:
                parquet = pq.ParquetFile(file)
                group = parquet.metadata.row_group(0).num_rows if parquet.metadata.num_row_groups else None
                rows = parquet.read()
        except FileNotFoundError:
            # merged meanwhile: the look afterwards finds the other file
            continue
        theirs = mentions(rows, names)
        table = lake.table_of(path)
        kept = rows.filter(pa.array(~theirs)) if table in DELETED else anonymised(rows, theirs, names, pseudonyms)
        if table in SORTED_BY_USER:
            kept = kept.sort_by("user_id")
        sink = pa.BufferOutputStream()
        pq.write_table(kept, sink, compression="zstd", store_schema=True, row_group_size=group)
        # so it does one that was written anew
        lake.replace(path, sink.getvalue().to_pybytes(), seen)
