"""Names of the feature tables in the lake. Tables whose values follow a set of features carry its hash, so that another
set writes beside them and never over them."""

from dataclasses import dataclass

from fraud_platform.features.catalogue import CATALOGUE, Catalogue, Entity

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


@dataclass(frozen=True)
class SetTables:
    """The tables of one set of features."""

    user_features: str
    merchant_features: str
    feature_medians: str
    training_set: str

    def snapshots(self, entity: Entity) -> str:
        """The table of an entity's snapshots."""
        return self.user_features if entity == "user" else self.merchant_features


def tables_of(catalogue: Catalogue) -> SetTables:
    """The tables of a set of features."""
    names = ("user_features", "merchant_features", "feature_medians", "training_set")
    return SetTables(**{name: f"{name}/{catalogue.hash}" for name in names})


_IN_FORCE = tables_of(CATALOGUE)
USER_FEATURES = _IN_FORCE.user_features
MERCHANT_FEATURES = _IN_FORCE.merchant_features
FEATURE_MEDIANS = _IN_FORCE.feature_medians
TRAINING_SET = _IN_FORCE.training_set
