"""What was measured: processor time and waits per decision, bytes per user, per attempt and per row.

What belongs here: reading the files that benchmarks write, and the shipped ones where there are none. What does not:
measuring (`benchmarks.serving`, `benchmarks.footprint`, `benchmarks.width`).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

SHIPPED = Path(__file__).parent / "figures.json"
SERVING, FOOTPRINT, WIDTH = "serving.json", "footprint.json", "width.json"
COMMANDS = {SERVING: "make bench-serving", FOOTPRINT: "make bench-footprint", WIDTH: "make bench-width"}


T = TypeVar("T", bound=msgspec.Struct)


class FiguresError(ValueError):
    """A file of figures does not hold what is needed; the message names file and field."""


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """From `serving.json`; further fields are ignored."""

    reference_cpu_us_per_request: float
    """Of the reference pattern."""


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """From `footprint.json`; bytes."""

    redis_user_bytes: float
    """Of Redis' RSS per user: the packed row of the catalogue's features, with its key."""
    redis_merchant_bytes: float
    redis_velocity_bytes: float
    """Per attempt whose user and merchant have no other: the two sorted sets with their keys."""
    redis_identity_bytes: float
    """Per attempt: the two keys by which a retry is known."""
    redis_decision_bytes: float
    """Per decision: its record, which a retry gets again."""
    postgres_user_bytes: float
    """Table and index of the cold store, per user."""
    spool_record_bytes: float
    log_record_bytes: float
    """Parquet of the inference log, merged, per decision."""
    transaction_bytes: float
    """Parquet of raw_transactions and training_set, per transaction."""
    snapshot_user_bytes: float
    """Parquet of one day's user_features, per user."""


class Width(msgspec.Struct, frozen=True, kw_only=True):
    """From `width.json`; further fields are ignored. Of one worker on a core of its own."""

    work_us: float
    """Processor time per decision at half of what a worker sustains."""
    work_variation: float
    """Squared coefficient of variation of that time, by which waits grow with the load as they were seen to."""
    alone_mean_ms: float
    alone_p99_ms: float
    """Latency of a payment that meets no other, by the same model."""
    redis_us: float
    """Redis' processor time per decision, the log's stream included."""
    gateway_us: float | None = None
    """nginx' processor time per request; None where there was no nginx."""


@dataclass(frozen=True)
class Figures:
    """All of them, and where each is from."""

    serving: Serving
    footprint: Footprint
    width: Width
    sources: dict[str, str]
    """Per file, where its figures are from, for people."""


def read_figures(folder: Path) -> Figures:
    """The figures of the benchmarks' folder; a file that is not there is stood in for by the shipped one, which
    `sources` says. Raises FiguresError for a file that is there and does not fit."""
    shipped: dict[str, Any] = json.loads(SHIPPED.read_text())
    sources: dict[str, str] = {}

    def raw(name: str) -> tuple[Any, str]:
        path = folder / name
        if path.exists():
            sources[name] = f"measured on this machine: {path} of `{COMMANDS[name]}`"
            try:
                return json.loads(path.read_bytes()), str(path)
            except ValueError as error:
                raise FiguresError(f"{path} is not JSON; write it again with `{COMMANDS[name]}`") from error
        given = shipped[name]
        sources[name] = (
            f"NOT this machine's: {given['machine']}, by `{given['command']}`; "
            f"`{COMMANDS[name]}` writes {path} with your own"
        )
        return given["figures"], f"{SHIPPED}, {name}"

    serving = _converted(*raw(SERVING), SERVING, Serving)
    footprint = _converted(*raw(FOOTPRINT), FOOTPRINT, Footprint)
    width = _converted(*raw(WIDTH), WIDTH, Width)
    return Figures(serving, footprint, width, sources)


def _converted(found: Any, where: str, name: str, kind: type[T]) -> T:
    try:
        return msgspec.convert(found, kind)
    except msgspec.ValidationError as error:
        raise FiguresError(f"{where}: {error}; write it again with `{COMMANDS[name]}`") from error
