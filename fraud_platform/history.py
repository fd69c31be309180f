"""A history's offline tables, from its source to the training set, without an orchestrator: for a model's study.

What belongs here: the order of the daily tables and what is missing. What does not: checks, lineage and the online
store, which Dagster runs (`assets`).
"""

from collections.abc import Callable
from datetime import date, datetime

from tqdm import tqdm

from fraud_platform.channels import words
from fraud_platform.dataset import fix_dataset
from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.features.gaps import unbuilt
from fraud_platform.features.in_force import spans
from fraud_platform.features.snapshots import write_medians, write_merchant_features, write_user_features
from fraud_platform.features.tables import tables_of
from fraud_platform.features.tiles import write_label_tiles, write_merchant_tiles, write_user_tiles
from fraud_platform.features.training_set import write_training_set
from fraud_platform.ingest.steps import ingest_labels, ingest_rates, ingest_transactions
from fraud_platform.lake import Lake
from fraud_platform.settings import Settings


def build_history(settings: Settings, lake: Lake, now: datetime, catalogue: Catalogue = CATALOGUE) -> None:
    """Write every daily table of the complete days that lack one; nothing when all are there."""
    dataset, source = fix_dataset(settings, lake, now)
    days = dataset.days(now)
    own = tables_of(catalogue)
    in_force = spans(days, [], settings.online_ttl_days)
    known = words(settings.channel_synonyms)
    stages: dict[str, Callable[[list[date]], object]] = {
        tables.FX_RATES: lambda todo: ingest_rates(lake, source, todo),
        tables.RAW_TRANSACTIONS: lambda todo: ingest_transactions(lake, source, todo, settings.base_currency, known),
        tables.FRAUD_LABELS: lambda todo: ingest_labels(lake, source, todo),
        tables.USER_TILES: lambda todo: write_user_tiles(settings, lake, todo),
        tables.MERCHANT_TILES: lambda todo: write_merchant_tiles(settings, lake, todo),
        tables.LABEL_TILES: lambda todo: write_label_tiles(settings, lake, todo),
        own.user_features: lambda todo: write_user_features(settings, lake, todo, catalogue),
        own.merchant_features: lambda todo: write_merchant_features(settings, lake, todo, catalogue),
        own.feature_medians: lambda todo: write_medians(lake, todo, catalogue),
        own.training_set: lambda todo: write_training_set(settings, lake, todo, in_force, in_force, catalogue),
    }
    todo = [(table, list(part.days)) for part in unbuilt(lake, days, catalogue) for table in part.tables]
    with tqdm(todo, desc="history", unit="table", disable=None) as progress:
        for table, wanted in progress:
            progress.set_postfix_str(table.split("/")[0])
            stages[table](wanted)
