"""What was measured: processor time per decision, bytes per user, per attempt and per row.

What belongs here: reading the files that benchmarks write, and the shipped ones where there are none. What does not:
measuring (`benchmarks.serving`, `benchmarks.footprint`).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

SHIPPED = Path(__file__).parent / "figures.json"
SERVING, FOOTPRINT = "serving.json", "footprint.json"
COMMANDS = {SERVING: "make bench-serving", FOOTPRINT: "make bench-footprint"}


T = TypeVar("T", bound=msgspec.Struct)


class FiguresError(ValueError):
    """A file of figures does not hold what is needed; the message names file and field."""


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """From `serving.json`; further fields are ignored."""

    cpu_us_per_request: float
    reference_cpu_us_per_request: float
    """Of the reference pattern, in the same run."""


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


@dataclass(frozen=True)
class Figures:
    """Both, and where each is from."""

    serving: Serving
    footprint: Footprint
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
    return Figures(serving, footprint, sources)


def _converted(found: Any, where: str, name: str, kind: type[T]) -> T:
    try:
        return msgspec.convert(found, kind)
    except msgspec.ValidationError as error:
        raise FiguresError(f"{where}: {error}; write it again with `{COMMANDS[name]}`") from error
