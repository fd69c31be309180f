"""The drift report that people read: Evidently's page on a sample, with this platform's index of the whole day in it.

What belongs here: drawing and keeping the page. What does not: any figure that something is decided on (`drift`).
Evidently takes 13 seconds to import, so the function imports it.
"""

from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import Lake, days_between
from fraud_platform.model.bundle import Bundle, Scorer
from fraud_platform.monitoring.drift import FEATURE_DRIFT, SCORE, served
from fraud_platform.monitoring.reference import read_reference, sample_days

DRAWN_ROWS = 5_000
"""Rows of either side that are drawn: Evidently takes 10 s and 600 MB for 100,000."""
DRIFT_REPORT = "drift_report"
_TEST = "platform_psi"


def write_drift_report(
    lake: Lake, release: Path, day: date, limit: float, seed: int, catalogue: Catalogue = CATALOGUE
) -> str | None:
    """Draw a day's report and keep it in the lake; returns its address, or None when there is nothing to draw.

    release: folder of the release that decided. limit: PSI above which a feature is shown as drifted.
    """
    reference = read_reference(lake, release.name, catalogue)
    decisions = served(LogTable(lake), day, catalogue)
    if reference is None or decisions.release != release.name or not decisions.rows.num_rows:
        return None
    bundle = Bundle.load(release, catalogue)
    days = sample_days(lake, days_between(reference.first_day, reference.last_day), seed, DRAWN_ROWS, catalogue)
    was = np.concatenate(list(days.values()))
    is_now, scores = decisions.vectors, decisions.scores
    chosen = np.random.default_rng(seed).permutation(len(scores))[:DRAWN_ROWS]
    rows = lake.read(FEATURE_DRIFT, day, ["name", "psi"]).to_pylist()
    page = _page(
        _frame(was, Scorer(bundle, catalogue).score(was), catalogue),
        _frame(is_now[chosen], scores[chosen], catalogue),
        {row["name"]: row["psi"] for row in rows if row["psi"] is not None},
        limit,
    )
    path = lake.part_path(DRIFT_REPORT, day, "report").replace(".parquet", ".html")
    lake.write_bytes(path, page.encode())
    return path


def _frame(vectors: NDArray[np.float32], scores: NDArray[np.float64], catalogue: Catalogue) -> pd.DataFrame:
    return pd.DataFrame(vectors, columns=list(catalogue.names)).assign(**{SCORE: scores})


def _page(reference: pd.DataFrame, current: pd.DataFrame, psi: dict[str, float], limit: float) -> str:
    from evidently import DataDefinition, Dataset, Report
    from evidently.legacy.calculations.stattests import StatTest, register_stattest
    from evidently.legacy.core import ColumnType
    from evidently.presets import DataDriftPreset

    test = StatTest(
        name=_TEST, display_name="PSI over the release's deciles", allowed_feature_types=[ColumnType.Numerical]
    )

    def index(was: pd.Series, _: pd.Series, __: object, threshold: float) -> tuple[float, bool]:
        value = psi[str(was.name)]
        return value, value > threshold

    register_stattest(test, index)
    # a column without a value on one side cannot be drawn; its null share is in the table
    drawn = [name for name in psi if reference[name].notna().any() and current[name].notna().any()]
    definition = DataDefinition(numerical_columns=drawn)
    then, now = (Dataset.from_pandas(frame[drawn], data_definition=definition) for frame in (reference, current))
    report = Report([DataDriftPreset(columns=drawn, num_method=_TEST, num_threshold=limit)]).run(now, then)
    with TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        report.save_html(str(page))
        return page.read_text()
