"""Settings that cannot be kept are refused, with what to change."""

from datetime import date
from pathlib import Path

import pytest
from pydantic import ValidationError

from fraud_platform.settings import Settings


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
