"""The vector: float32 in the order of a set of features, assembled by the same code for training and for a live
payment.

What belongs here: cold start, the order of blocks, a live payment's row of columns. What does not: where values were
read from.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fraud_platform.channels import is_online
from fraud_platform.features.catalogue import (
    CATALOGUE,
    DAY,
    ENTITIES,
    HOUR,
    MIN_TRANSACTIONS,
    Catalogue,
    Entity,
    check_served,
)
from fraud_platform.features.request import Floats, assemble, warm
from fraud_platform.schema import Transaction

Matrix = NDArray[np.float32]


_Plan = tuple[int, NDArray[np.intp], NDArray[np.intp]]
"""One entity's batch features by cold-start rule: positions of its 90-day count, of its `median` and its `zero`
features, as `assemble` takes them."""

_INPUTS = (
    "amount",
    "user_effective_time",
    "last_effective_time",
    "is_online",
    "country_mismatch",
    "country_known",
    "device_known",
)
"""Columns of VectorColumns that only request features need, in the order of `request_values`."""

_PERSONAL = (
    "user_amount_avg_30d",
    "user_amount_avg_90d",
    "user_amount_std_90d",
    "user_amount_max_90d",
    "merchant_amount_avg_30d",
)
"""Batch values that request features compare an amount with, in the order of `request_values`."""


@dataclass(frozen=True)
class VectorColumns:
    """Inputs of `VectorBuilder.build_all`, n rows each; NaN is null."""

    user_rows: Matrix
    user_medians: Matrix
    merchant_rows: Matrix
    merchant_medians: Matrix
    velocity: Floats
    """(n, velocity features), counts and sums, in the catalogue's order; NaN where an epoch is incomplete."""
    amount: Floats
    event_time: NDArray[np.int64]
    user_effective_time: Floats
    last_effective_time: Floats
    is_online: Floats
    country_mismatch: Floats
    country_known: Floats
    device_known: Floats


class OnlineValues(Protocol):
    """What the vector needs of one online read; `online.store.OnlineFeatures` has it."""

    @property
    def user_row(self) -> Matrix | None: ...
    @property
    def merchant_row(self) -> Matrix | None: ...
    @property
    def user_medians(self) -> Matrix: ...
    @property
    def merchant_medians(self) -> Matrix: ...
    @property
    def known_countries(self) -> frozenset[str] | None: ...
    @property
    def known_devices(self) -> frozenset[int] | None: ...
    @property
    def velocity(self) -> Floats: ...
    @property
    def user_effective_time(self) -> int: ...
    @property
    def last_effective_time(self) -> int | None: ...


def warmed(catalogue: Catalogue, entity: Entity, rows: Matrix, medians: Matrix) -> Matrix:
    """One entity's batch values after cold start, as vectors have them: float32 (n, features of the entity).

    rows, medians: (n, features of the entity) in the set's order; NaN is null, and a whole row of an entity that is
    missing.
    """
    out = np.empty_like(rows)
    warm(out, rows, medians, _plan(catalogue, entity), MIN_TRANSACTIONS)
    return out


def _plan(catalogue: Catalogue, entity: Entity) -> _Plan:
    features = catalogue.of(entity)
    rules = np.array([feature.cold_start for feature in features])
    count = features.index(catalogue.seen(entity))
    return count, np.flatnonzero(rules == "median"), np.flatnonzero(rules == "zero")


def _flag(value: bool | None) -> float:
    return math.nan if value is None else float(value)


class VectorBuilder:
    """Builds the vectors of one set of features."""

    def __init__(self, catalogue: Catalogue = CATALOGUE) -> None:
        """catalogue: any batch features beside the velocity and request features there are. Raises ValueError for a set
        that `check_served` refuses."""
        check_served(catalogue)
        self.catalogue = catalogue
        self._user, self._merchant = (_plan(catalogue, entity) for entity in ENTITIES)
        self._no_user, self._no_merchant = (
            np.full(len(catalogue.of(entity)), np.nan, np.float32) for entity in ENTITIES
        )
        self._personal = np.array([catalogue.position[name] for name in _PERSONAL], np.intp)

    def build_all(self, columns: VectorColumns) -> Matrix:
        """The vectors, float32 of shape (n, features), C-contiguous; null is NaN. Raises ValueError for blocks of other
        widths than the set's."""
        shape = columns.user_rows.shape, columns.merchant_rows.shape
        parts = [getattr(columns, name) for name in _INPUTS]
        return self._assembled(
            np.ascontiguousarray(columns.user_rows),
            np.ascontiguousarray(np.broadcast_to(columns.user_medians, shape[0])),
            np.ascontiguousarray(columns.merchant_rows),
            np.ascontiguousarray(np.broadcast_to(columns.merchant_medians, shape[1])),
            np.ascontiguousarray(columns.velocity, np.float64),
            np.column_stack(parts).astype(np.float64),
            np.ascontiguousarray(columns.event_time, np.int64),
        )

    def build(self, payment: Transaction, online: OnlineValues) -> Matrix:
        """The vector of one payment, float32 of shape (features,). Raises ValueError for rows of other widths than the
        set's."""
        known_country = None
        if payment.country is not None and online.known_countries is not None:
            known_country = payment.country in online.known_countries
        known_device = None
        if payment.device_key is not None and online.known_devices is not None:
            known_device = payment.device_key in online.known_devices
        mismatch = None
        if payment.country is not None and payment.user_country is not None:
            mismatch = payment.country != payment.user_country
        last = math.nan if online.last_effective_time is None else float(online.last_effective_time)
        inputs = (
            math.nan if payment.amount is None else float(payment.amount),
            float(online.user_effective_time),
            last,
            _flag(is_online(payment.channel)),
            _flag(mismatch),
            _flag(known_country),
            _flag(known_device),
        )
        row: Matrix = self._assembled(
            (self._no_user if online.user_row is None else online.user_row)[None, :],
            online.user_medians[None, :],
            (self._no_merchant if online.merchant_row is None else online.merchant_row)[None, :],
            online.merchant_medians[None, :],
            online.velocity[None, :],
            np.array([inputs]),
            np.array([payment.event_time], np.int64),
        )[0]
        return row

    def _assembled(
        self,
        users: Matrix,
        user_medians: Matrix,
        merchants: Matrix,
        merchant_medians: Matrix,
        velocity: Floats,
        inputs: Floats,
        event_time: NDArray[np.int64],
    ) -> Matrix:
        """`inputs` are the columns of `_INPUTS`, (n, 7)."""
        out = np.empty((len(users), len(self.catalogue.names)), np.float32)
        assemble(
            out, users, user_medians, self._user, merchants, merchant_medians, self._merchant, velocity, inputs,
            event_time, self._personal, MIN_TRANSACTIONS, DAY, HOUR,
        )  # fmt: skip
        return out
