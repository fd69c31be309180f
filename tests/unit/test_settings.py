"""Settings that cannot be kept are refused, with what to change."""

from datetime import date
from pathlib import Path

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


def test_the_environment_of_a_child_says_what_was_given_and_nothing_else(tmp_path: Path) -> None:
    given = Settings(
        home=Path("some/home"), notify=["https://example.org/hook"], postgres_url="postgresql://u:secret@h/db",
        bank_behaviour={"retry": 0.1}, bank_changes={date(2026, 3, 1): {"online_scale": 2.0}}, seed=7,
        kafka_options={"a": "b"}, canary_weights=[0.2],
    )  # fmt: skip
    variables = given.environment()
    assert variables["FRAUD_HOME"] == str(Path.cwd() / "some/home")
    assert "FRAUD_USERS" not in variables
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for name, value in variables.items():
            patch.setenv(name, value)
        read = Settings()
    assert read.home == Path(variables["FRAUD_HOME"])
    assert read.model_dump(exclude={"home"}) == given.model_dump(exclude={"home"})
