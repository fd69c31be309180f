"""What a release was measured on, as distributions: drawn once for each release, and never again.

What belongs here: making and keeping a reference. What does not: comparing with it (`drift`).
"""

from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.lake import Lake, MissingPartition, days_between
from fraud_platform.model.bundle import Bundle, Scorer
from fraud_platform.monitoring.psi import Bins

_FOLDER = "drift_reference"
_MOST_ROWS = 200_000
"""A decile of as many rows is known to a tenth of a percent; the rest of a large bank's days adds nothing."""


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """The distributions of a release's holdout: days that its training did not see, as it would have been served."""

    release: str
    """`fraud-detector-7`"""
    catalogue_hash: str
    first_day: date
    last_day: date
    rows: int
    features: dict[str, Bins]
    score: Bins
    """Of the calibrated probability."""


def make_reference(lake: Lake, bundle: Bundle, seed: int) -> Reference:
    """Draw the reference of a release from the training set. Raises MissingPartition when no day of it is left."""
    first, last = (date.fromisoformat(day) for day in bundle.data["split"]["holdout"])
    days = days_between(first, last)
    vectors = sample_vectors(lake, days, seed)
    scores = Scorer(bundle).score(vectors)
    return Reference(
        release=bundle.name,
        catalogue_hash=bundle.catalogue_hash,
        first_day=first,
        last_day=last,
        rows=len(vectors),
        features={name: Bins.of(vectors[:, index]) for index, name in enumerate(CATALOGUE.names)},
        score=Bins.of(scores),
    )


def ensure_reference(lake: Lake, release: Path, seed: int) -> Reference:
    """The reference of a release, drawn if it never was. Raises BundleError, MissingPartition."""
    known = read_reference(lake, release.name)
    if known is None:
        known = make_reference(lake, Bundle.load(release), seed)
        lake.write_record(f"{_FOLDER}/{known.release}", msgspec.to_builtins(known))
    return known


def read_reference(lake: Lake, release: str) -> Reference | None:
    """The reference that was drawn for a release, or None. release: its name, `fraud-detector-7`."""
    record: dict[str, Any] | None = lake.read_record(f"{_FOLDER}/{release}")
    return None if record is None else msgspec.convert(record, Reference)


def sample_vectors(lake: Lake, days: list[date], seed: int, most: int = _MOST_ROWS) -> NDArray[np.float32]:
    """At most `most` vectors of the days, float32 (n, 50), an equal share of each.

    Raises MissingPartition when none of the days is left.
    """
    random = np.random.default_rng(seed)
    parts = []
    for day in days:
        if not lake.exists(tables.TRAINING_SET, day):
            continue
        rows = lake.read(tables.TRAINING_SET, day, CATALOGUE.names)
        wanted = min(rows.num_rows, most // len(days))
        chosen = np.sort(random.choice(rows.num_rows, wanted, replace=False))
        taken = rows.take(chosen)
        columns = [taken.column(name).to_numpy(zero_copy_only=False) for name in CATALOGUE.names]
        parts.append(np.column_stack(columns).astype(np.float32))
    if not parts:
        raise MissingPartition(f"{tables.TRAINING_SET} has none of the days {days[0]} to {days[-1]} under {lake.root}")
    return np.concatenate(parts)
