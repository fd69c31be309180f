"""Settings that cannot be kept are refused, with what to change."""

import pytest
from pydantic import ValidationError

from fraud_platform.settings import Settings


def test_stages_that_exceed_the_budget_are_refused() -> None:
    assert Settings().budget_ms == 100
    # there, Redis, the cold store, Redis again, the record, and back: 5 + 20 + 45 + 20 + 5 + 5
    with pytest.raises(ValidationError, match=r"may take 101 ms.*cold_deadline_ms.*more than budget_ms, 100"):
        Settings(cold_deadline_ms=46)
    assert Settings(cold_deadline_ms=46, budget_ms=101).cold_deadline_ms == 46
    # there, Redis, the vector, the model, Redis again, the record, and back: 5 + 20 + 10 + 30 + 20 + 5 + 5
    assert Settings(model_ms=35, cold_deadline_ms=1).model_ms == 35
    for stage in ("request_features_ms", "model_ms"):
        with pytest.raises(ValidationError, match=r"may take 101 ms.*request_features_ms \+ model_ms"):
            Settings(**{stage: Settings.model_fields[stage].default + 6})
    for field in ("network_ms", "log_ms"):
        with pytest.raises(ValidationError, match="more than budget_ms"):
            Settings(**{field: 6})
