"""A candidate's report as Markdown with its pictures inside, for Dagster's metadata and MLflow.

What belongs here: words and tables. What does not: figures that are not in the candidate's record.
"""

import base64

from fraud_platform.model.candidate import Candidate, CandidateRecord
from fraud_platform.model.evaluate import AtThreshold
from fraud_platform.model.ranking import Interval


def report_markdown(candidate: Candidate) -> str:
    """The whole report; pictures are data addresses, so it needs no other file."""
    pictures = [
        f"![{name.removesuffix('.png')}](data:image/png;base64,{base64.b64encode(picture).decode()})"
        for name, picture in candidate.plots.items()
    ]
    return "\n\n".join([report_text(candidate.record), *pictures]) + "\n"


def report_text(record: CandidateRecord) -> str:
    """The report without pictures."""
    evaluation, days = record.evaluation, record.split.describe()
    comparison = evaluation.comparison
    candidate, baseline = comparison.candidate, comparison.reference
    lines = [
        f"# Candidate {record.fingerprint}",
        "",
        "| on the holdout | XGBoost | logistic regression |",
        "|---|---|---|",
        f"| average precision | {_interval(candidate.average_precision)} | {_interval(baseline.average_precision)} |",
        f"| AUC ROC | {_interval(candidate.auc)} | {_interval(baseline.auc)} |",
        "",
        f"Gain in average precision, paired: {_interval(comparison.average_precision_gain)}. "
        "Brackets are 95% bootstrap intervals.",
        "",
        "| a score above | means | payments | precision | recall |",
        "|---|---|---|---|---|",
        _at("block", evaluation.block),
        _at("review or block", evaluation.review),
        "",
        "| window | days | rows | frauds |",
        "|---|---|---|---|",
        f"| train | {' to '.join(days['train'])} | {record.train_rows:,} | {record.train_frauds:,} |",
        f"| validation | {' to '.join(days['validation'])} | {record.validation_rows:,} | "
        f"{record.validation_frauds:,} |",
        f"| holdout | {' to '.join(days['holdout'])} | {evaluation.rows:,} | {evaluation.frauds:,} |",
        "",
        f"Labels that arrived before {days['training_cut']} trained it, labels that arrived before "
        f"{days['evaluation_cut']} measured it. {evaluation.unknown:,} holdout transactions of unknown label were left "
        f"out. Validation found the number of trees, {record.rounds}; both models then learned from train and "
        "validation together.",
    ]
    if record.split.shrunk:
        lines += [
            "",
            f"**The history is shorter than the settings' windows**, so all were shrunk: a transaction counts as good "
            f"after {record.split.maturity_days} days, and late labels are missed.",
        ]
    if record.validation_average_precision is None:
        lines += ["", "**No fraud in validation**: the number of trees is fixed, not stopped early."]
    return "\n".join(lines)


def _interval(interval: Interval) -> str:
    return f"{interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}]"


def _at(meaning: str, at: AtThreshold) -> str:
    precision = "none flagged" if at.precision is None else f"{at.precision:.1%}"
    return f"| {at.threshold:g} | {meaning} | {at.flagged:,} | {precision} | {at.recall:.1%} |"
