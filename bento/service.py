"""The BentoML service `fraud_detector`: `bentoml serve` in the repository's root finds it.

What belongs here: BentoML's declarations. What does not: the routes' behaviour (`gateway`), composition (`runtime`).
BentoML takes a service's configuration when the module is imported, so the settings are read here and then.
"""

from http import HTTPStatus
from typing import Annotated, Any

import bentoml
import msgspec
from bentoml.exceptions import BentoMLException
from pydantic import WithJsonSchema

from bento.bentoml_seam import answer_first, shut_control
from bento.gateway import Gateway
from bento.image import ChampionImage
from bento.openapi import inlined
from bento.runtime import Runtime, preflight
from bento.transport import speak_payments
from fraud_platform.callers import DEFAULT_CALLER
from fraud_platform.decision.answer import Answer, ExplainAnswer, PredictAnswer
from fraud_platform.decision.request import PaymentRequest
from fraud_platform.homes import begin_home
from fraud_platform.model.bundle import BundleError, NoReleaseError
from fraud_platform.model.following import FollowingError
from fraud_platform.online.embedded_redis import RedisUnavailableError
from fraud_platform.private import keep_private, private_folder
from fraud_platform.settings import Settings

_settings = Settings()

PaymentBody = Annotated[dict[str, Any], WithJsonSchema(inlined(PaymentRequest))]
PredictBody = Annotated[dict[str, Any], WithJsonSchema(inlined(PredictAnswer))]
ExplainBody = Annotated[dict[str, Any], WithJsonSchema(inlined(ExplainAnswer))]


@bentoml.service(
    name="fraud_detector",
    workers=_settings.service_workers,
    # BentoML arms a timer of this length for every request and never cancels it: as short as the gateway's own limits
    traffic={"timeout": 5},
    http={"host": _settings.service_host, "port": _settings.service_port},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
    image=ChampionImage(),
    envs=[
        # one thread per prediction: OpenMP's default threads fight each other under load
        {"name": "OMP_NUM_THREADS", "value": "1"},
        {"name": "BENTOML_DO_NOT_TRACK", "value": "true"},
    ],
)
class FraudDetector:
    """Decides payments by the model in force, and explains decisions."""

    def __init__(self) -> None:
        self.runtime = Runtime(Settings())

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        """Fail once, with the reason, rather than in every worker again and again. Before BentoML starts anything."""
        keep_private()
        private_folder(_settings.home)
        shut_control()
        try:
            preflight(Settings())
        except (NoReleaseError, BundleError, FollowingError, RedisUnavailableError) as error:
            raise BentoMLException(str(error)) from error
        begin_home(_settings.home)

    @bentoml.on_shutdown
    async def close(self) -> None:
        """Finish what runs and give connections and files back."""
        await self.runtime.close()

    @bentoml.api(route="/v1/predict")
    async def predict(self, payment: PaymentBody, /) -> PredictBody:
        """Decide one payment: allow, block or flag_for_review. The same payment again gets the same decision."""
        return _result(await self.runtime.decide(msgspec.json.encode(payment), DEFAULT_CALLER))

    @bentoml.api(route="/v1/explain")
    async def explain(self, question: PaymentBody, /) -> ExplainBody:
        """Explain a decision by its transaction_id alone, or a whole payment as it would score now."""
        return _result(await self.runtime.explain(msgspec.json.encode(question), DEFAULT_CALLER))


def _result(answer: Answer) -> dict[str, Any]:
    """An answer for a caller inside BentoML; over HTTP the gateway has answered before."""
    content: dict[str, Any] = msgspec.json.decode(answer.body)
    if answer.status != HTTPStatus.OK:
        raise BentoMLException(content["detail"], error_code=HTTPStatus(answer.status))
    return content


answer_first(Gateway)
speak_payments()
