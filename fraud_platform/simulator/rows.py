"""Transactions as NumPy columns, and their one conversion to EXPORT.

What belongs here: the shape of a row, identifiers, currencies. What does not: why a row exists.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraud_platform.schema import EXPORT, TIME
from fraud_platform.simulator.geography import COUNTRIES, CURRENCY_OF, EURO_PER_UNIT, EXPONENT
from fraud_platform.simulator.population import CATEGORIES
from fraud_platform.simulator.randomness import Bools, Floats, Ints, Keys, Salt, uniform
from fraud_platform.simulator.world import World

NUMBERS = 100_000_000
"""Transaction numbers of one day; `number` lies below it."""

_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


@dataclass(frozen=True)
class Rows:
    """One value per transaction, arrays of shape (n,)."""

    user: Ints
    merchant: Ints
    amount: Floats
    """Minor units of the base currency, not yet rounded."""
    timestamp: Ints
    """UTC microseconds."""
    received: Ints
    device: Keys
    """0: none."""
    latitude: Floats
    """NaN: unknown."""
    longitude: Floats
    number: Ints
    """Unique among the rows received on one UTC day; becomes the transaction's identifier."""
    pattern: NDArray[np.int8]
    """Index of the fraud pattern; -1: legitimate."""

    def __len__(self) -> int:
        return len(self.user)

    def take(self, which: Ints | Bools) -> "Rows":
        """The rows at these positions, or under this mask."""
        return Rows(**{field.name: getattr(self, field.name)[which] for field in fields(self)})

    def but(self, **columns: Any) -> "Rows":
        """The same rows with some columns replaced."""
        return replace(self, **columns)


def concat(parts: Sequence[Rows]) -> Rows:
    """All rows, in order. `parts` is not empty."""
    return Rows(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Rows)})


def shuffled(seed: int, ordinal: int, number: Ints) -> Ints:
    """A day's numbers in an order that tells nothing about which stream a transaction came from."""
    # odd and no multiple of 5, so that the map is one to one below a power of ten
    factor = 10 * int(uniform(seed, Salt.IDENTIFIER, ordinal, 1)[0] * 4_000_000) + 1
    shift = int(uniform(seed, Salt.IDENTIFIER, ordinal, 2)[0] * NUMBERS)
    return np.asarray((number * factor + shift) % NUMBERS, np.int64)


def transaction_ids(seed: int, ordinal: int, number: Ints) -> pa.Array:
    """`t20260822-00000123`: the UTC day of received_at and the shuffled number."""
    rest = shuffled(seed, ordinal, number)
    text = np.empty((len(number), 18), np.uint8)
    text[:, :10] = np.frombuffer(f"t{date.fromordinal(ordinal):%Y%m%d}-".encode(), np.uint8)
    for position in range(17, 9, -1):
        rest, digit = np.divmod(rest, 10)
        text[:, position] = digit + ord("0")
    return _strings(text)


def names(prefix: str, count: int, width: int) -> pa.Array:
    """`u00001` and so on."""
    width = max(width, len(str(count)))
    return pa.array([f"{prefix}{number:0{width}d}" for number in range(1, count + 1)], pa.string())


def _strings(text: NDArray[np.uint8]) -> pa.Array:
    """A matrix of characters as strings, one per row."""
    offsets = np.arange(0, text.size + 1, text.shape[1], dtype=np.int32)
    return pa.StringArray.from_buffers(len(text), pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(text)))


def _devices(device: Keys) -> pa.Array:
    text = np.empty((len(device), 14), np.uint8)
    text[:, :2] = np.frombuffer(b"d-", np.uint8)
    for position in range(12):
        text[:, 2 + position] = _HEX[(device >> np.uint64(4 * position + 8)) & np.uint64(15)]
    return pc.if_else(pa.array(device != 0), _strings(text), pa.scalar(None, pa.string()))


def _pick(values: pa.Array, index: NDArray[Any]) -> pa.Array:
    return values.take(pa.array(index))


def minor_units(amount: Floats, currency: Ints, rates: Mapping[str, int], base_currency: str) -> Ints:
    """Base-currency minor units as whole minor units of each row's currency, at least 1."""
    factor = np.array(
        [10.0 ** (EXPONENT[code] - EXPONENT[base_currency]) * 1e9 / rates[code] for code in EURO_PER_UNIT]
    )
    whole = np.maximum(np.rint(amount * factor[currency]), 1)
    return np.asarray(whole, np.int64)


@dataclass(frozen=True)
class Naming:
    """The names behind the indices of one bank."""

    seed: int
    base_currency: str
    user_ids: pa.Array
    merchant_ids: pa.Array

    def export(self, rows: Rows, world: World, rates: Mapping[str, int]) -> pa.Table:
        """EXPORT rows in the order of `rows`, all received on the world's day."""
        users, merchants, ordinal = world.users, world.merchants, world.ordinal
        codes = pa.array([country.code for country in COUNTRIES], pa.string())
        where = merchants.country[rows.merchant]
        currency = CURRENCY_OF[where]
        # some terminals and gateways do not say everything; what they say must not depend on the retry
        gap = uniform(self.seed, Salt.GAPS, ordinal, rows.number)
        category = _pick(pa.array([c.code for c in CATEGORIES], pa.string()), merchants.category[rows.merchant])
        home = _pick(codes, users.country[rows.user])
        columns = {
            "transaction_id": transaction_ids(self.seed, ordinal, rows.number),
            "user_id": _pick(self.user_ids, rows.user),
            "merchant_id": _pick(self.merchant_ids, rows.merchant),
            "amount_minor": pa.array(minor_units(rows.amount, currency, rates, self.base_currency)),
            "currency": _pick(pa.array(list(EURO_PER_UNIT), pa.string()), currency),
            "timestamp": pa.array(rows.timestamp).cast(TIME),
            "received_at": pa.array(rows.received).cast(TIME),
            "country": _pick(codes, where),
            "user_country": pc.if_else(pa.array(gap < 0.004), pa.scalar(None, pa.string()), home),
            "merchant_category": pc.if_else(pa.array(gap > 0.992), pa.scalar(None, pa.string()), category),
            "channel": _pick(pa.array(["pos", "online"], pa.string()), merchants.online[rows.merchant].astype(np.int8)),
            "device_id": _devices(rows.device),
            "latitude": pa.array(rows.latitude, from_pandas=True),
            "longitude": pa.array(rows.longitude, from_pandas=True),
        }
        return pa.table(columns, schema=EXPORT)
