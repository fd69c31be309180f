"""A history's offline tables, from its source to the training set, without an orchestrator: for a model's study.

What belongs here: the order of the daily tables and what is missing. What does not: checks, lineage and the online
store, which Dagster runs (`assets`).
"""

from collections.abc import Callable
from datetime import date, datetime

from tqdm import tqdm

from fraud_platform.channels import words
from fraud_platform.dataset import fix_dataset
from fraud_platform.features.gaps import first_unbuilt
from fraud_platform.features.in_force import spans
from fraud_platform.features.snapshots import write_medians, write_merchant_features, write_user_features
from fraud_platform.features.tiles import write_label_tiles, write_merchant_tiles, write_user_tiles
from fraud_platform.features.training_set import write_training_set
from fraud_platform.ingest.steps import ingest_labels, ingest_rates, ingest_transactions
from fraud_platform.lake import Lake, days_between
from fraud_platform.settings import Settings


def build_history(settings: Settings, lake: Lake, now: datetime) -> None:
    """Write every daily table of the complete days that lack one; nothing when all are there."""
    dataset, source = fix_dataset(settings, lake, now)
    days = dataset.days(now)
    missing = first_unbuilt(lake, days)
    if missing is None:
        return
    wanted = days_between(missing, days[-1])
    in_force = spans(days, [], settings.online_ttl_days)
    known = words(settings.channel_synonyms)
    stages: list[tuple[str, Callable[[list[date]], object]]] = [
        ("rates", lambda todo: ingest_rates(lake, source, todo)),
        ("transactions", lambda todo: ingest_transactions(lake, source, todo, settings.base_currency, known)),
        ("labels", lambda todo: ingest_labels(lake, source, todo)),
        ("user tiles", lambda todo: write_user_tiles(settings, lake, todo)),
        ("merchant tiles", lambda todo: write_merchant_tiles(settings, lake, todo)),
        ("label tiles", lambda todo: write_label_tiles(settings, lake, todo)),
        ("user features", lambda todo: write_user_features(settings, lake, todo)),
        ("merchant features", lambda todo: write_merchant_features(settings, lake, todo)),
        ("medians", lambda todo: write_medians(lake, todo)),
        ("training set", lambda todo: write_training_set(settings, lake, todo, in_force, in_force)),
    ]
    with tqdm(stages, desc="history", unit="table", disable=None) as progress:
        for name, work in progress:
            progress.set_postfix_str(name)
            work(wanted)
