"""What a vector becomes when a store is lost: for training that bears it, and for measuring what it costs.

What belongs here: the levels and their vectors. What does not: which store serves live payments.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fraud_platform.features.catalogue import CATALOGUE, DAY, HOUR, Catalogue
from fraud_platform.features.vector import Matrix, VectorBuilder, VectorColumns

REDIS_LOST, VELOCITY_LOST, DEFAULTS_ONLY = "redis_lost", "velocity_lost", "defaults_only"
LEVELS = {
    REDIS_LOST: "batch features come from the cold store, velocity and time since the last payment are unknown",
    VELOCITY_LOST: "windows are not complete again after a loss: the same vector, from Redis",
    DEFAULTS_ONLY: "no store answers: medians in place of the user's and the merchant's own values",
}
"""What each level means. The age of a cold store's snapshot is not part of it."""


def _live(catalogue: Catalogue) -> list[int]:
    """Positions of what only the live store knows."""
    return [
        position
        for position, one in enumerate(catalogue.features)
        if one.source == "velocity" or one.aggregate == "seconds_since_last"
    ]


def degrade(
    vectors: Matrix, level: str, medians: Mapping[str, Sequence[float | None]], catalogue: Catalogue = CATALOGUE
) -> Matrix:
    """The vectors of a set, float32 (n, features), as serving would have built them at a level of LEVELS; the given
    ones stay.

    medians: cold-start medians under "user" and "merchant", in the catalogue's order. Ratios of an amount whose
    whole minor units exceed float32 (167,772.16 with two decimals) may differ from serving's in the last bit.
    """
    if level not in LEVELS:
        raise ValueError(f"{level!r} is no level; there are {', '.join(LEVELS)}")
    if level == DEFAULTS_ONLY:
        return _of_strangers(vectors, medians, catalogue)
    lost = vectors.copy()
    lost[:, _live(catalogue)] = np.nan
    return lost


def degrade_some(
    vectors: Matrix,
    share: float,
    medians: Mapping[str, Sequence[float | None]],
    seed: int | np.random.Generator,
    catalogue: Catalogue = CATALOGUE,
) -> Matrix:
    """The vectors with `share` of the rows, drawn at random, half at VELOCITY_LOST and half at DEFAULTS_ONLY.

    seed: one generator over the parts of a matrix draws the rows that its seed alone draws of the whole.
    """
    if not share:
        return vectors
    draws = np.random.default_rng(seed).random(len(vectors))
    mixed = vectors.copy()
    for level, chosen in ((VELOCITY_LOST, draws < share / 2), (DEFAULTS_ONLY, (draws >= share / 2) & (draws < share))):
        mixed[chosen] = degrade(vectors[chosen], level, medians, catalogue)
    return mixed


def _of_strangers(vectors: Matrix, medians: Mapping[str, Sequence[float | None]], catalogue: Catalogue) -> Matrix:
    def column(name: str) -> NDArray[np.float64]:
        return vectors[:, catalogue.position[name]].astype(np.float64)

    def nothing(width: int) -> Matrix:
        return np.full((len(vectors), width), np.nan, np.float32)

    unknown = np.full(len(vectors), np.nan)
    # any day of that weekday will do: request features see the hour and the weekday alone
    weekday = np.nan_to_num(column("day_of_week")).astype(np.int64)
    hour = np.nan_to_num(column("hour_of_day")).astype(np.int64)
    return VectorBuilder(catalogue).build_all(
        VectorColumns(
            user_rows=nothing(len(catalogue.of("user"))),
            user_medians=_row(medians["user"]),
            merchant_rows=nothing(len(catalogue.of("merchant"))),
            merchant_medians=_row(medians["merchant"]),
            velocity=nothing(len(catalogue.of("velocity"))).astype(np.float64),
            amount=column("amount"),
            event_time=((weekday - 3) % 7) * DAY + hour * HOUR,
            user_effective_time=unknown,
            last_effective_time=unknown,
            is_online=column("is_online"),
            country_mismatch=column("country_mismatch"),
            country_known=unknown,
            device_known=unknown,
        )
    )


def _row(medians: Sequence[float | None]) -> Matrix:
    return np.array([np.nan if value is None else value for value in medians], np.float32)
