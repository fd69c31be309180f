"""What `feast apply` collects: the generated objects as names of a module, since Feast looks nowhere else.

What belongs here: names. What does not: definitions (`views`). Only the feast command imports this module, after
`eval "$(python -m feature_repo.store)"`; code calls `store.apply(settings)`.
"""

from feature_repo.store import definitions
from fraud_platform.settings import Settings

_definitions = definitions(Settings())
user, merchant = _definitions.entities
user_vector, merchant_vector = (views.packed for views in _definitions.views)
user_features, merchant_features = (views.named for views in _definitions.views)
user_snapshot, merchant_snapshot = (views.snapshot for views in _definitions.views)
fraud_detector = _definitions.service
