"""A model's card: its structure, and that every number in it is the record's, the bundle's or the verdict's."""

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fraud_platform.cli import app
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.homes import begin_home
from fraud_platform.lake import Lake
from fraud_platform.model.bundle import CARD_FILE, Bundle, BundleError, install
from fraud_platform.model.candidate import Candidate
from fraud_platform.model.card import card_markdown, gain_shares, standing_markdown
from fraud_platform.model.gate import Verdict
from fraud_platform.model.report import report_text
from fraud_platform.model.steps import train_candidate
from fraud_platform.settings import Settings
from tests import model_kit as kit

VERDICT = Verdict(promote=True, rival="fraud-detector-6", frauds=77, reasons=["beats logistic regression", "beats 6"])

STRUCTURE = """\
# Model card: fraud-detector/7
## Intended use
## Gate
## Data
| window | days | rows | frauds |
## Ranking
| on the holdout | XGBoost | logistic regression |
## Calibration
## Decisions
| a score above | means | payments | precision | recall | caught, EUR | wrongly stopped, EUR | loss of 1,000 payments |
## With a store lost
| level | meaning | average precision | AUC ROC |
## Slices
| slice |  | payments | frauds | average precision | AUC ROC | block precision | block recall |
## Features
| feature | source | gain | mean absolute SHAP | unit | meaning |
## Limits
## Parameters
| set | average precision per fold | mean | trees | parameters |
## Lineage
| what | which |
"""


