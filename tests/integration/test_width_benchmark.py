"""`make bench-width` runs, and what it writes is whole and agrees with itself; a short run's figures mean little."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.width.surroundings import has_nginx
from fraud_platform.capacity.figures import read_figures

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(
    os.environ.get("FRAUD_TEST_BENCHMARKS") != "yes",
    reason="a benchmark takes minutes, however short: `make test-benchmarks` runs it",
)
@pytest.mark.timeout(280)
def test_the_benchmark_measures_workers_instances_and_neighbours(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.width", "--quick", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=270, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads((tmp_path / "width.json").read_text())
    for part in ("one_core", "all_cores"):
        assert [each["workers"] for each in figures[part]] == [1, 2]
        assert all(each["cpu_us"] > 0 and each["redis_us"] > 0 for each in figures[part])
        # the process that starts workers does next to nothing
        assert figures[part][0]["busiest"] > 0.9
    assert [each["neighbour"] for each in figures["noise"]] == ["nobody", "nice 19", "nice 0"]
    assert [each["workers"] for each in figures["memory"]] == [1, 2, 2]
    for each in figures["memory"]:
        assert each["rss"] == pytest.approx(each["private"] + each["shared"], rel=0.02)
        assert each["private"] < each["pss"] < each["rss"]
    assert [each["share"] for each in figures["model"]] == figures["calibrated_at"] == [0.3, 0.5]
    assert [each["instances"] for each in figures["instances"]] == ([1, 1, 2] if has_nginx() else [])
    # on a busy machine a payment alone may take longer than the budget
    rates = [need["rate"] for need in figures["needs"]]
    assert rates == ([] if figures["refused"] else [1_000, 10_000, 100_000])
    # what `fraud-platform capacity` goes by
    assert read_figures(tmp_path).width.work_us == figures["one_core"][0]["cpu_us"]
    assert "What a rate needs by the model" in done.stdout
