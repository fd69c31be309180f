"""A version's model card as Markdown: what it is for, what it rests on, how good it is and where it ends.

What belongs here: words and tables that only a card has, after Mitchell and others (2019). What does not: the parts
that it shares with the candidate's report (`report`), where cards are kept (`registry`, `bundle`). Every figure is read
from the candidate's record, the bundle, the verdict or the ledger.
"""

from collections.abc import Sequence
from typing import Any

from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.model import report
from fraud_platform.model.bundle import Bundle, Scorer
from fraud_platform.model.calibration import UNCALIBRATED
from fraud_platform.model.candidate import CandidateRecord
from fraud_platform.model.gate import Verdict


def card_markdown(
    record: CandidateRecord, bundle: Bundle, verdict: Verdict | None, catalogue: Catalogue = CATALOGUE
) -> str:
    """The card of a registered bundle. verdict: None where it was not judged yet. catalogue: one that has its
    features."""
    gains = gain_shares(bundle, catalogue)
    parts = [
        f"# Model card: {bundle.model_name}/{bundle.version}",
        *_use(record, bundle),
        *_gate(verdict),
        *report.windows(record),
        "## Ranking",
        *report.ranking(record.evaluation),
        "## Calibration",
        report.calibration(record),
        *report.decisions(record.evaluation),
        *report.lost_stores(record.evaluation),
        *report.slices(record.evaluation),
        *_features(record, gains, catalogue),
        *_limits(record, bundle, gains),
        *report.choices(record),
        *_fixed(record),
        *_lineage(record, bundle),
    ]
    return "\n\n".join(parts) + "\n"


def standing_markdown(release: str, ledger: Sequence[dict[str, Any]]) -> str:
    """When a release took over and when another did. ledger: of `ledger.read_ledger`."""
    rows = []
    for entry in ledger:
        if entry["what"] == "champion" and release in (entry["to"], entry["from"]):
            event = "is the champion" if entry["to"] == release else f"gives way to {entry['to']}"
        elif entry["what"] == "challenger" and entry["to"]["challenger"] == release:
            event = f"is the challenger, {entry['to']['stage']}, {entry['to']['weight']:.0%} of users"
        elif entry["what"] == "challenger" and (entry["from"] or {}).get("challenger") == release:
            event = "is no challenger any more"
        else:
            continue
        rows.append([entry["at"], event, entry["who"], entry["why"]])
    told = report.table(["when", "what", "who", "why"], rows) if rows else "It has never decided a payment."
    return f"## In force\n\n{told}\n"


def gain_shares(bundle: Bundle, catalogue: Catalogue = CATALOGUE) -> dict[str, float] | None:
    """Each feature's share of all that the trees' splits gain, 0 for one that no tree splits on; None without trees.

    Raises BundleError.
    """
    gains = Scorer(bundle, catalogue).model.gains()
    return None if gains is None else {name: gains.get(name, 0.0) for name in bundle.features}


def _use(record: CandidateRecord, bundle: Bundle) -> list[str]:
    evaluation = record.evaluation
    return [
        "## Intended use",
        f"It is {bundle.kind_of_model.title}, and gives the probability that a payment is fraud, from "
        f"{len(bundle.features)} features (catalogue {bundle.catalogue_hash}), while the payment waits. A score "
        f"strictly above {bundle.threshold:g} blocks it, one above {bundle.review_threshold:g} has people look at it, "
        "where the policy in force sets nothing else. "
        f"Amounts are in {evaluation.currency}; {evaluation.frauds / evaluation.rows:.3%} of the payments that it was "
        "measured on were fraud.",
        "It is not made to judge a person, a merchant or an account, to score anything but single payments of the kind "
        "it learned from, or to decide where its features are another catalogue's. Logistic regression, which travels "
        "with every model, decides where the model cannot; rules decide where neither can.",
    ]


def _gate(verdict: Verdict | None) -> list[str]:
    if verdict is None:
        return ["## Gate", "It was not judged yet."]
    outcome = "passed" if verdict.promote else "did not pass"
    reasons = "\n".join(f"- {reason}" for reason in verdict.reasons)
    return ["## Gate", f"It {outcome}, against {verdict.rival}, on {verdict.frauds:,} frauds.", reasons]


