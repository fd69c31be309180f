"""The online stage: the snapshot in force goes to Redis through Feast, and velocity is warmed from the lake.

What belongs here: names, order and the check that what is served is what was computed. What does not: writing Redis.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg

from assets.daily_table import OWNERS, check_result
from assets.resources import Platform
from assets.served import served_and_retired, served_as_computed
from fraud_platform.clock import clock_of
from fraud_platform.features.tables import FEATURE_MEDIANS
from fraud_platform.inference_log.search import decided_since
from fraud_platform.inference_log.table import LogTable
from fraud_platform.online.embedded_redis import ensure_redis
from fraud_platform.online.other_views import delete_unread, estimated, is_computed, load_other
from fraud_platform.online.packed import VIEWS
from fraud_platform.online.shards import connect_redis, used_memory
from fraud_platform.online.snapshot_load import load_snapshot_feast
from fraud_platform.online.warm import warm_velocity


@dg.asset(
    group_name="online",
    kinds={"feast", "redis"},
    owners=OWNERS,
    description="The newest snapshot of both packed views in Redis, by Feast; its record puts it into force.",
    deps=[
        dg.AssetDep(name, partition_mapping=dg.LastPartitionMapping())
        for name in ("user_features", "merchant_features", "feature_medians")
    ],
    check_specs=[dg.AssetCheckSpec("served_as_computed", asset="online_features", blocking=True)],
)
def online_features(
    context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Load the newest snapshot of both views; loading the one in force again renews its age. Views of other sets are
    loaded while a release stands on them that decides, is tried or may come back."""
    day = platform.lake.days(FEATURE_MEDIANS)[-1]
    metadata: dict[str, str | int | float] = {"snapshot": day.isoformat()}
    with connect_redis(ensure_redis(platform.settings)) as redis_client:
        for view in VIEWS:
            record = load_snapshot_feast(platform.settings, platform.lake, view, day, now=clock_of(platform.settings))
            visible = datetime.fromtimestamp(record.visible_from / 1e6, UTC)
            context.log.info(f"{view.name}: {record.rows:,} rows of snapshot {day} in force since {visible:%H:%M:%S}")
            metadata |= {f"{view.name}_rows": record.rows, f"{view.name}_visible_from": visible.isoformat()}
        served, retired = served_and_retired(platform.settings.home)
        for other in served:
            name = other.view.name
            if not is_computed(other.view):
                context.log.warning(f"{name}: a release stands on set {other.set_hash}, which is not computed here")
                continue
            rows, size = estimated(platform.lake, other.view, day)
            context.log.info(
                f"{name}: a release stands on set {other.set_hash}; its {rows:,} rows take some {size / 1e6:,.1f} MB"
                " more"
            )
            record = load_other(platform.settings, platform.lake, redis_client, other, day, clock_of(platform.settings))
            metadata |= {f"{name}_rows": record.rows, f"{name}_bytes": size}
        ttl_days, at = platform.settings.online_ttl_days, clock_of(platform.settings)()
        for name in delete_unread(redis_client, ttl_days, at, retired):
            context.log.info(f"{name}: nobody loads it any more; its rows are deleted")
        metadata["redis_used_bytes"] = used_memory(redis_client)
    yield dg.MaterializeResult(metadata=metadata)
    yield check_result(served_as_computed(platform, "served_as_computed"))


@dg.asset(
    group_name="online",
    kinds={"redis"},
    owners=OWNERS,
    description="Velocity of the last days in Redis; written when there is none, then kept up to date by payments.",
    deps=[dg.AssetDep("raw_transactions", partition_mapping=dg.LastPartitionMapping())],
)
def online_velocity(
    context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]
) -> dg.MaterializeResult[None]:
    """Warm the velocity sets; an epoch that stands is kept."""
    settings, lake = platform.settings, platform.lake
    day = platform.dataset.last_complete_day(platform.now)
    # attempts decided since `day` are not in the lake: without Redis, which counted them, their windows are unknown
    lost = decided_since(settings.home, LogTable(lake), day, settings.region)
    with connect_redis(ensure_redis(settings)) as redis_client:
        epoch = warm_velocity(settings, lake, redis_client, day, complete=not lost, now_us=clock_of(settings)())
    context.log.info(f"velocity epoch {epoch.epoch} is complete since {epoch.complete_since}")
    return dg.MaterializeResult(metadata={"epoch": epoch.epoch, "complete_since_us": epoch.complete_since})
