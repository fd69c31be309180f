"""The raw stage: rates, transactions and labels as the source gives them, checked and in the lake.

What belongs here: names and order. What does not: reading a source (`fraud_platform.ingest`).
"""

import dagster as dg

from assets.daily_table import daily_table
from assets.partitions import PREDECESSOR
from fraud_platform.features import tables
from fraud_platform.ingest.steps import ingest_labels, ingest_rates, ingest_transactions
from fraud_platform.quality import quarantine_share


def raw_assets(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """fx_rates, raw_transactions and fraud_labels."""
    return [
        daily_table(
            name="fx_rates",
            table=tables.FX_RATES,
            group="raw",
            kinds={"parquet"},
            description="The day's recorded exchange rates into the base currency.",
            partitions=partitions,
            write=lambda platform, days: ingest_rates(platform.lake, platform.opened[1], days),
        ),
        daily_table(
            name="raw_transactions",
            table=tables.RAW_TRANSACTIONS,
            group="raw",
            kinds={"parquet"},
            description=(
                "Transactions by UTC day of received_at, in processing order. Rows that do not fit are in `quarantine` "
                "with the reason; repeats are kept and flagged."
            ),
            partitions=partitions,
            # a repeat is found against the day before, so each day also needs its predecessor
            deps=["fx_rates", dg.AssetDep("raw_transactions", partition_mapping=PREDECESSOR)],
            write=lambda platform, days: ingest_transactions(
                platform.lake, platform.opened[1], days, platform.settings.base_currency
            ),
            extra_checks={"quarantine": lambda platform, days: quarantine_share(platform.lake, days)},
        ),
        daily_table(
            name="fraud_labels",
            table=tables.FRAUD_LABELS,
            group="raw",
            kinds={"parquet"},
            description="Statements on transactions by UTC day of arrival: source, revision and state.",
            partitions=partitions,
            write=lambda platform, days: ingest_labels(platform.lake, platform.opened[1], days),
        ),
    ]
