"""What both online stores hold: which views of other sets, and the snapshot that was loaded, read as people read Feast.

What belongs here: the comparison. What does not: loading (`online`, `cold`).
"""

from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from assets.resources import Platform
from fraud_platform.model.served_sets import retired_sets, sets_in_force
from fraud_platform.online.other_views import OtherView, other_views
from fraud_platform.online.packed import VIEWS
from fraud_platform.online.snapshot_load import SNAPSHOT_TABLES
from fraud_platform.quality import Finding

SAMPLE = 50


def served_and_retired(home: Path) -> tuple[list[OtherView], set[str]]:
    """The views of other sets that releases stand on, and the names of those that were kept for retired ones alone."""
    served = other_views(sets_in_force(home))
    gone = {other.view.name for other in other_views(retired_sets(home))}
    return served, gone - {other.view.name for other in served}


def served_as_computed(platform: Platform, rule: str, *, cold: bool = False) -> Finding:
    """A sample of entities, read through Feast from a store, holds the snapshot's values bit for bit."""
    from feature_repo.store import open_store

    store = open_store(platform.settings, cold=cold)
    wrong: dict[str, str] = {}
    compared = 0
    for view in VIEWS:
        day = platform.lake.days(SNAPSHOT_TABLES[view.entity])[-1]
        rows = platform.lake.read(SNAPSHOT_TABLES[view.entity], day)
        picked = rows.take(np.linspace(0, rows.num_rows - 1, min(SAMPLE, rows.num_rows), dtype=np.int64))
        entities = [{view.join_key: identifier} for identifier in picked.column(view.join_key).to_pylist()]
        names = [f"{view.entity}_features:{name}" for name in view.names]
        served = store.get_online_features(features=names, entity_rows=entities).to_dict()
        for name in view.names:
            expected = pc.fill_null(picked.column(name), np.float32("nan")).to_numpy()
            values = [np.nan if value is None else value for value in served[name]]
            got = np.array(values, np.float32)
            compared += len(got)
            same = (got == expected) | (np.isnan(got) & np.isnan(expected))
            if not same.all():
                wrong[name] = f"{int((~same).sum())} of {len(got)} entities"
    return Finding(rule, not wrong, "error", {"values": compared, "differing": wrong})
