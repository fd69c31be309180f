"""The cold store: the newest snapshot in PostgreSQL by Feast, for payments that Redis does not serve.

What belongs here: names, order and the check that what is served is what was computed. What does not: writing tables.
"""

from collections.abc import Iterator

import dagster as dg
import psycopg

from assets.daily_table import OWNERS, check_result
from assets.resources import Platform
from assets.served import served_and_retired, served_as_computed
from fraud_platform.clock import clock_of
from fraud_platform.features.tables import FEATURE_MEDIANS
from fraud_platform.online.embedded_postgres import ensure_postgres
from fraud_platform.online.other_views import delete_unread_cold, is_computed, load_other_cold
from fraud_platform.online.packed import VIEWS
from fraud_platform.online.snapshot_load import load_cold


@dg.asset(
    group_name="online",
    kinds={"feast", "postgres"},
    owners=OWNERS,
    description="The newest snapshot of both packed views in PostgreSQL, by Feast; it serves while Redis is away.",
    deps=[
        *(
            dg.AssetDep(name, partition_mapping=dg.LastPartitionMapping())
            for name in ("user_features", "merchant_features", "feature_medians")
        ),
        # loaded again after a promotion, so that its age is never far from the model's
        "champion_model",
    ],
    check_specs=[dg.AssetCheckSpec("cold_served_as_computed", asset="cold_features", blocking=True)],
)
def cold_features(
    context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Load the newest snapshot of both views, and of views of other sets as `online_features` does."""
    day = platform.lake.days(FEATURE_MEDIANS)[-1]
    metadata: dict[str, str | int | float] = {"snapshot": day.isoformat()}
    for view in VIEWS:
        record = load_cold(platform.settings, platform.lake, view, day, now=clock_of(platform.settings))
        seconds = (record.visible_from - record.loaded_at) / 1e6
        context.log.info(f"{view.name}: {record.rows:,} rows of snapshot {day} in PostgreSQL after {seconds:.1f} s")
        metadata |= {f"{view.name}_rows": record.rows, f"{view.name}_seconds": seconds}
    served, retired = served_and_retired(platform.settings.home)
    clock = clock_of(platform.settings)
    with psycopg.connect(ensure_postgres(platform.settings)) as connection:
        for other in filter(lambda other: is_computed(other.view), served):
            name, record = other.view.name, load_other_cold(connection, platform.lake, other, day, clock)
            context.log.info(f"{name}: {record.rows:,} rows, since a release stands on set {other.set_hash}")
            metadata |= {f"{name}_rows": record.rows}
        for name in delete_unread_cold(connection, platform.settings.cold_ttl_days, clock(), retired):
            context.log.info(f"{name}: nobody loads it any more; its table is dropped")
    yield dg.MaterializeResult(metadata=metadata)
    yield check_result(served_as_computed(platform, "cold_served_as_computed", cold=True))
