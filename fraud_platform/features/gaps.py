"""Days that were never built: who reads a range of days asks here, so that such a day does not pass for an empty one.

What belongs here: telling the two apart. What does not: which days a stage reads, building what is missing (`assets`).

Each stage writes a partition for each of its days, an empty one where nothing happened. So a day without a partition
was never built, or was lost; before the history begins there are none.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.lake import Lake, MissingPartition

GROUND = (
    tables.FX_RATES,
    tables.RAW_TRANSACTIONS,
    tables.FRAUD_LABELS,
    tables.USER_TILES,
    tables.MERCHANT_TILES,
    tables.LABEL_TILES,
)
"""What a night builds of a day whatever the features are, in this order."""

DATASET = "dataset"
"""The record of the history that a lake holds (`fraud_platform.dataset`)."""

_SHOWN = 5


class GapError(MissingPartition):
    """A day within the history that a stage reads was never built; the message names asset, days and remedy."""


def refuse_gaps(lake: Lake, table: str, days: Iterable[date]) -> None:
    """Raises GapError unless the lake holds each of `days` from the beginning of the history on. By one listing.

    The history begins on the recorded first day; in a lake without that record, with the table's first partition.
    """
    held = set(lake.days(table))
    first = _first_day(lake) or min(held, default=None)
    missing = sorted(day for day in days if first is not None and day >= first and day not in held)
    if missing:
        raise GapError(_message(lake, table, missing))


def whole_scan(lake: Lake, table: str, days: Iterable[date]) -> list[str]:
    """`Lake.scan_paths` of a range without a gap. Raises GapError."""
    wanted = list(days)
    paths = lake.scan_paths(table, wanted)
    if len(paths) < len(wanted):
        refuse_gaps(lake, table, wanted)
    return paths


def daily_tables(catalogue: Catalogue) -> tuple[str, ...]:
    """What a night builds of a day, in this order: GROUND, and what stands on a set of features."""
    own = tables.tables_of(catalogue)
    return (*GROUND, own.user_features, own.merchant_features, own.feature_medians, own.training_set)


def first_unbuilt(lake: Lake, days: Iterable[date], wanted: Iterable[str]) -> date | None:
    """The first of `days`, ascending, that one of the `wanted` tables lacks; None when all are built."""
    held = set.intersection(*(set(lake.days(table)) for table in wanted))
    return next((day for day in days if day not in held), None)


@dataclass(frozen=True)
class Unbuilt:
    """Tables, and the days from the first that one of them lacks to the last."""

    tables: tuple[str, ...]
    days: tuple[date, ...]


def unbuilt(lake: Lake, days: Sequence[date], catalogue: Catalogue = CATALOGUE) -> list[Unbuilt]:
    """What is to be built so that the daily tables have all of `days`, ascending, one after the other; empty when they
    have. What was built of later days while one was missing may be wrong, so it is built again.

    Where only what stands on the set of features is missing, as it is of another set, nothing below is touched.
    """
    every = daily_tables(catalogue)
    on_set = every[len(GROUND) :]
    below, above = (first_unbuilt(lake, days, wanted) for wanted in (GROUND, on_set))
    if below is None and above is None:
        return []
    if above is None or (below is not None and below <= above):
        return [Unbuilt(every, tuple(day for day in days if below is not None and day >= below))]
    parts = [] if below is None else [Unbuilt(GROUND, tuple(day for day in days if day >= below))]
    return [*parts, Unbuilt(on_set, tuple(day for day in days if day >= above))]


def _first_day(lake: Lake) -> date | None:
    record = lake.read_record(DATASET)
    return None if record is None else date.fromisoformat(record["first_day"])


def _message(lake: Lake, table: str, missing: list[date]) -> str:
    asset = table.split("/")[0]
    shown = ", ".join(map(str, missing[:_SHOWN])) + (f" and {len(missing) - _SHOWN} more" * (len(missing) > _SHOWN))
    return (
        f"{asset} was never built for {shown} under {lake.root}, which is not a day without rows. Build it, then "
        f"what stands on it: dagster asset materialize -m assets.definitions --select '{asset}' --partition-range "
        f"{missing[0]}...{missing[-1]}; or let the next night, or `fraud-platform up`, build every day from there on"
    )
