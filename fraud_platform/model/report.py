"""A candidate's report as Markdown with its pictures inside, for Dagster's metadata and MLflow.

What belongs here: words and tables, as parts that the model's card is made of too. What does not: figures that are not
in the candidate's record.
"""

import base64

from fraud_platform.features.degrade import LEVELS
from fraud_platform.model.candidate import Candidate, CandidateRecord
from fraud_platform.model.evaluate import CALIBRATION_BINS, SLICE_FRAUDS, TOP_USERS, AtThreshold, Evaluation
from fraud_platform.model.kinds import KINDS
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
        *ranking(record.evaluation),
        calibration(record),
        *decisions(record.evaluation),
        *lost_stores(record.evaluation),
        *slices(record.evaluation),
        *choices(record),
        *strongest(record),
        *windows(record),
    ]
    return "\n\n".join(parts)


def ranking(evaluation: Evaluation) -> list[str]:
    """How well scores rank fraud above good, beside the other kind of model."""
    candidate, other = evaluation.comparison.candidate, evaluation.comparison.reference
    return [
        table(
            ["on the holdout", KINDS[evaluation.kind].title, KINDS[evaluation.other_kind].title],
            [
                ["average precision", interval(candidate.average_precision), interval(other.average_precision)],
                ["AUC ROC", interval(candidate.auc), interval(other.auc)],
            ],
        ),
        f"Both were fitted on the same rows, and {KINDS[evaluation.kind].title}, the better, is the candidate. "
        f"Gain in average precision, paired: {interval(evaluation.comparison.average_precision_gain)}. "
        "Brackets are 95% bootstrap intervals. Of the "
        f"{TOP_USERS} users of highest score on a day, {_percent(evaluation.top_users)} had a fraud that day.",
    ]


def calibration(record: CandidateRecord) -> str:
    """Whether a score means what it says."""
    evaluation, calibrated = record.evaluation, record.evaluation.calibration
    return (
        f"Calibration: scores average {calibrated.mean_score:.4%}, {evaluation.frauds / evaluation.rows:.4%} of the "
        f"payments were fraud; expected calibration error {interval(calibrated.expected_error, 5)} over "
        f"{CALIBRATION_BINS} bins, "
        f"Brier score {interval(calibrated.brier, 5)}, log loss {interval(calibrated.log_loss)}. "
        f"The map from margin to probability: slope {record.calibration.slope:.3f}, "
        f"intercept {record.calibration.intercept:+.3f}."
    )


def decisions(evaluation: Evaluation) -> list[str]:
    """What thresholds catch and cost."""
    named = [("block (policy)", evaluation.block), ("review or block (policy)", evaluation.review)]
    if evaluation.by_cost is not None:
        named.append(("block, chosen by cost", evaluation.by_cost))
    lines = [
        "## Decisions",
        table(
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


def lost_stores(evaluation: Evaluation) -> list[str]:
    """Ranking where features are missing."""
    full = evaluation.comparison.candidate
    rows = [["everything there", "", interval(full.average_precision), interval(full.auc)]]
    rows += [
        [level.name, LEVELS[level.name], interval(level.ranking.average_precision), interval(level.ranking.auc)]
        for level in evaluation.levels
    ]
    return ["## With a store lost", table(["level", "meaning", "average precision", "AUC ROC"], rows)]


def slices(evaluation: Evaluation) -> list[str]:
    """Where the model may be worse than on the whole."""
    rows = []
    for one in evaluation.slices:
        ranks = ["too few", "too few"]
        if one.ranking is not None:
            ranks = [interval(one.ranking.average_precision, 3), interval(one.ranking.auc, 3)]
        rates = ["–" if share is None else f"{share:.1%}" for share in (one.block_precision, one.block_recall)]
        rows.append([one.dimension, one.name, f"{one.rows:,}", f"{one.frauds:,}", *ranks, *rates])
    header = ["slice", "", "payments", "frauds", "average precision", "AUC ROC", "block precision", "block recall"]
    return [
        "## Slices",
        table(header, rows),
        f"Slices with fewer than {SLICE_FRAUDS} frauds are not ranked: their figures would be chance. Average "
        "precision depends on a slice's share of fraud, so compare AUC between slices.",
    ]


def choices(record: CandidateRecord) -> list[str]:
    """What the search tried and chose."""
    found = record.search
    if not found.trials:
        return ["## Parameters", "**Too few frauds for a fold**: default parameters, a fixed number of trees."]
    parameters = ", ".join(f"{name} {_short(value)}" for name, value in sorted(found.parameters.items()))
    lines = [
        "## Parameters",
        f"{len(found.trials)} sets for XGBoost were tried on folds in time order; the best, grown to {found.rounds} "
        f"trees: {parameters}.",
        table(["set", "average precision per fold", "mean", "trees", "parameters"], _trials(found)),
        f"`{WEIGHT_EXPONENT}` weighs a fraud by (goods / frauds) to that power: the first three sets differ in nothing "
        "else, and say whether weighting pays here.",
    ]
    if found.out_of_time:
        lines.append("**The time budget ended the search**: another run may try more sets, and choose another.")
    return lines


def strongest(record: CandidateRecord) -> list[str]:
    """The features that move scores most."""
    named = ", ".join(f"{name} ({value:.2f})" for name, value in record.features[:_FEATURES])
    return [f"Strongest features, by mean absolute SHAP value in log-odds: {named}."]


def windows(record: CandidateRecord) -> list[str]:
    """Days and rows of training and holdout."""
    evaluation, days = record.evaluation, record.split.describe()
    lines = [
        "## Data",
        table(
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


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def interval(found: Interval, digits: int = 4) -> str:
    """A figure with its interval in brackets."""
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _percent(interval: Interval) -> str:
    return f"{interval.value:.1%} [{interval.low:.1%}, {interval.high:.1%}]"


def _money(interval: Interval) -> str:
    return f"{interval.value:,.0f} [{interval.low:,.0f}, {interval.high:,.0f}]"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
