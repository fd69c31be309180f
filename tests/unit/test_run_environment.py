"""What `up` hands to the processes that it starts: the settings as they are, and what the simulated bank shows."""

from pathlib import Path

import pytest

from fraud_platform.run.home import open_home
from fraud_platform.run.up import DEMONSTRATED_RELEASE_SHARE, of_demonstration
from fraud_platform.settings import Settings


def test_children_read_the_settings_that_their_parent_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = Settings(
        home=tmp_path, notify=["https://a.b/c"], postgres_url="postgresql://u:secret@h/d", canary_weights=[0.1, 0.5],
        kafka_options={"sasl.mechanism": "PLAIN"}, accepted_skew_days=["2026-11-23"],
    )  # fmt: skip
    for name, value in open_home(given).environment(given).items():
        monkeypatch.setenv(name, value)
    assert Settings() == given


def test_the_simulated_bank_lets_a_few_blocks_through_and_nobody_else_does_unasked(tmp_path: Path) -> None:
    bank = of_demonstration(Settings(home=tmp_path))
    assert bank.release_share == DEMONSTRATED_RELEASE_SHARE
    assert open_home(bank).environment(bank)["FRAUD_RELEASE_SHARE"] == "0.05"
    assert of_demonstration(Settings(home=tmp_path, release_share=0)).release_share == 0
    assert of_demonstration(Settings(home=tmp_path, mapping=tmp_path / "mapping.yaml")).release_share == 0
    assert Settings(home=tmp_path).release_share == 0
