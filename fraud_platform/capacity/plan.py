"""The arithmetic: a load, the measured figures and a price table become machines, memory, disk and money.

What belongs here: pure functions of numbers. What does not: reading files, printing.

Redis holds, besides a row per user and merchant, what attempts leave behind for a while: sorted sets until
SET_HOURS, identities until IDENTITY_HOURS, records until DECISION_HOURS after them. Each attempt is counted as if its
user and merchant had made no other, which is the most it can take.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from fraud_platform.capacity.figures import Figures
from fraud_platform.capacity.prices import Prices
from fraud_platform.capacity.width import Wide, wide

GIB, GB = 2**30, 10**9
MEASURED_FEATURES = 50
FLOAT_BYTES = 4
SET_HOURS, IDENTITY_HOURS, DECISION_HOURS = 73, 25, 24
WHOLE_SNAPSHOTS = 9
"""The week's that are not pruned yet (`whole_snapshot_days`), the one in force and the newest."""
STREAM_RECORDS = 100_000
"""The most that the embedded stream holds beside the lake; the rest waits in the spool."""
REFERENCE_DAILY_PER_TPS = 10_000
"""Decisions a day per request a second of the peak: the reference design has a million a day for a peak of 100."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is asked for."""

    peak_tps: float
    users: float
    merchants: float
    features: int
    daily: float
    """Decisions a day."""
    retention_days: int
    """Of the inference log and of the lake's daily tables."""


@dataclass(frozen=True)
class Line:
    """One thing that is bought."""

    what: str
    amount: str
    why: str
    """The arithmetic, with the figures that it used."""
    usd_per_month: float


@dataclass(frozen=True)
class Need:
    """What the load takes of memory and disk, before machines are counted."""

    redis_bytes: float
    postgres_bytes: float
    spool_bytes: float
    lake_bytes: float


@dataclass(frozen=True)
class Plan:
    """What is bought for a load."""

    load: Load
    need: Need
    wide: Wide
    service_instances: int
    redis_nodes: int
    lines: tuple[Line, ...]
    usd_per_month: float
    usd_per_million: float

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def need(load: Load, figures: Figures, prices: Prices) -> Need:
    """What the load takes."""
    measured, headroom = figures.footprint, prices.rules.headroom
    further = FLOAT_BYTES * max(0, load.features - MEASURED_FEATURES)
    hourly = load.daily / 24
    attempts = hourly * (
        SET_HOURS * measured.redis_velocity_bytes
        + IDENTITY_HOURS * measured.redis_identity_bytes
        + DECISION_HOURS * measured.redis_decision_bytes
    )
    rows = load.users * (measured.redis_user_bytes + further) + load.merchants * measured.redis_merchant_bytes
    stream = min(load.daily, STREAM_RECORDS) * measured.spool_record_bytes
    whole = min(load.retention_days, WHOLE_SNAPSHOTS)
    # an old snapshot keeps who paid on its day, at most one user per decision
    snapshot_rows = whole * load.users + (load.retention_days - whole) * min(load.users, load.daily)
    return Need(
        redis_bytes=rows + headroom * attempts + stream,
        postgres_bytes=load.users * (measured.postgres_user_bytes + further),
        spool_bytes=headroom * hourly * prices.rules.spool_hours * measured.spool_record_bytes,
        lake_bytes=load.retention_days * load.daily * (measured.log_record_bytes + measured.transaction_bytes)
        + snapshot_rows * (measured.snapshot_user_bytes + further),
    )


def plan(load: Load, figures: Figures, prices: Prices) -> Plan:
    """What to buy for a load. Raises ValueError where no number of workers keeps P99 within the price table's."""
    taken, rules, measured = need(load, figures, prices), prices.rules, figures.width
    width = wide(load.peak_tps, measured, headroom=rules.headroom, p99_ms=rules.p99_ms)
    services = max(rules.min_service_instances, width.machines(prices.service.vcpus))
    holding = math.ceil(taken.redis_bytes / GIB / prices.redis.usable_gib)
    nodes = max(holding, width.redis_shards) * (1 + rules.redis_replicas)
    lines = (
        Line(
            "decision service", f"{services} × {prices.service.name}",
            f"{width.workers} worker(s): P99 within {rules.p99_ms:g} ms at {load.peak_tps:,.0f}/s × {rules.headroom:g} "
            f"of {measured.work_us:,.0f} µs; {prices.service.vcpus} a machine, at least {rules.min_service_instances}",
            prices.monthly(prices.service, services),
        ),
        Line(
            "Redis", f"{nodes} × {prices.redis.name}",
            f"{taken.redis_bytes / GIB:,.1f} GiB; {prices.redis.usable_gib:g} of a machine's "
            f"{prices.redis.memory_gib:g} GiB can be used; its core's time wants {width.redis_shards}; "
            f"{rules.redis_replicas} replica(s)",
            prices.monthly(prices.redis, nodes),
        ),
        Line(
            "PostgreSQL", f"1 × {prices.postgres.name}", "the cold store: reads only while Redis is away",
            prices.monthly(prices.postgres, 1),
        ),
        Line(
            "PostgreSQL's disk", f"{taken.postgres_bytes / GB:,.1f} GB",
            f"{load.users:,.0f} users × {figures.footprint.postgres_user_bytes:,.0f} bytes",
            taken.postgres_bytes / GB * prices.postgres_disk_usd_per_gb_month,
        ),
        Line(
            "spool's disk", f"{taken.spool_bytes / GB:,.1f} GB",
            f"{rules.spool_hours:g} hours without a broker × {rules.headroom:g} × "
            f"{figures.footprint.spool_record_bytes:,.0f} bytes a decision",
            taken.spool_bytes / GB * prices.service_disk_usd_per_gb_month,
        ),
        Line(
            "lake (S3)", f"{taken.lake_bytes / GB:,.1f} GB",
            f"{load.retention_days} days of log, transactions, training set, user snapshots ({WHOLE_SNAPSHOTS} whole)",
            taken.lake_bytes / GB * prices.s3_usd_per_gb_month,
        ),
        Line(
            "Dagster, MLflow, nightly run", f"{rules.batch_instances} × {prices.batch.name}",
            "of which the reference design has none",
            prices.monthly(prices.batch, rules.batch_instances),
        ),
    )  # fmt: skip
    month = sum(line.usd_per_month for line in lines)
    million = month / (load.daily * prices.days_per_month / 1e6)
    return Plan(load, taken, width, services, nodes, lines, month, million)
