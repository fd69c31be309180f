"""The floor: a BentoML endpoint that does nothing, with the settings of ours and without our middleware."""

from typing import Any

import bentoml


@bentoml.service(
    name="empty",
    workers=1,
    traffic={"timeout": 5},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
    envs=[{"name": "OMP_NUM_THREADS", "value": "1"}],
)
class Empty:
    """Answers every payment alike."""

    @bentoml.api(route="/v1/predict")
    async def predict(self, payment: dict[str, Any], /) -> dict[str, Any]:
        """Allow."""
        return {"decision": "allow"}
