"""A candidate's report as Markdown with its pictures inside, for Dagster's metadata and MLflow.

What belongs here: words and tables. What does not: figures that are not in the candidate's record.
"""

import base64

from fraud_platform.features.degrade import LEVELS
from fraud_platform.model.candidate import Candidate, CandidateRecord
from fraud_platform.model.evaluate import CALIBRATION_BINS, SLICE_FRAUDS, TOP_USERS, AtThreshold, Evaluation
from fraud_platform.model.ranking import Interval
from fraud_platform.model.search import SearchResult
from fraud_platform.model.train import WEIGHT_EXPONENT

_FEATURES = 10


def report_markdown(candidate: Candidate) -> str:
    """The whole report; pictures are data addresses, so it needs no other file."""
    pictures = [
        f"![{name.removesuffix('.png')}](data:image/png;base64,{base64.b64encode(picture).decode()})"
        for name, picture in candidate.plots.items()
    ]
    return "\n\n".join([report_text(candidate.record), *pictures]) + "\n"


def report_text(record: CandidateRecord) -> str:
    """The report without pictures."""
    parts = [
        f"# Candidate {record.fingerprint}",
        *_ranking(record),
        *_decisions(record.evaluation),
        *_lost_stores(record.evaluation),
        *_slices(record.evaluation),
        *_choices(record),
        *_windows(record),
    ]
    return "\n\n".join(parts)


def _ranking(record: CandidateRecord) -> list[str]:
    evaluation = record.evaluation
    candidate, baseline = evaluation.comparison.candidate, evaluation.comparison.reference
    calibrated = evaluation.calibration
    return [
        _table(
            ["on the holdout", "XGBoost", "logistic regression"],
            [
                ["average precision", _interval(candidate.average_precision), _interval(baseline.average_precision)],
                ["AUC ROC", _interval(candidate.auc), _interval(baseline.auc)],
            ],
        ),
        f"Gain in average precision, paired: {_interval(evaluation.comparison.average_precision_gain)}. "
        "Brackets are 95% bootstrap intervals. Of the "
        f"{TOP_USERS} users of highest score on a day, {_percent(evaluation.top_users)} had a fraud that day.",
        f"Calibration: scores average {calibrated.mean_score:.4%}, {evaluation.frauds / evaluation.rows:.4%} of the "
        f"payments were fraud; expected calibration error {_interval(calibrated.expected_error, 5)} over "
        f"{CALIBRATION_BINS} bins, "
        f"Brier score {_interval(calibrated.brier, 5)}, log loss {_interval(calibrated.log_loss)}. "
        f"The map from margin to probability: slope {record.calibration.slope:.3f}, "
        f"intercept {record.calibration.intercept:+.3f}.",
    ]


def _decisions(evaluation: Evaluation) -> list[str]:
    named = [("block (policy)", evaluation.block), ("review or block (policy)", evaluation.review)]
    if evaluation.by_cost is not None:
        named.append(("block, chosen by cost", evaluation.by_cost))
    lines = [
        "## Decisions",
        _table(
            [
                "a score above", "means", "payments", "precision", "recall", f"caught, {evaluation.currency}",
                f"wrongly stopped, {evaluation.currency}", "loss of 1,000 payments",
            ],
            [_at(meaning, at) for meaning, at in named],
        ),
        f"All frauds of the holdout: {evaluation.frauds:,}, {evaluation.fraud_amount:,.0f} {evaluation.currency}.",
    ]  # fmt: skip
    if evaluation.choice is not None:
        bound = " More alerts would have cost less; the alert budget forbids them." * evaluation.choice.bound_by_budget
        lines.append(
            f"The threshold chosen by cost, {evaluation.choice.threshold:.4f}, made the loss smallest on days before "
            f"the holdout, blocking {evaluation.choice.alert_share:.3%} of payments there.{bound} It is a proposal: "
            "the policy is what decides."
        )
    return lines


def _lost_stores(evaluation: Evaluation) -> list[str]:
    full = evaluation.comparison.candidate
    rows = [["everything there", "", _interval(full.average_precision), _interval(full.auc)]]
    rows += [
        [level.name, LEVELS[level.name], _interval(level.ranking.average_precision), _interval(level.ranking.auc)]
        for level in evaluation.levels
    ]
    return ["## With a store lost", _table(["level", "meaning", "average precision", "AUC ROC"], rows)]


