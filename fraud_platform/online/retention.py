"""Which snapshots the online store has left behind, and making them small.

What belongs here: the views' tables and when each of their snapshots was in force. What does not: what is kept
(`features.pruning`).
"""

from collections.abc import Iterator
from datetime import date

from tqdm import tqdm

from fraud_platform.features.pruning import Pruned, prunable, prune
from fraud_platform.lake import Lake
from fraud_platform.online.packed import VIEWS, PackedView
from fraud_platform.online.snapshot_load import SNAPSHOT_TABLES
from fraud_platform.replay import spans_of
from fraud_platform.settings import Settings


def left_behind(settings: Settings, lake: Lake, now_us: int) -> list[tuple[PackedView, date]]:
    """Whole snapshots that went out of force more than `whole_snapshot_days` ago. now_us: UTC microseconds."""
    return [
        (view, day)
        for view in VIEWS
        for day in prunable(
            lake,
            SNAPSHOT_TABLES[view.entity],
            spans_of(settings, lake, view),
            now_us,
            settings.whole_snapshot_days,
        )
    ]


def prune_all(settings: Settings, lake: Lake, snapshots: list[tuple[PackedView, date]]) -> Iterator[Pruned]:
    """Prune these, one after the other; killed in between, the rest is left for the next time."""
    spans = {view: spans_of(settings, lake, view) for view in VIEWS}
    for view, day in tqdm(snapshots, desc="prune snapshots", unit="snapshot", disable=None):
        yield prune(lake, SNAPSHOT_TABLES[view.entity], view.join_key, day, spans[view])
