"""The vector: 50 float32 in the catalogue's order, assembled by the same code for training and for a live payment.

What belongs here: cold start, the order of blocks, a live payment's row of columns. What does not: where values were
read from.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fraud_platform.features.catalogue import CATALOGUE, MIN_TRANSACTIONS, Source
from fraud_platform.features.request import Floats, RequestColumns, request_features
from fraud_platform.schema import Transaction

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class _Block:
    """Column positions of one entity's batch features, by cold-start rule."""

    width: int
    count: int
    median: NDArray[np.intp]
    zero: NDArray[np.intp]

    @staticmethod
    def of(source: Source) -> "_Block":
        features = CATALOGUE.of(source)
        rules = np.array([feature.cold_start for feature in features])
        names = [feature.name for feature in features]
        return _Block(
            len(features), names.index(f"{source}_txn_count_90d"), np.flatnonzero(rules == "median"),
            np.flatnonzero(rules == "zero"),
        )  # fmt: skip


_USER, _MERCHANT = _Block.of("user"), _Block.of("merchant")
_POSITION = {name: index for index, name in enumerate(CATALOGUE.names)}


def _warm(rows: Matrix, medians: Matrix, block: _Block) -> Matrix:
    """Batch values after cold start. rows: (n, width), a missing entity all NaN; medians: (n, width) or (width,).

    An entity with fewer than MIN_TRANSACTIONS in 90 days, or none at all, takes the snapshot's medians for its `median`
    features; counts that are missing are 0.
    """
    warmed = rows.copy()
    # a comparison with NaN is false, so a missing entity is cold
    cold = ~(rows[:, block.count] >= MIN_TRANSACTIONS)
    columns = np.ix_(cold, block.median)
    warmed[columns] = np.broadcast_to(medians, rows.shape)[columns]
    counts = warmed[:, block.zero]
    warmed[:, block.zero] = np.where(np.isnan(counts), np.float32(0), counts)
    return warmed


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
    users = _warm(columns.user_rows, columns.user_medians, _USER)
    merchants = _warm(columns.merchant_rows, columns.merchant_medians, _MERCHANT)

    def user(name: str) -> Floats:
        return users[:, _POSITION[name]].astype(np.float64)

    request = request_features(
        RequestColumns(
            amount=columns.amount,
            event_time=columns.event_time,
            user_effective_time=columns.user_effective_time,
            last_effective_time=columns.last_effective_time,
            is_online=columns.is_online,
            country_mismatch=columns.country_mismatch,
            country_known=columns.country_known,
            device_known=columns.device_known,
            user_amount_avg_30d=user("user_amount_avg_30d"),
            user_amount_avg_90d=user("user_amount_avg_90d"),
            user_amount_std_90d=user("user_amount_std_90d"),
            user_amount_max_90d=user("user_amount_max_90d"),
            merchant_amount_avg_30d=merchants[:, _POSITION["merchant_amount_avg_30d"] - _USER.width].astype(np.float64),
        )
    )
    return np.ascontiguousarray(np.hstack([users, merchants, columns.velocity.astype(np.float32), request]))


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


def _flag(value: bool | None) -> Floats:
    return np.array([math.nan if value is None else float(value)])


def _row(values: Matrix | None, block: _Block) -> Matrix:
    return np.full((1, block.width), np.nan, np.float32) if values is None else values[None, :]


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
    columns = VectorColumns(
        user_rows=_row(online.user_row, _USER),
        user_medians=online.user_medians[None, :],
        merchant_rows=_row(online.merchant_row, _MERCHANT),
        merchant_medians=online.merchant_medians[None, :],
        velocity=online.velocity[None, :],
        amount=np.array([float(payment.amount)]),
        event_time=np.array([payment.event_time], np.int64),
        user_effective_time=np.array([float(online.user_effective_time)]),
        last_effective_time=np.array([last]),
        is_online=_flag(None if payment.channel is None else payment.channel == "online"),
        country_mismatch=_flag(mismatch),
        country_known=_flag(known_country),
        device_known=_flag(known_device),
    )
    return np.asarray(build_vectors(columns)[0])
