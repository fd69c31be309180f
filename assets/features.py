"""The feature stage: tiles, snapshots, medians and the training set.

What belongs here: names, order and how many days back each looks. What does not: arithmetic, which is the domain's.
"""

from collections.abc import Sequence
from datetime import date

import dagster as dg

from assets.daily_table import daily_table
from assets.partitions import looking_back
from assets.resources import Platform
from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE, ENTITIES, LABEL_DELAY_DAYS, Catalogue, Source
from fraud_platform.features.offline import Written
from fraud_platform.features.sequence import CLAMP_LOOKBACK_DAYS, WINDOW_LOOKBACK_DAYS
from fraud_platform.features.snapshots import write_medians, write_merchant_features, write_user_features
from fraud_platform.features.stored import account
from fraud_platform.features.tables import tables_of
from fraud_platform.features.tiles import write_label_tiles, write_merchant_tiles, write_user_tiles
from fraud_platform.features.training_set import write_training_set
from fraud_platform.features.windows import LONGEST_WINDOW
from fraud_platform.monitoring.null_share import null_shares
from fraud_platform.online.packed import views_of
from fraud_platform.quality import every_transaction_has_a_row
from fraud_platform.replay import spans_of

_WINDOW_DAYS = LONGEST_WINDOW - 1
_SNAPSHOT_DAYS = 3
"""A day's payments see the snapshot of the day before, and until the nightly load the one before that."""


def _lineage(catalogue: Catalogue, *sources: Source) -> dict[str, Sequence[str]]:
    return {feature.name: feature.inputs for source in sources for feature in catalogue.of(source)}


def _training_lineage(catalogue: Catalogue) -> dict[str, Sequence[str]]:
    batch = {
        feature.name: [f"{entity}_features.{feature.name}", "feature_medians.median"]
        for entity in ENTITIES
        for feature in catalogue.of(entity)
    }
    return batch | _lineage(catalogue, "velocity", "request")


def _training_set(platform: Platform, days: list[date]) -> list[Written]:
    settings, lake, catalogue = platform.settings, platform.lake, platform.catalogue
    user_spans, merchant_spans = (spans_of(settings, lake, view) for view in views_of(catalogue))
    return write_training_set(settings, lake, days, user_spans, merchant_spans, catalogue)


def _made(written: list[Written]) -> dict[date, dict[str, object]]:
    """What Dagster shows of each day: how many features were computed, and how many were stored already."""
    return {
        each.day: {
            "features_computed": len(each.computed),
            "features_reused": len(each.reused),
            "computed": ", ".join(each.computed) if each.reused else "all",
            "seconds": round(each.seconds, 3),
        }
        for each in written
    }


def feature_assets(partitions: dg.PartitionsDefinition, catalogue: Catalogue = CATALOGUE) -> list[dg.AssetsDefinition]:
    """user_tiles, merchant_tiles, label_tiles, user_features, merchant_features, feature_medians and training_set."""
    tiles_version, own = f"tiles-{tables.TILES_VERSION}", tables_of(catalogue)
    return [
        daily_table(
            name="user_tiles",
            table=tables.USER_TILES,
            group="features",
            kinds={"parquet", "duckdb"},
            description="One row of partial sums and sets per user and day.",
            partitions=partitions,
            deps=[dg.AssetDep("raw_transactions", partition_mapping=looking_back(CLAMP_LOOKBACK_DAYS))],
            write=lambda platform, days: write_user_tiles(platform.settings, platform.lake, days),
            code_version=tiles_version,
        ),
        daily_table(
            name="merchant_tiles",
            table=tables.MERCHANT_TILES,
            group="features",
            kinds={"parquet", "duckdb"},
            description="One row of partial sums and sets per merchant and day.",
            partitions=partitions,
            deps=["raw_transactions"],
            write=lambda platform, days: write_merchant_tiles(platform.settings, platform.lake, days),
            code_version=tiles_version,
        ),
        daily_table(
            name="label_tiles",
            table=tables.LABEL_TILES,
            group="features",
            kinds={"parquet", "duckdb"},
            description="Changes of known frauds per merchant and transaction day, booked on the labels' arrival day.",
            partitions=partitions,
            deps=[
                dg.AssetDep("fraud_labels", partition_mapping=looking_back(_WINDOW_DAYS)),
                dg.AssetDep("raw_transactions", partition_mapping=looking_back(_WINDOW_DAYS)),
            ],
            write=lambda platform, days: write_label_tiles(platform.settings, platform.lake, days),
            code_version=tiles_version,
        ),
        daily_table(
            name="user_features",
            table=own.user_features,
            group="features",
            kinds={"parquet", "duckdb"},
            description="Snapshot of every active user's batch features at the end of the day: windows over tiles.",
            partitions=partitions,
            deps=[dg.AssetDep("user_tiles", partition_mapping=looking_back(_WINDOW_DAYS))],
            write=lambda platform, days: write_user_features(
                platform.settings, platform.lake, days, platform.catalogue
            ),
            facts=_made,
            told=account,
            lineage=_lineage(catalogue, "user"),
            code_version=catalogue.hash,
            catalogue=catalogue,
        ),
        daily_table(
            name="merchant_features",
            table=own.merchant_features,
            group="features",
            kinds={"parquet", "duckdb"},
            description="Snapshot of every active merchant's batch features; fraud rates count arrived labels alone.",
            partitions=partitions,
            deps=[
                dg.AssetDep("merchant_tiles", partition_mapping=looking_back(_WINDOW_DAYS + LABEL_DELAY_DAYS)),
                dg.AssetDep("label_tiles", partition_mapping=looking_back(_WINDOW_DAYS + LABEL_DELAY_DAYS)),
            ],
            write=lambda platform, days: write_merchant_features(
                platform.settings, platform.lake, days, platform.catalogue
            ),
            facts=_made,
            told=account,
            lineage=_lineage(catalogue, "merchant"),
            code_version=catalogue.hash,
            catalogue=catalogue,
        ),
        daily_table(
            name="feature_medians",
            table=own.feature_medians,
            group="features",
            kinds={"parquet"},
            description="Cold-start values: the snapshot's lower medians over entities with enough transactions.",
            partitions=partitions,
            deps=["user_features", "merchant_features"],
            write=lambda platform, days: write_medians(platform.lake, days, platform.catalogue),
            code_version=catalogue.hash,
            catalogue=catalogue,
        ),
        daily_table(
            name="training_set",
            table=own.training_set,
            group="features",
            kinds={"parquet", "duckdb"},
            description="The values that serving would have computed for each transaction, point in time.",
            partitions=partitions,
            deps=[
                dg.AssetDep("raw_transactions", partition_mapping=looking_back(WINDOW_LOOKBACK_DAYS)),
                dg.AssetDep("user_features", partition_mapping=looking_back(_SNAPSHOT_DAYS)),
                dg.AssetDep("merchant_features", partition_mapping=looking_back(_SNAPSHOT_DAYS)),
                dg.AssetDep("feature_medians", partition_mapping=looking_back(_SNAPSHOT_DAYS)),
            ],
            write=_training_set,
            facts=_made,
            told=account,
            lineage=_training_lineage(catalogue),
            extra_checks={
                "completeness": lambda platform, days: every_transaction_has_a_row(
                    platform.settings, platform.lake, days, platform.catalogue
                )
            },
            extra_warnings={
                "null_share": lambda platform, days: null_shares(
                    platform.lake, platform.tables.training_set, days, catalogue=platform.catalogue
                )
            },
            code_version=catalogue.hash,
            catalogue=catalogue,
        ),
    ]
