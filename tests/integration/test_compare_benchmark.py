"""`make compare` runs: two checkouts, each by its own code, and nothing is left behind; its figures mean little."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_what_is_no_commit_is_refused_before_anything_is_started() -> None:
    command = [sys.executable, "-m", "benchmarks.compare", "no-such-commit"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "'no-such-commit' is no commit of this repository" in done.stderr


@pytest.mark.skipif(
    os.environ.get("FRAUD_TEST_BENCHMARKS") != "yes",
    reason="a benchmark takes minutes, however short: `make test-benchmarks` runs it",
)
@pytest.mark.timeout(580)
def test_a_commit_is_compared_with_what_stands_here(tmp_path: Path) -> None:
    before = git("worktree", "list")
    command = [sys.executable, "-m", "benchmarks.compare", "HEAD", "--quick", "--folder", str(tmp_path)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=570, check=False)
    figures = json.loads((tmp_path / "compare.json").read_text())
    assert done.returncode == (0 if all(each["met"] for each in figures["ratios"].values()) else 1), done.stderr
    assert figures["base"]["commit"] == git("rev-parse", "--short=12", "HEAD").strip()
    assert len(figures["pairs"]) == 7
    for pair in figures["pairs"]:
        for side in ("base", "new"):
            saturated, fixed = pair[side]["saturated"], pair[side]["fixed"]
            assert fixed["sent"] == 200
            assert 0 < fixed["p50_ms"] <= fixed["p99_ms"]
            # answers cost the service something, and saturated it is busier than at 200 a second
            assert 0 < fixed["cpu_us"] < 20_000
            assert saturated["served"] > fixed["served"] / 2
    for each in figures["ratios"].values():
        assert each["at_least"] <= each["estimate"] <= each["at_most"]
    for line in ("the locks are the same", "throughput", "above 1 is better"):
        assert line in done.stdout
    assert git("worktree", "list") == before
    assert [path.name for path in tmp_path.iterdir()] == ["compare.json"]
