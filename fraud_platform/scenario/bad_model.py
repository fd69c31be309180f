"""A challenger that has learned nothing: the champion's recipe on shuffled labels.

What belongs here: making it. What does not: who lets it in; a gate would not.
"""

import hashlib
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np

from fraud_platform.features.label_rules import label_rules
from fraud_platform.lake import Lake
from fraud_platform.model.bundle import UNREGISTERED, Bundle, current_release
from fraud_platform.model.calibration import UNCALIBRATED, NoOrderError, fit_calibration
from fraud_platform.model.data import find_split, load_training_data, newest_medians
from fraud_platform.model.kinds import XGBOOST
from fraud_platform.model.train import DEFAULTS, grow, margins
from fraud_platform.settings import Settings

VERSION = 1_000
"""Far from those that MLflow counts."""
_ROUNDS = 100


def write_bad_model(settings: Settings, lake: Lake, now: datetime, folder: Path) -> None:
    """Write its bundle. Raises TrainingDataError, BundleError."""
    split = find_split(lake, settings, now)
    data = load_training_data(lake, split, label_rules(settings))
    labels = np.random.default_rng(settings.seed).permutation(data.train.is_fraud)
    shuffled = replace(data.train, is_fraud=labels)
    grown = grow(shuffled, DEFAULTS, settings, newest_medians(lake, split.last_day)[1], rounds=_ROUNDS)
    try:
        calibration = fit_calibration(labels, margins(grown, shuffled))
    except NoOrderError:
        # noise may slope the wrong way, which training would refuse: it is to be let in all the same
        calibration = UNCALIBRATED
    model = bytes(grown.booster.save_raw("ubj"))
    champion = Bundle.load(current_release(settings.home))
    replace(
        champion,
        version=VERSION,
        calibration=calibration,
        kind=XGBOOST,
        model=model,
        model_sha256=hashlib.sha256(model).hexdigest(),
        mlflow_run_id=None,
        dagster_run_id=None,
        data={**champion.data, "fingerprint": UNREGISTERED},
        trained_at=now.isoformat(),
    ).write(folder)