@pytest.fixture(scope="module")
def candidate(tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    home = tmp_path_factory.mktemp("home")
    lake = Lake(str(home / "lake"))
    kit.write_history(lake)
    return train_candidate(lake, Settings(home=home, **kit.TRAINING), kit.NOW)


@pytest.fixture
def bundle(candidate: Candidate) -> Bundle:
    return replace(candidate.bundle, version=7, mlflow_run_id="mlflow-run", dagster_run_id="dagster-run")


@pytest.fixture
def card(candidate: Candidate, bundle: Bundle) -> str:
    return card_markdown(candidate.record, bundle, VERDICT)


def section(card: str, name: str) -> str:
    return card.split(f"\n## {name}\n")[1].split("\n## ")[0]


def test_its_structure_is_the_one_that_people_know(card: str) -> None:
    lines = card.splitlines()
    headers = [line for line, below in pairwise(lines) if below.startswith("| ---")]
    found = [line for line in lines if line.startswith("#") or line in headers]
    assert found == STRUCTURE.splitlines()


def test_its_numbers_are_the_records(card: str, candidate: Candidate, bundle: Bundle) -> None:
    record, evaluation = candidate.record, candidate.record.evaluation
    ranking = evaluation.comparison.candidate
    for figure in (ranking.average_precision, ranking.auc, evaluation.comparison.reference.auc):
        assert f"{figure.value:.4f} [{figure.low:.4f}, {figure.high:.4f}]" in section(card, "Ranking")
    assert f"{evaluation.calibration.brier.value:.5f}" in section(card, "Calibration")
    assert f"slope {bundle.calibration.slope:.3f}" in section(card, "Calibration")
    blocked = next(line for line in section(card, "Decisions").splitlines() if "block (policy)" in line)
    assert f"| {evaluation.block.threshold:.4g} |" in blocked
    assert f"| {evaluation.block.flagged:,} |" in blocked
    assert f"{evaluation.block.recall.value:.1%} [{evaluation.block.recall.low:.1%}" in blocked
    for level in evaluation.levels:
        row = next(line for line in section(card, "With a store lost").splitlines() if f"| {level.name} |" in line)
        assert f"{level.ranking.auc.value:.4f} [" in row
    for one in evaluation.slices:
        row = f"| {one.dimension} | {one.name} | {one.rows:,} | {one.frauds:,} |"
        assert section(card, "Slices").count(row) == 1
    assert {one.dimension for one in evaluation.slices} >= {"amount", "country", "channel", "account age"}
    limits = section(card, "Limits")
    assert f"{evaluation.frauds:,} frauds among {evaluation.rows:,} payments" in limits
    assert f"{evaluation.unknown:,} payments of unknown label" in limits
    assert f"velocity_lost average precision is {evaluation.levels[1].ranking.average_precision.value:.4f}" in limits
    weakest = min((s for s in evaluation.slices if s.ranking), key=lambda s: s.ranking.auc.value)  # type: ignore[union-attr]
    assert f"{weakest.dimension} {weakest.name}: AUC ROC {weakest.ranking.auc.value:.3f}" in limits  # type: ignore[union-attr]
    for name, value in record.search.parameters.items():
        assert name in section(card, "Parameters"), value
    assert f"grown to {record.search.rounds} trees" in section(card, "Parameters")


def test_every_feature_stands_in_it_with_its_meaning_and_its_gain(card: str, bundle: Bundle) -> None:
    rows = [line.split(" | ") for line in section(card, "Features").splitlines() if line.startswith("| `")]
    assert sorted(row[0].strip("| `") for row in rows) == sorted(CATALOGUE.names)
    meanings = {feature.name: feature.meaning for feature in CATALOGUE.features}
    # gains by XGBoost's dump of its trees, which is another way to them than get_score
    expected = dict.fromkeys(CATALOGUE.names, 0.0)
    import xgboost

    for tree in xgboost.Booster(model_file=bytearray(bundle.model)).get_dump(with_stats=True):
        for name, gain in re.findall(r"\[(\w+)<[^\]]*\].*?gain=([\d.e+-]+)", tree):
            expected[name] += float(gain)
    whole = sum(expected.values())
    assert gain_shares(bundle) == pytest.approx({name: gain / whole for name, gain in expected.items()}, abs=1e-5)
    shown = []
    for row in rows:
        name = row[0].strip("| `")
        assert row[5].rstrip(" |") == meanings[name]
        assert float(row[2].rstrip("%")) == pytest.approx(100 * expected[name] / whole, abs=0.006)
        shown.append(expected[name])
    assert shown == sorted(shown, reverse=True)
    strongest = {row[0].strip("| `") for row in rows[:2]}
    assert strongest == {CATALOGUE.names[kit.FIRST], CATALOGUE.names[kit.SECOND]}, "the fraud hangs on these two"


def test_gate_and_lineage_lead_back_to_where_it_came_from(card: str, candidate: Candidate, bundle: Bundle) -> None:
    gate = section(card, "Gate")
    assert "It passed, against fraud-detector-6, on 77 frauds." in gate
    assert all(f"- {reason}" in gate for reason in VERDICT.reasons)
    failed = card_markdown(candidate.record, bundle, replace(VERDICT, promote=False))
    assert "It did not pass, against fraud-detector-6" in section(failed, "Gate")
    assert "not judged yet" in section(card_markdown(candidate.record, bundle, None), "Gate")
    lineage = section(card, "Lineage")
    for fact in ("mlflow-run", "dagster-run", candidate.fingerprint, bundle.model_sha256, bundle.catalogue_hash):
        assert fact in lineage
    for data in candidate.record.data.values():
        assert str(data["sha256"]) in lineage


def test_card_and_report_share_their_parts_word_for_word(card: str, candidate: Candidate) -> None:
    report = report_text(candidate.record)
    for name in ("Decisions", "With a store lost", "Slices", "Data"):
        assert section(card, name).strip() == section(report + "\n## ", name).strip()


def test_a_card_goes_with_its_release_and_the_command_prints_it(
    card: str, candidate: Candidate, bundle: Bundle, tmp_path: Path
) -> None:
    bundle.write(tmp_path / "made")
    (tmp_path / "made" / CARD_FILE).write_text(card)
    released = install(tmp_path / "home", tmp_path / "made")
    assert (released / CARD_FILE).read_text() == card
    # a release is never rewritten, its card neither; a bundle without a card can be released as well
    (tmp_path / "made" / CARD_FILE).write_text("another")
    assert (install(tmp_path / "home", tmp_path / "made") / CARD_FILE).read_text() == card
    replace(bundle, threshold=0.95).write(tmp_path / "other")
    with pytest.raises(BundleError, match="never overwritten"):
        install(tmp_path / "home", tmp_path / "other")
    begin_home(tmp_path / "home")
    printed = CliRunner().invoke(app, ["card", "7"], env={"FRAUD_HOME": str(tmp_path / "home")})
    assert printed.exit_code == 0
    assert printed.stdout == f"{card}\n## In force\n\nIt has never decided a payment.\n"


def test_the_ledger_says_when_a_release_decided() -> None:
    def entry(what: str, to: object, was: object, at: str) -> dict[str, object]:
        return {"what": what, "to": to, "from": was, "at": at, "who": "weekly", "why": "better"}

    shadow = {"challenger": "m-7", "stage": "shadow", "weight": 0.0}
    nobody = {"challenger": None, "stage": "none", "weight": 0.0}
    ledger = [
        entry("champion", "m-6", None, "t0"),
        entry("challenger", shadow, nobody, "t1"),
        entry("challenger", {**shadow, "stage": "canary", "weight": 0.3}, shadow, "t2"),
        entry("policy", 3, 2, "t3"),
        entry("champion", "m-7", "m-6", "t4"),
        entry("champion", "m-8", "m-7", "t5"),
    ]
    rows = re.findall(r"\| (t\d) \| ([^|]*) \|", standing_markdown("m-7", ledger))
    assert rows == [
        ("t1", "is the challenger, shadow, 0% of users"),
        ("t2", "is the challenger, canary, 30% of users"),
        ("t4", "is the champion"),
        ("t5", "gives way to m-8"),
    ]
