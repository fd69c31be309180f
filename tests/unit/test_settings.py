"""Settings that cannot be kept are refused, with what to change."""

import pytest
from pydantic import ValidationError

from fraud_platform.settings import Settings


def test_deadlines_that_exceed_the_budget_are_refused() -> None:
    assert Settings(cold_deadline_ms=50).budget_ms == 100
    with pytest.raises(ValidationError, match=r"may wait 101 ms.*more than budget_ms, 100"):
        Settings(cold_deadline_ms=51)
    assert Settings(cold_deadline_ms=51, budget_ms=101).cold_deadline_ms == 51
    with pytest.raises(ValidationError, match="more than budget_ms"):
        Settings(network_ms=6)
