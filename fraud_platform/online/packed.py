"""The packed feature views: which catalogue features share one array in Redis, and what lies beside the array.

What belongs here: names, order and kinds. What does not: bytes (`layout`, `writer`) and Feast objects (`feature_repo`).
"""

from dataclasses import dataclass
from typing import Literal

from fraud_platform.features.catalogue import CATALOGUE, Catalogue, Feature

PROJECT = "fraud_platform"
"""Feast's project; part of every Redis key."""

VECTOR = "vector"
"""Feature that holds the packed array; null is NaN."""

EVENT_TIMESTAMP = "snapshot_at"
"""Column of the row's event timestamp: the last microsecond of the snapshot's day."""

Kind = Literal["floats", "int64", "strings", "int64s"]


@dataclass(frozen=True)
class PackedView:
    """One feature view written online as a packed array; `extras` are further features as (name, kind)."""

    name: str
    join_key: str
    entity: Literal["user", "merchant"]
    vector: tuple[Feature, ...]
    extras: tuple[tuple[str, Kind], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the packed features, in the array's order."""
        return tuple(feature.name for feature in self.vector)

    @property
    def features(self) -> tuple[tuple[str, Kind], ...]:
        """Every feature of the view as (name, kind), the array first."""
        return ((VECTOR, "floats"), *self.extras)


def user_view(catalogue: Catalogue = CATALOGUE) -> PackedView:
    """The packed view of users."""
    extras: tuple[tuple[str, Kind], ...] = (
        ("last_seen_us", "int64"),
        ("known_countries", "strings"),
        ("known_devices", "int64s"),
    )
    return PackedView("user_vector", "user_id", "user", catalogue.of("user"), extras)


def merchant_view(catalogue: Catalogue = CATALOGUE) -> PackedView:
    """The packed view of merchants."""
    return PackedView("merchant_vector", "merchant_id", "merchant", catalogue.of("merchant"))


USER_VECTOR = user_view()
MERCHANT_VECTOR = merchant_view()
VIEWS = (USER_VECTOR, MERCHANT_VECTOR)
