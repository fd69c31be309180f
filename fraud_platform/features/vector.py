"""The vector: 50 float32 in the catalogue's order, assembled by the same code for training and for a live payment.

What belongs here: cold start, the order of blocks, a live payment's row of columns. What does not: where values were
read from.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fraud_platform.channels import is_online
from fraud_platform.features.catalogue import CATALOGUE, DAY, HOUR, MIN_TRANSACTIONS, Entity
from fraud_platform.features.request import Floats, assemble
from fraud_platform.schema import Transaction

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class _Block:
    """Column positions of one entity's batch features, by cold-start rule."""

    width: int
    count: int
    median: NDArray[np.intp]
    zero: NDArray[np.intp]

    @cached_property
    def plan(self) -> tuple[int, NDArray[np.intp], NDArray[np.intp]]:
        """What `_warm` needs of it."""
        return self.count, self.median, self.zero

    @staticmethod
    def of(source: Entity) -> "_Block":
        features = CATALOGUE.of(source)
        rules = np.array([feature.cold_start for feature in features])
        return _Block(
            len(features), features.index(CATALOGUE.seen(source)), np.flatnonzero(rules == "median"),
            np.flatnonzero(rules == "zero"),
        )  # fmt: skip


_USER, _MERCHANT = _Block.of("user"), _Block.of("merchant")
_NO_USER = np.full(_USER.width, np.nan, np.float32)
_NO_MERCHANT = np.full(_MERCHANT.width, np.nan, np.float32)
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


_PERSONAL = np.array(
    [
        CATALOGUE.position[name]
        for name in (
            "user_amount_avg_30d",
            "user_amount_avg_90d",
            "user_amount_std_90d",
            "user_amount_max_90d",
            "merchant_amount_avg_30d",
        )
    ],
    np.intp,
)
"""Positions of the batch values that request features compare an amount with, in the order of `request_values`."""


def _assembled(
    users: Matrix,
    user_medians: Matrix,
    merchants: Matrix,
    merchant_medians: Matrix,
    velocity: Floats,
    inputs: Floats,
    event_time: NDArray[np.int64],
) -> Matrix:
    """The vectors, (n, 50); `inputs` are the columns of `_INPUTS`, (n, 7)."""
    out = np.empty((len(users), len(CATALOGUE.names)), np.float32)
    assemble(
        out, users, user_medians, _USER.plan, merchants, merchant_medians, _MERCHANT.plan, velocity, inputs, event_time,
        _PERSONAL, MIN_TRANSACTIONS, DAY, HOUR,
    )  # fmt: skip
    return out


@dataclass(frozen=True)
class VectorColumns:
    """Inputs of `build_vectors`, n rows each; NaN is null."""

    user_rows: Matrix
    user_medians: Matrix
    merchant_rows: Matrix
    merchant_medians: Matrix
    velocity: Floats
    """(n, 11), counts and sums, in the catalogue's order; NaN where an epoch is incomplete."""
    amount: Floats
    event_time: NDArray[np.int64]
    user_effective_time: Floats
    last_effective_time: Floats
    is_online: Floats
    country_mismatch: Floats
    country_known: Floats
    device_known: Floats


def build_vectors(columns: VectorColumns) -> Matrix:
    """The vectors, float32 of shape (n, 50), C-contiguous; null is NaN."""
    shape = columns.user_rows.shape, columns.merchant_rows.shape
    parts = [getattr(columns, name) for name in _INPUTS]
    return _assembled(
        np.ascontiguousarray(columns.user_rows),
        np.ascontiguousarray(np.broadcast_to(columns.user_medians, shape[0])),
        np.ascontiguousarray(columns.merchant_rows),
        np.ascontiguousarray(np.broadcast_to(columns.merchant_medians, shape[1])),
        np.ascontiguousarray(columns.velocity, np.float64),
        np.column_stack(parts).astype(np.float64),
        np.ascontiguousarray(columns.event_time, np.int64),
    )


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


def _flag(value: bool | None) -> float:
    return math.nan if value is None else float(value)


def build_vector(payment: Transaction, online: OnlineValues) -> Matrix:
    """The vector of one payment, float32 of shape (50,)."""
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
    row: Matrix = _assembled(
        (_NO_USER if online.user_row is None else online.user_row)[None, :],
        online.user_medians[None, :],
        (_NO_MERCHANT if online.merchant_row is None else online.merchant_row)[None, :],
        online.merchant_medians[None, :],
        online.velocity[None, :],
        np.array([inputs]),
        np.array([payment.event_time], np.int64),
    )[0]
    return row
