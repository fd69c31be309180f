"""`make bench-serving` runs, and what it writes is whole and agrees with itself; a short run's figures mean little."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(
    os.environ.get("FRAUD_TEST_BENCHMARKS") != "yes",
    reason="a benchmark takes minutes, however short: `make test-benchmarks` runs it",
)
@pytest.mark.timeout(280)
def test_the_benchmark_measures_all_four_servers(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.serving", "--quick", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=270, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads((tmp_path / "serving.json").read_text())
    assert (tmp_path / "serving.png").read_bytes().startswith(b"\x89PNG")
    names = {"this service", "reference pattern", "Feast SDK read", "empty BentoML"}
    assert set(figures["rates"]) == set(figures["saturation"]) == names
    assert figures["errors"] == 0
    for name in names:
        for result in figures["rates"][name].values():
            assert result["answered"] + result["errors"] == result["sent"] > 0, name
            assert 0 < result["p50_ms"] <= result["p99_ms"]
            assert result["cpu_us"] > 0
    ours, reference = figures["saturation"]["this service"], figures["saturation"]["reference pattern"]
    assert ours > 0
    if reference:
        assert figures["ratio_to_reference"] == pytest.approx(ours / reference)
    assert figures["cpu_us_per_request"] < figures["reference_cpu_us_per_request"]
    assert set(figures["stage_p99_ms"]) == {"read", "request_features", "model", "log"}
    for line in ("this service", "reference pattern", "P99 per stage"):
        assert line in done.stdout
