"""What a release knows of the world, as distributions: drawn once for each release, and never again.

What belongs here: making and keeping a reference. What does not: comparing with it (`drift`).
"""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.features.tables import tables_of
from fraud_platform.lake import Lake, MissingPartition, days_between
from fraud_platform.model.bundle import Bundle, Scorer
from fraud_platform.monitoring.psi import Bins

_FOLDER = "drift_reference"
_MOST_ROWS = 200_000
_LEAST = 1e-6
_FAR = 3
"""A decile of as many rows is known to a tenth of a percent; the rest of a large bank's days adds nothing."""


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """The distributions of the days that a release learned from and was measured on.

    All of them, since many features move slowly: those of merchants are shared by all their payments, and windows of 90
    days grow with a young history. On the simulated bank 16 days against a later one exceed 0.2 on every third day with
    nothing drifting at all.
    """

    release: str
    """`fraud-detector-7`"""
    catalogue_hash: str
    """Of `features` as a set: what they meant when they were drawn."""
    first_day: date
    last_day: date
    rows: int
    features: dict[str, Bins]
    usual: dict[str, float]
    """Of each feature the largest index that a day has without anything drifting: one weekday is far from a week."""
    score: Bins
    """Of the calibrated probability, on the holdout alone: what was learned from is scored too well."""
    usual_score: float


def make_reference(lake: Lake, bundle: Bundle, seed: int, catalogue: Catalogue = CATALOGUE) -> Reference:
    """Draw the reference of a release from the training set of a set that has its features. Raises MissingPartition
    when no day of it is left."""
    split = bundle.data["split"]
    first = date.fromisoformat(split.get("train", split["holdout"])[0])
    holdout, last = (date.fromisoformat(day) for day in split["holdout"])
    days = sample_days(lake, days_between(first, last), seed, catalogue=catalogue)
    whole = np.concatenate(list(days.values()))
    scorer = Scorer(bundle, catalogue)
    scores = {day: scorer.score(vectors) for day, vectors in days.items() if day >= holdout}
    if not scores:
        table = tables_of(catalogue).training_set
        raise MissingPartition(f"{table} has no day from {holdout} to {last} under {lake.root}")
    features = {name: Bins.of(whole[:, index]) for index, name in enumerate(catalogue.names)}
    score = Bins.of(np.concatenate(list(scores.values())))
    return Reference(
        release=bundle.name,
        catalogue_hash=catalogue.hash,
        first_day=first,
        last_day=last,
        rows=len(whole),
        features=features,
        usual={
            name: usual(bins, [vectors[:, index] for vectors in days.values()])
            for index, (name, bins) in enumerate(features.items())
        },
        score=score,
        usual_score=usual(score, list(scores.values())),
    )


def usual(bins: Bins, days: Sequence[NDArray[np.floating]]) -> float:
    """The largest index against all of a reference that a day like its own would have. days: the values of each, (n,).

    The largest that one of its days has, or where a day three standard deviations out would lie, whichever is more: a
    feature that wanders has often not wandered far yet. On a logarithmic scale, since an index is a square.
    """
    found = np.log([max(bins.psi(bins.count(values)), _LEAST) for values in days])
    return float(np.exp(max(found.max(), found.mean() + _FAR * found.std())))


def ensure_reference(lake: Lake, release: Path, seed: int, catalogue: Catalogue = CATALOGUE) -> Reference:
    """The reference of a release, drawn if it never was. Raises BundleError, MissingPartition."""
    known = read_reference(lake, release.name, catalogue)
    if known is None:
        known = make_reference(lake, Bundle.load(release, catalogue), seed, catalogue)
        lake.write_record(f"{_FOLDER}/{known.release}", msgspec.to_builtins(known))
    return known


def read_reference(lake: Lake, release: str, catalogue: Catalogue = CATALOGUE) -> Reference | None:
    """The reference that was drawn for a release; None without one, and where it is of other features. release: its
    name, `fraud-detector-7`."""
    record: dict[str, Any] | None = lake.read_record(f"{_FOLDER}/{release}")
    reference = None if record is None else msgspec.convert(record, Reference)
    return reference if reference is not None and _is_known(reference, catalogue) else None


def _is_known(reference: Reference, catalogue: Catalogue) -> bool:
    """Whether its features are among ours, and mean what they meant."""
    names = [name for name in catalogue.names if name in reference.features]
    return len(names) == len(reference.features) and reference.catalogue_hash in catalogue.alike_of(names)


def sample_days(
    lake: Lake, days: list[date], seed: int, most: int = _MOST_ROWS, catalogue: Catalogue = CATALOGUE
) -> dict[date, NDArray[np.float32]]:
    """At most `most` vectors of the days that are there, float32 (n, features), an equal share of each.

    Raises MissingPartition when none of the days is left.
    """
    random = np.random.default_rng(seed)
    found, table = {}, tables_of(catalogue).training_set
    for day in days:
        if not lake.exists(table, day):
            continue
        rows = lake.read(table, day, catalogue.names)
        wanted = min(rows.num_rows, max(most // len(days), 1))
        taken = rows.take(np.sort(random.choice(rows.num_rows, wanted, replace=False)))
        columns = [taken.column(name).to_numpy(zero_copy_only=False) for name in catalogue.names]
        found[day] = np.column_stack(columns).astype(np.float32)
    if not found:
        raise MissingPartition(f"{table} has none of the days {days[0]} to {days[-1]} under {lake.root}")
    return found