def _slices(evaluation: Evaluation) -> list[str]:
    rows = []
    for one in evaluation.slices:
        ranks = ["too few", "too few"]
        if one.ranking is not None:
            ranks = [_interval(one.ranking.average_precision, 3), _interval(one.ranking.auc, 3)]
        rates = ["–" if share is None else f"{share:.1%}" for share in (one.block_precision, one.block_recall)]
        rows.append([one.dimension, one.name, f"{one.rows:,}", f"{one.frauds:,}", *ranks, *rates])
    header = ["slice", "", "payments", "frauds", "average precision", "AUC ROC", "block precision", "block recall"]
    return [
        "## Slices",
        _table(header, rows),
        f"Slices with fewer than {SLICE_FRAUDS} frauds are not ranked: their figures would be chance. Average "
        "precision depends on a slice's share of fraud, so compare AUC between slices.",
    ]


def _choices(record: CandidateRecord) -> list[str]:
    found = record.search
    if not found.trials:
        return ["## Parameters", "**Too few frauds for a fold**: default parameters, a fixed number of trees."]
    parameters = ", ".join(f"{name} {_short(value)}" for name, value in sorted(found.parameters.items()))
    lines = [
        "## Parameters",
        f"{len(found.trials)} sets were tried on folds in time order; the best, grown to {found.rounds} trees: "
        f"{parameters}.",
        _table(["set", "average precision per fold", "mean", "trees", "parameters"], _trials(found)),
        f"`{WEIGHT_EXPONENT}` weighs a fraud by (goods / frauds) to that power: the first three sets differ in nothing "
        "else, and say whether weighting pays here.",
    ]
    if found.out_of_time:
        lines.append("**The time budget ended the search**: another run may try more sets, and choose another.")
    strongest = ", ".join(f"{name} ({value:.2f})" for name, value in record.features[:_FEATURES])
    return [*lines, f"Strongest features, by mean absolute SHAP value in log-odds: {strongest}."]


def _windows(record: CandidateRecord) -> list[str]:
    evaluation, days = record.evaluation, record.split.describe()
    lines = [
        "## Data",
        _table(
            ["window", "days", "rows", "frauds"],
            [
                [
                    "train, folds included", f"{days['train'][0]} to {days['validation'][1]}",
                    f"{record.train_rows:,}", f"{record.train_frauds:,}",
                ],
                ["holdout", " to ".join(days["holdout"]), f"{evaluation.rows:,}", f"{evaluation.frauds:,}"],
            ],
        ),
        f"Labels that arrived before {days['training_cut']} trained it, labels that arrived before "
        f"{days['evaluation_cut']} measured it. {evaluation.unknown:,} holdout transactions of unknown label were left "
        "out.",
    ]  # fmt: skip
    if record.split.shrunk:
        lines.append(
            "**The history is shorter than the settings' windows**, so all were shrunk: a transaction counts as good "
            f"after {record.split.maturity_days} days, and late labels are missed."
        )
    return lines


def _trials(found: SearchResult) -> list[list[str]]:
    chosen = max(found.trials, key=lambda trial: (trial.parameters == found.parameters, -trial.number))
    rows = []
    for trial in found.trials:
        values = ", ".join(f"{name} {_short(value)}" for name, value in sorted(trial.parameters.items()))
        number = f"**{trial.number}**" if trial is chosen else str(trial.number)
        reached = " · ".join(f"{value:.4f}" for value in trial.average_precision)
        rows.append([number, reached, f"{trial.mean:.4f}", " · ".join(map(str, trial.rounds)), values])
    return rows


def _at(meaning: str, at: AtThreshold) -> list[str]:
    return [
        f"{at.threshold:.4g}",
        meaning,
        f"{at.flagged:,}",
        "none flagged" if at.precision is None else _percent(at.precision),
        _percent(at.recall),
        _money(at.caught),
        _money(at.wrongly),
        _money(at.loss_per_thousand),
    ]


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _interval(interval: Interval, digits: int = 4) -> str:
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _percent(interval: Interval) -> str:
    return f"{interval.value:.1%} [{interval.low:.1%}, {interval.high:.1%}]"


def _money(interval: Interval) -> str:
    return f"{interval.value:,.0f} [{interval.low:,.0f}, {interval.high:,.0f}]"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
