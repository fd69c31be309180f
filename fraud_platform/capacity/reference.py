"""The reference design's own table of costs, and which of its rows cannot hold.

What belongs here: its rows as they were given, priced by our table and held against a machine's memory and measured
processor time. What does not: our own plan (`plan`).
"""

from dataclasses import dataclass

from fraud_platform.capacity.figures import Figures
from fraud_platform.capacity.plan import GIB, Load, need
from fraud_platform.capacity.prices import Prices

PEAK_TPS, DAILY, RETENTION_DAYS = 100, 1e6, 90
MONTH_USD = 323
"""As it says itself."""
REDIS_GB = 40
"""That it puts on one machine."""
LARGER_TPS, LARGER_USD = 1_000, (2_000, 2_500)


@dataclass(frozen=True)
class Row:
    """One row of the reference's table."""

    what: str
    amount: str
    usd_per_month: float
    """By our price table."""
    holds: bool
    why: str


@dataclass(frozen=True)
class Reference:
    """Its table at 100 a second, a million a day."""

    rows: tuple[Row, ...]
    usd_per_month: float
    says_usd: int = MONTH_USD
    larger_tps: int = LARGER_TPS
    larger_says_usd: tuple[int, int] = LARGER_USD


def reference(figures: Figures, prices: Prices) -> Reference:
    """The reference's rows, priced and checked."""
    cores = PEAK_TPS * prices.rules.headroom * figures.serving.reference_cpu_us_per_request / 1e6
    have = 2 * prices.service.vcpus
    usable = prices.redis.usable_gib
    wanted = REDIS_GB * 1e9 / GIB
    load = Load(peak_tps=PEAK_TPS, users=0, merchants=0, features=50, daily=DAILY, retention_days=RETENTION_DAYS)
    log_gb = need(load, figures, prices).lake_bytes / 1e9
    rows = (
        Row(
            "service", f"2 × {prices.service.name}", prices.monthly(prices.service, 2), cores <= have,
            f"{PEAK_TPS}/s × {prices.rules.headroom:g} × {figures.serving.reference_cpu_us_per_request:,.0f} µs "
            f"= {cores:.2f} of {have} cores",
        ),
        Row(
            "Redis, 40 GB", f"1 × {prices.redis.name}", prices.monthly(prices.redis, 1), wanted <= usable,
            f"{wanted:.1f} GiB on a machine of {prices.redis.memory_gib:g} GiB, {usable:g} usable: "
            f"{-(-wanted // usable):.0f} machines",
        ),
        Row(
            "PostgreSQL", f"1 × {prices.postgres.name}", prices.monthly(prices.postgres, 1), True,
            "its disk is not in the table",
        ),
        Row(
            "S3, 90 days", f"{log_gb:.0f} GB", log_gb * prices.s3_usd_per_gb_month, True,
            "log, transactions and training set of a million a day, by our bytes per row",
        ),
    )  # fmt: skip
    return Reference(rows, sum(row.usd_per_month for row in rows))
