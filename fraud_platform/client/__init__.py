"""What a payments engineer imports: a decision on every payment, in time, whatever is broken.

It runs inside somebody's payment process, so it pulls in httpx and msgspec alone: no model, no feature store, no NumPy.
"""

from fraud_platform.client.answer import Decision, PaymentRefused
from fraud_platform.client.asking import AsyncFraudClient
from fraud_platform.client.sync import FraudClient
from fraud_platform.decision.rules import FallbackRules
from fraud_platform.outbox import Delivered

__all__ = ["AsyncFraudClient", "Decision", "Delivered", "FallbackRules", "FraudClient", "PaymentRefused"]
