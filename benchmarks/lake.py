"""`python -m benchmarks.lake`: what listing, scanning and committing cost on S3: requests, and seconds beside a folder.

What belongs here: the lake's own calls on tables of no meaning. What does not: features (`million`). Without `--lake`
the store is the test suite's server on loopback, where a request costs processor time and no way: count, and multiply.
"""

import argparse
import logging
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from datetime import date, timedelta

import duckdb
import numpy as np
import pyarrow as pa
import s3fs
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fraud_platform.inference_log.record import encode_record
from fraud_platform.inference_log.table import LogTable
from fraud_platform.inference_log.table import rows as rows_of
from fraud_platform.lake import Lake, days_between
from tests.integration.s3_kit import BUCKET, s3_server
from tests.record_kit import record

LAST = date(2026, 6, 30)
DAYS = days_between(LAST - timedelta(days=399), LAST)
ROWS = 10_000


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lake", help="address of a store to measure, s3://bucket/prefix; a folder of its own is used")
    given = parser.parse_args().lake
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    asked: list[str] = []
    call = s3fs.S3FileSystem._call_s3

    async def counted(self: s3fs.S3FileSystem, method: str, *arguments: object, **options: object) -> object:
        asked.append(method)
        return await call(self, method, *arguments, **options)

    s3fs.S3FileSystem._call_s3 = counted
    shown = Table("what", "requests", "seconds", "in a folder", box=SIMPLE_HEAD)
    with ExitStack() as stack:
        if not given:
            stack.enter_context(s3_server())
        folder = Lake(stack.enter_context(tempfile.TemporaryDirectory()))
        store = Lake(f"{given or f's3://{BUCKET}'}/bench-{uuid.uuid4().hex[:8]}")
        for (name, on_store), (_, on_folder) in zip(_calls(store), _calls(folder), strict=True):
            asked.clear()
            seconds = _seconds(on_store)
            requests = len(asked)
            shown.add_row(name, f"{requests:,}", f"{seconds:.2f}", f"{_seconds(on_folder):.2f}")
        store.remove(store.every_file(""))
    Console(width=110).print(shown)


def _calls(lake: Lake) -> list[tuple[str, Callable[[], object]]]:
    numbers = np.random.default_rng(0).random((ROWS, 8))
    rows = pa.table({f"x{n}": numbers[:, n] for n in range(8)})
    log, decision = LogTable(lake), record()

    def scan(days: list[date]) -> object:
        connection = duckdb.connect()
        lake.attach(connection)
        paths = lake.scan_paths("table", days)
        return connection.execute(f"SELECT sum(x1), sum(x2) FROM read_parquet({paths})").fetchall()

    return [
        (f"write {len(DAYS)} days of {ROWS:,} rows", lambda: [lake.write("table", day, rows) for day in DAYS]),
        (f"list {len(DAYS)} days", lambda: lake.days("table")),
        ("scan 30 days by DuckDB, 2 of 8 columns", lambda: scan(DAYS[-30:])),
        ("scan 400 days", lambda: scan(DAYS)),
        ("read a day whole", lambda: lake.read("table", LAST)),
        ("commit to the inference log", lambda: log.commit(rows_of([(decision, encode_record(decision))]), {})),
    ]


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
