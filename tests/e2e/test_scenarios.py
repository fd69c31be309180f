"""The scenarios that come with the platform, played headless through the real service: what they expect comes true.

In the suite the short ones, all in one play; `make scenarios` plays each by itself, minutes each.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from fraud_platform.scenario.story import shipped

ROOT = Path(__file__).parents[2]
SHORT, SHORT_ONES = ("bad-model", "outage"), "the-short-ones"
ALL = bool(os.environ.get("FRAUD_TEST_SCENARIOS"))

pytestmark = pytest.mark.timeout(3_600 if ALL else 900)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the bank that they begin with is built once."""
    return tmp_path_factory.mktemp("scenarios")


def joined(names: Sequence[str], path: Path) -> None:
    """Write one scenario in which everything happens that happens in these, and all of it is expected.

    They begin with the same bank and last as many days.
    """
    one, *others = [yaml.safe_load(shipped()[name].read_text()) for name in names]
    for other in others:
        assert (other["bank"], other["days"]) == (one["bank"], one["days"])
        one["settings"] |= other["settings"]
        one["story"] += other["story"]
        one["expect"] += [sentence for sentence in other["expect"] if sentence not in one["expect"]]
    path.write_text(yaml.safe_dump(one))


@pytest.mark.parametrize("name", sorted(shipped()) if ALL else [SHORT_ONES])
def test_what_a_scenario_expects_comes_true(name: str, home: Path, tmp_path: Path) -> None:
    story = name
    if name == SHORT_ONES:
        story = str(tmp_path / f"{name}.yaml")
        joined(SHORT, Path(story))
    command = [sys.executable, "-m", "fraud_platform.cli", "scenario", story]
    # other tests have the other cores
    environment = {**os.environ, "FRAUD_HOME": str(home), "COLUMNS": "180", "FRAUD_TRAINING_THREADS": "1"}
    played = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert played.returncode == 0, played.stdout[-6_000:] + played.stderr[-3_000:]
    assert "✗" not in played.stdout
    picture = home / "scenarios" / name / "scenario.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_is_no_scenario_s_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    command = [sys.executable, "-m", "fraud_platform.cli", "scenario", SHORT[0], "--home", str(tmp_path)]
    played = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert played.returncode == 1
    assert "is not a scenario's home" in played.stderr
    assert (tmp_path / "precious.txt").read_text() == "mine"
