"""Names of the feature tables in the lake. Tables whose values follow the catalogue carry its hash, so that a changed
catalogue writes beside the old tables and never over them."""

from fraud_platform.features.catalogue import CATALOGUE

RAW_TRANSACTIONS = "raw_transactions"
FRAUD_LABELS = "fraud_labels"
FX_RATES = "fx_rates"
QUARANTINE = "quarantine"

TILES_VERSION = 3
"""Raised by hand when a tile's columns or arithmetic change.

3: `amount_known`, since an amount may be null; channels are the words of `channels`.
2: `user_tiles.last_effective_time` is no longer ahead of received_at, and `label_tiles` count by the ranks of sources.
"""

USER_TILES = f"user_tiles/v{TILES_VERSION}"
MERCHANT_TILES = f"merchant_tiles/v{TILES_VERSION}"
LABEL_TILES = f"label_tiles/v{TILES_VERSION}"
USER_WINDOWS = f"user_windows/v{TILES_VERSION}"
"""What the next day's user snapshot begins with; the last two days' alone."""

USER_FEATURES = f"user_features/{CATALOGUE.hash}"
MERCHANT_FEATURES = f"merchant_features/{CATALOGUE.hash}"
FEATURE_MEDIANS = f"feature_medians/{CATALOGUE.hash}"
TRAINING_SET = f"training_set/{CATALOGUE.hash}"
