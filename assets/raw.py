"""The raw stage: rates, transactions and labels as the source and the service give them, checked and in the lake.

What belongs here: names and order. What does not: reading a source (`fraud_platform.ingest`).
"""

from datetime import date

import dagster as dg

from assets.daily_table import daily_table
from assets.inference_log import DRAIN_SECONDS
from assets.partitions import PREDECESSOR, looking_back
from assets.resources import Platform
from fraud_platform.channels import words
from fraud_platform.features import tables
from fraud_platform.inference_log import table as inference_log
from fraud_platform.inference_log.delivered import deliver
from fraud_platform.ingest.read_by import read_otherwise
from fraud_platform.ingest.steps import IngestReport, ingest_labels, ingest_rates, ingest_transactions
from fraud_platform.monitoring.null_share import mapped_columns, null_shares
from fraud_platform.quality import (
    Finding,
    days_are_read_alike,
    every_decision_is_a_transaction,
    every_label_has_a_payment,
    exported_rows_have_their_caller,
    quarantine_share,
)


def _transactions(platform: Platform, days: list[date]) -> list[IngestReport]:
    """The days' transactions, once the lake has all that was decided on them."""
    settings = platform.settings
    deliver(settings, days, DRAIN_SECONDS)
    known = words(settings.channel_synonyms)
    return ingest_transactions(platform.lake, platform.opened[1], days, settings.base_currency, known)


def _rows_by_origin(reports: list[IngestReport]) -> dict[date, dict[str, int]]:
    return {
        report.day: {
            "decided": report.decided,
            "copies_left_out": report.copies,
            "marked_on_the_day_before": report.marked_before,
            "amounts_unknown": report.amounts_unknown,
            "channels_unknown": report.channels_unknown,
        }
        for report in reports
    }


def _read_alike(platform: Platform, days: list[date]) -> Finding:
    """Of every day that is built: words and rates that change concern the days before."""
    known = words(platform.settings.channel_synonyms)
    return days_are_read_alike(platform.lake, read_otherwise(platform.lake, platform.opened[1], known))


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
                "Transactions by UTC day of received_at, in processing order: what the source has and what the service "
                "decided. Rows that do not fit are in `quarantine` with the reason; repeats are kept and flagged."
            ),
            partitions=partitions,
            deps=[
                "fx_rates",
                # a repeat is found against the day before, so each day also needs its predecessor
                dg.AssetDep("raw_transactions", partition_mapping=PREDECESSOR),
                # an export may hold a payment a day after it was decided
                dg.AssetDep(inference_log.TABLE, partition_mapping=looking_back(1)),
            ],
            write=_transactions,
            facts=_rows_by_origin,
            extra_checks={
                "quarantine": lambda platform, days: quarantine_share(platform.lake, days),
                "decisions": lambda platform, days: every_decision_is_a_transaction(platform.lake, days),
            },
            extra_warnings={
                "callers": lambda platform, days: exported_rows_have_their_caller(platform.lake, days),
                "read_alike": _read_alike,
                "null_share": lambda platform, days: null_shares(
                    platform.lake, tables.RAW_TRANSACTIONS, days, mapped_columns(platform.settings)
                ),
            },
        ),
        daily_table(
            name="fraud_labels",
            table=tables.FRAUD_LABELS,
            group="raw",
            kinds={"parquet"},
            description="Statements on transactions by UTC day of arrival: caller, source, revision and state.",
            partitions=partitions,
            # labels of payments that nobody knew are looked up there
            deps=["raw_transactions"],
            extra_warnings={
                "orphans": lambda platform, days: every_label_has_a_payment(
                    platform.settings.home, platform.lake, days
                ),
            },
            write=lambda platform, days: ingest_labels(platform.lake, platform.opened[1], days),
        ),
    ]
