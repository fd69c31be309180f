"""Request features: one NumPy function over columns, used for a million rows offline and for one row per payment.

Only + − × ÷ √, floor and comparison: these are exact or correctly rounded by IEEE 754, so one row and a million rows
give the same bits on every machine. All arithmetic is float64; the vector rounds once to float32.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fraud_platform.features.catalogue import CATALOGUE, DAY, HOUR

Floats = NDArray[np.float64]

_NAMES = tuple(feature.name for feature in CATALOGUE.of("request"))


@dataclass(frozen=True)
class RequestColumns:
    """What request features are made of; arrays of shape (n,), NaN is null, flags are 0.0 or 1.0."""

    amount: Floats
    """Minor units of the base currency."""
    event_time: NDArray[np.int64]
    """UTC microseconds."""
    user_effective_time: Floats
    """UTC microseconds; exact in float64 until the year 2255."""
    last_effective_time: Floats
    """The user's previous attempt, UTC microseconds; NaN when none is known."""
    is_online: Floats
    country_mismatch: Floats
    country_known: Floats
    device_known: Floats
    user_amount_avg_30d: Floats
    user_amount_avg_90d: Floats
    user_amount_std_90d: Floats
    user_amount_max_90d: Floats
    merchant_amount_avg_30d: Floats


def _divide(part: Floats, whole: Floats) -> Floats:
    """part / whole; NaN where whole is 0 or either is NaN."""
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole != 0)


def request_features(columns: RequestColumns) -> NDArray[np.float32]:
    """The request block of the vector, float32 of shape (n, 12), in the catalogue's order."""
    days = columns.event_time // DAY
    values: dict[str, Floats] = {
        "amount": columns.amount,
        "amount_to_user_avg_30d": _divide(columns.amount, columns.user_amount_avg_30d),
        "amount_zscore_90d": _divide(columns.amount - columns.user_amount_avg_90d, columns.user_amount_std_90d),
        "amount_to_user_max_90d": _divide(columns.amount, columns.user_amount_max_90d),
        "amount_to_merchant_avg_30d": _divide(columns.amount, columns.merchant_amount_avg_30d),
        "hour_of_day": ((columns.event_time - days * DAY) // HOUR).astype(np.float64),
        # 1970-01-01 was a Thursday
        "day_of_week": ((days + 3) % 7).astype(np.float64),
        "is_online": columns.is_online,
        "country_mismatch": columns.country_mismatch,
        "country_is_new": 1.0 - columns.country_known,
        "device_is_new": 1.0 - columns.device_known,
        "seconds_since_last": (columns.user_effective_time - columns.last_effective_time) / 1e6,
    }
    return np.column_stack([values[name] for name in _NAMES]).astype(np.float32)
