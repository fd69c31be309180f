"""The sets of features that a worker reads payments for: the champion's, and the challenger's where it is another.

What belongs here: which rows of a store each set takes. What does not: asking the store (`store`, `cold`), what a row
must be (`rows`), which models are served (`decision.engine`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from fraud_platform.features.catalogue import ENTITIES, Catalogue
from fraud_platform.online.packed import PackedView, views_of
from fraud_platform.online.rows import DEFAULT, BatchRow, Row, RowReader


@dataclass(frozen=True, eq=False)
class ServedSet:
    """A set, and its cold-start medians for when no snapshot can be read: float32 under "user" and "merchant"."""

    catalogue: Catalogue
    medians: dict[str, Row]

    @cached_property
    def views(self) -> tuple[PackedView, PackedView]:
        """Its views: of users, and of merchants."""
        return views_of(self.catalogue)

    @cached_property
    def unknown_velocity(self) -> NDArray[np.float64]:
        """The velocity block of a payment that velocity was not asked about."""
        return np.full(len(self.catalogue.of("velocity")), np.nan)


def without_medians(catalogue: Catalogue) -> ServedSet:
    """A set of which no medians are known."""
    return ServedSet(catalogue, {entity: np.full(len(catalogue.of(entity)), np.nan, np.float32) for entity in ENTITIES})


class SetReader(NamedTuple):
    """One set's rows in one store."""

    set_hash: str
    medians: dict[str, Row]
    users: RowReader
    merchants: RowReader


class SetReaders:
    """The sets of one store. A view that two sets have in common is read once."""

    def __init__(self, made: Callable[[PackedView], RowReader], sets: Sequence[ServedSet]) -> None:
        """made: the reader of a view, which is kept while a set has that view."""
        self._made = made
        self._kept: dict[str, RowReader] = {}
        self.serve(sets)

    def serve(self, sets: Sequence[ServedSet]) -> None:
        """Read these from now on: one set or two, the champion's first."""
        views = {view.name: view for served in sets for view in served.views}
        self._kept = {name: self._kept.get(name) or self._made(view) for name, view in views.items()}
        self.sets = tuple(sets)
        self.first, *others = (
            SetReader(
                served.catalogue.hash,
                served.medians,
                *(self._kept[view.name] for view in served.views),
            )
            for served in sets
        )
        self.second = others[0] if others else None

    @property
    def readers(self) -> tuple[RowReader, ...]:
        """Each view's reader, once."""
        return tuple(self._kept.values())

    def views_of(self, entity: str) -> list[PackedView]:
        """The views of an entity, the first set's first."""
        return [reader.view for reader in self._kept.values() if reader.view.entity == entity]


def shared(row: BatchRow, own_medians: Row) -> BatchRow:
    """A row of the first set as the second has it, whose view is the same."""
    return structs.replace(row, medians=own_medians) if row.served_by == DEFAULT else row