def _features(record: CandidateRecord, gains: dict[str, float] | None, catalogue: Catalogue) -> list[str]:
    by_name = {feature.name: feature for feature in catalogue.features}
    shap = dict(record.features)
    first = shap if gains is None else gains
    rows = [
        [f"`{name}`", by_name[name].source, *([] if gains is None else [f"{gains[name]:.2%}"]), f"{shap[name]:.3f}",
         by_name[name].unit, by_name[name].meaning]
        for name in sorted(first, key=lambda name: (-first[name], name))
    ]  # fmt: skip
    gain_header = [] if gains is None else ["gain"]
    gain_meaning = (
        "" if gains is None else "Gain is a feature's share of what all splits of the trees gain in training. "
    )
    return [
        "## Features",
        report.table(["feature", "source", *gain_header, "mean absolute SHAP", "unit", "meaning"], rows),
        f"{gain_meaning}The SHAP value is in log-odds, on a sample of the holdout.",
    ]


def _limits(record: CandidateRecord, bundle: Bundle, gains: dict[str, float] | None) -> list[str]:
    evaluation, split = record.evaluation, record.split
    whole = evaluation.comparison.candidate
    lines = [
        f"The figures rest on {evaluation.frauds:,} frauds among {evaluation.rows:,} payments of {len(split.holdout)} "
        f"days, {split.holdout[0]} to {split.holdout[-1]}; payments since then are not part of this card.",
        f"{evaluation.unknown:,} payments of unknown label were left out. A fraud that nobody reported within "
        f"{split.maturity_days} days counts as good.",
    ]
    for level in evaluation.levels:
        lines.append(
            f"At the level {level.name} average precision is {level.ranking.average_precision.value:.4f} instead of "
            f"{whole.average_precision.value:.4f}."
        )
    ranked = [one for one in evaluation.slices if one.ranking is not None]
    if ranked:
        weakest = min(ranked, key=lambda one: one.ranking.auc.value if one.ranking else 1.0)
        lines.append(
            f"The weakest slice that can be ranked is {weakest.dimension} {weakest.name}: AUC ROC "
            f"{report.interval(weakest.ranking.auc, 3) if weakest.ranking else ''}, {whole.auc.value:.3f} on the whole."
        )
    unranked = [f"{one.dimension} {one.name}" for one in evaluation.slices if one.ranking is None]
    if unranked:
        lines.append(f"Nothing is known of its ranking in slices with too few frauds: {', '.join(unranked)}.")
    unused = [name for name, gain in (gains or {}).items() if not gain]
    if gains and unused:
        lines.append(f"{len(unused)} of {len(gains)} features split no tree: {', '.join(unused)}.")
    if bundle.calibration == UNCALIBRATED:
        lines.append(
            "It is not calibrated, as there were too few frauds, or its scores said nothing of days that it had not "
            "seen: a score is no probability."
        )
    if split.shrunk:
        lines.append("The history was shorter than the settings' windows: late labels are missed.")
    if record.search.out_of_time:
        lines.append("The time budget ended the search for parameters: a longer one may find better.")
    lines.append("It sees habits, countries and devices of payment; fairness between groups of people is not measured.")
    return ["## Limits", "\n".join(f"- {line}" for line in lines)]


def _fixed(record: CandidateRecord) -> list[str]:
    fixed = ", ".join(f"{name} {value}" for name, value in sorted(record.fixed.items()))
    return [f"Not searched for: {fixed}."]


def _lineage(record: CandidateRecord, bundle: Bundle) -> list[str]:
    rows = [
        ["trained at", bundle.trained_at],
        ["fingerprint", record.fingerprint],
        ["MLflow run", bundle.mlflow_run_id or "none"],
        ["Dagster run", bundle.dagster_run_id or "none"],
        ["catalogue", bundle.catalogue_hash],
        ["model file, SHA-256", bundle.model_sha256],
        *(
            [
                f"{name}, {data['partitions']} days",
                f"{data['first_day']} to {data['last_day']}, SHA-256 {data['sha256']}",
            ]
            for name, data in record.data.items()
        ),
    ]
    return ["## Lineage", report.table(["what", "which"], rows)]
