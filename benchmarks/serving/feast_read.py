"""Our service with Feast's own SDK read in the place of our reader; velocity, which Feast has not, is left out."""

import time
from collections.abc import Sequence

import bentoml
import numpy as np

from bento.bentoml_seam import answer_first
from bento.gateway import Gateway
from bento.runtime import Runtime
from bento.transport import speak_payments
from feature_repo.store import open_store
from fraud_platform.decision.breaker import CircuitBreaker
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.online.ladder import Ladder
from fraud_platform.online.packed import MERCHANT_VECTOR, USER_VECTOR, VECTOR, VIEWS
from fraud_platform.online.sets import ServedSet
from fraud_platform.online.store import Counted, OnlineFeatures
from fraud_platform.schema import Transaction
from fraud_platform.settings import Settings

_NAMES = [f"{view.name}:{name}" for view in VIEWS for name, _ in view.features]
_UNKNOWN = np.full(len(CATALOGUE.of("velocity")), np.nan)


class SdkReader:
    """Reads both packed views by `get_online_features`."""

    def __init__(self, settings: Settings) -> None:
        self._store = open_store(settings)
        medians = {s: np.zeros(len(CATALOGUE.of(s)), np.float32) for s in ("user", "merchant")}
        self.sets = (ServedSet(CATALOGUE, medians),)

    def serve(self, sets: Sequence[ServedSet]) -> None:
        """One set alone is read."""

    async def count(self, payment: Transaction, *, caller: str, claim: bytes) -> Counted:
        """Velocity is left out."""
        return Counted(payment.event_time, payment.event_time, 0, 0, None, b"")

    def count_later(self, payment: Transaction, *, caller: str, claim: bytes) -> None:
        """Velocity is left out."""

    async def read(self, payment: Transaction, *, caller: str, write: bool, claim: bytes) -> OnlineFeatures:
        """The same values as our reader's, velocity apart."""
        rows = [{"user_id": payment.user_id, "merchant_id": payment.merchant_id}]
        found = (await self._store.get_online_features_async(_NAMES, rows, full_feature_names=True)).to_dict()
        countries = found[f"{USER_VECTOR.name}__known_countries"][0]
        devices = found[f"{USER_VECTOR.name}__known_devices"][0]
        return OnlineFeatures(
            user_row=np.array(found[f"{USER_VECTOR.name}__{VECTOR}"][0], np.float32),
            merchant_row=np.array(found[f"{MERCHANT_VECTOR.name}__{VECTOR}"][0], np.float32),
            user_medians=self.sets[0].medians["user"],
            merchant_medians=self.sets[0].medians["merchant"],
            known_countries=frozenset(countries) if countries else None,
            known_devices=frozenset(devices) if devices else None,
            last_effective_time=None,
            velocity=_UNKNOWN,
            user_effective_time=payment.event_time,
            merchant_effective_time=payment.event_time,
            user_snapshot="",
            merchant_snapshot="",
            epoch=None,
            complete_since=None,
            duplicate=False,
            standing=b"",
            served_by={"user_features": "redis", "merchant_features": "redis"},
        )


@bentoml.service(
    name="fraud_detector",
    workers=1,
    traffic={"timeout": 5},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
    envs=[{"name": "OMP_NUM_THREADS", "value": "1"}],
)
class FeastDetector:
    """`bento.service.FraudDetector` with another reader."""

    def __init__(self) -> None:
        settings = Settings()
        # Feast imports pandas and scikit-learn; the runtime would keep the latter out
        reader = SdkReader(settings)
        self.runtime = Runtime(settings)
        self.runtime.engine._features = Ladder(reader, CircuitBreaker("feast", time.monotonic), self.runtime.failed)

    @bentoml.on_shutdown
    async def close(self) -> None:
        """Give everything back."""
        await self.runtime.close()

    @bentoml.api(route="/v1/predict")
    async def predict(self, payment: dict[str, str], /) -> dict[str, str]:
        """Answered by the gateway."""
        return payment


# where our service has it, too
answer_first(Gateway)
speak_payments()
