"""prometheus_client's inside: many observations in one step, and the files of processes that are gone.

What belongs here: every private name of prometheus_client. What does not: what is counted (`metrics`, `tally`). It is
pinned: `tests/unit/test_seams.py` notices another version, `test_tally.py` and `test_service.py` other counts.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from prometheus_client import Histogram


def observe_many(histogram: "Histogram", total: float, counts: Sequence[int]) -> None:
    """Add observations that were counted elsewhere: their sum, and how many fell into each bucket, the last of which
    has no bound.

    `observe`, which is public, takes one at a time. Raises ValueError unless there is one count per bucket.
    """
    histogram._sum.inc(total)
    for bucket, count in zip(histogram._buckets, counts, strict=True):
        if count:
            bucket.inc(count)


def forget_dead_processes() -> None:
    """Take the gauges of processes that were killed out of the sums over all processes."""
    # imported here: a worker knows PROMETHEUS_MULTIPROC_DIR only after this module may have been imported
    from prometheus_client.multiprocess import mark_process_dead

    for file in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("gauge_live*.db"):
        pid = int(file.stem.rpartition("_")[2])
        if not psutil.pid_exists(pid):
            mark_process_dead(pid)  # type: ignore[no-untyped-call]
