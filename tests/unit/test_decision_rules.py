"""The rule fallback: its limits, its order, and that it costs whoever imports it nothing."""

import subprocess
import sys
from decimal import Decimal

import pytest

from fraud_platform.decision.rules import FallbackRules
from fraud_platform.settings import Settings

FLAG = "flag_for_review"


@pytest.mark.parametrize(
    ("minor", "exponent", "country", "home", "expected"),
    [
        (10_000_00, 2, "DE", "DE", ("allow", "service_unavailable_fallback")),
        (10_000_01, 2, "DE", "DE", (FLAG, "high_amount_fallback")),
        (10_000_01, 2, "BR", "DE", (FLAG, "high_amount_fallback")),
        (10_001, 0, "JP", "JP", (FLAG, "high_amount_fallback")),
        (10_000_001, 3, "KW", "KW", (FLAG, "high_amount_fallback")),
        (1_000_00, 2, "BR", "DE", ("allow", "service_unavailable_fallback")),
        (1_000_01, 2, "BR", "DE", (FLAG, "cross_country_fallback")),
        (1_000_01, 2, "DE", "DE", ("allow", "service_unavailable_fallback")),
        (1_000_01, 2, "BR", None, ("allow", "service_unavailable_fallback")),
        (1_000_01, 2, None, "DE", ("allow", "service_unavailable_fallback")),
        (0, 2, "BR", "DE", ("allow", "service_unavailable_fallback")),
        (10**12, 4, None, None, (FLAG, "high_amount_fallback")),
        (None, 2, "DE", "DE", (FLAG, "amount_unknown_fallback")),
        (None, 2, "BR", "DE", (FLAG, "amount_unknown_fallback")),
    ],
)
def test_a_rule_fires_strictly_above_its_limit(
    minor: int | None, exponent: int, country: str | None, home: str | None, expected: tuple[str, str]
) -> None:
    assert FallbackRules().decide(minor, exponent, country, home) == expected


def test_limits_are_settings() -> None:
    settings = Settings(rule_high_amount=50, rule_cross_country_amount=20)
    rules = FallbackRules(settings.rule_high_amount, settings.rule_cross_country_amount)
    assert rules.decide(50_01, 2, "DE", "DE") == (FLAG, "high_amount_fallback")
    assert rules.decide(20_01, 2, "FR", "DE") == (FLAG, "cross_country_fallback")


def test_service_and_client_start_from_the_same_limits() -> None:
    settings = Settings()
    assert FallbackRules() == FallbackRules(settings.rule_high_amount, settings.rule_cross_country_amount)


def test_an_exponent_that_would_fill_memory_as_an_integer_is_compared_all_the_same() -> None:
    assert FallbackRules().decide_amount(Decimal("1e999999"), None, None) == (FLAG, "high_amount_fallback")


def test_importing_the_rules_imports_the_standard_library_alone() -> None:
    code = (
        "import sys, fraud_platform.decision.rules; "
        "print(*{m.split('.')[0] for m in sys.modules} - set(sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    allowed = {"__main__", "fraud_platform", "sitecustomize", "_virtualenv", "usercustomize"}
    foreign = {m for m in done.stdout.split() if not m.startswith("__editable__") and "distutils" not in m} - allowed
    assert foreign == set()
