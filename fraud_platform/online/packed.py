"""The packed feature views: which catalogue features share one array in Redis, and what lies beside the array.

What belongs here: names, order and kinds. What does not: bytes (`layout`, `writer`) and Feast objects (`feature_repo`).

A view of other features has another name, hence other fields in Redis, another table in PostgreSQL, another record and
ledger: what two versions of the platform load lies side by side and meets nowhere.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from fraud_platform.features.catalogue import CATALOGUE, ENTITIES, Catalogue, Entity, Feature, digest_of

PROJECT = "fraud_platform"
"""Feast's project; part of every Redis key."""

VECTOR = "vector"
"""Feature that holds the packed array; null is NaN."""

EVENT_TIMESTAMP = "snapshot_at"
"""Column of the row's event timestamp: the last microsecond of the snapshot's day."""

Kind = Literal["floats", "int64", "strings", "int64s"]


_NAMED_BEFORE = {"e16fef2d1f0d": "user_vector", "7b9c4529ae2f": "merchant_vector"}
"""Views of the first fifty features, by hash: they keep the names that they had before views had hashes."""


@dataclass(frozen=True)
class PackedView:
    """One feature view written online as a packed array; `extras` are further features as (name, kind)."""

    entity: Entity
    vector: tuple[Feature, ...]
    members: str
    """Hash of `vector` as a set."""
    extras: tuple[tuple[str, Kind], ...] = ()

    @property
    def join_key(self) -> str:
        """The column that names the entity."""
        return f"{self.entity}_id"

    @cached_property
    def hash(self) -> str:
        """Twelve hex digits that name what a row holds: the array's members in order, and what lies beside it."""
        return digest_of([self.members, self.extras])

    @cached_property
    def name(self) -> str:
        """The view's name in every store."""
        return _NAMED_BEFORE.get(self.hash, f"{self.entity}_vector_{self.hash}")

    @property
    def named_before(self) -> bool:
        """Whether records that carry no hash of a view may speak of this one."""
        return self.hash in _NAMED_BEFORE

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the packed features, in the array's order."""
        return tuple(feature.name for feature in self.vector)

    @property
    def features(self) -> tuple[tuple[str, Kind], ...]:
        """Every feature of the view as (name, kind), the array first."""
        return ((VECTOR, "floats"), *self.extras)


_EXTRAS: dict[Entity, tuple[tuple[str, Kind], ...]] = {
    "user": (("last_seen_us", "int64"), ("known_countries", "strings"), ("known_devices", "int64s")),
    "merchant": (),
}


def packed_view(entity: Entity, catalogue: Catalogue = CATALOGUE) -> PackedView:
    """The packed view of an entity's batch features."""
    vector = catalogue.of(entity)
    return PackedView(entity, vector, catalogue.hash_of([feature.name for feature in vector]), _EXTRAS[entity])


def is_packed(name: str) -> bool:
    """Whether a name is that of a packed view, of whatever set."""
    hashed = re.fullmatch(rf"({'|'.join(ENTITIES)})_vector_[0-9a-f]{{12}}", name)
    return hashed is not None or name in _NAMED_BEFORE.values()


def views_of(catalogue: Catalogue) -> tuple[PackedView, PackedView]:
    """The packed views of a set: of users, and of merchants."""
    return packed_view("user", catalogue), packed_view("merchant", catalogue)


VIEWS = USER_VECTOR, MERCHANT_VECTOR = views_of(CATALOGUE)
