"""Whether a candidate may replace what decides now: the rule, the verdict, and where the verdict is kept.

What belongs here: judging from measured comparisons, and reading a verdict again. What does not: measuring (`ranking`),
promoting (`registry`).
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from fraud_platform.model.bundle import replace_file
from fraud_platform.model.ranking import Comparison

VERDICT_FILE = "verdict.json"
BASELINE = "logistic regression"


class NoVerdictError(RuntimeError):
    """A candidate may not be promoted: there is no verdict, it did not pass, or it was against another rival."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The decision with what it rests on, in sentences."""

    promote: bool
    rival: str
    """Name of the release that was in force, or BASELINE when none was."""
    frauds: int
    """In the holdout of the comparison."""
    reasons: list[str]


def judge(
    *,
    frauds: int,
    min_frauds: int,
    against_baseline: Comparison,
    rival: str = BASELINE,
    against_rival: Comparison | None = None,
) -> Verdict:
    """The promotion rule. frauds: in the holdout. against_rival: None when no model is in force.

    A candidate must beat logistic regression, and the champion where there is one, on the same holdout: the whole
    paired interval of the gain in average precision above 0. With fewer frauds than `min_frauds` nothing is promoted.
    """
    comparisons = [(BASELINE, against_baseline)]
    if against_rival is not None:
        comparisons.append((rival, against_rival))
    reasons = [_gain(name, comparison) for name, comparison in comparisons]
    enough = frauds >= min_frauds
    if not enough:
        few = f"only {frauds} frauds in the holdout, {min_frauds} are needed to trust a gain (FRAUD_MIN_HOLDOUT_FRAUDS)"
        reasons.insert(0, few)
    better = all(comparison.average_precision_gain.low > 0 for _, comparison in comparisons)
    return Verdict(promote=enough and better, rival=rival, frauds=frauds, reasons=reasons)


def write_verdict(candidate: Path, verdict: Verdict) -> None:
    """Keep a verdict beside its candidate, in place of an earlier one."""
    replace_file(candidate / VERDICT_FILE, msgspec.json.format(msgspec.json.encode(verdict), indent=2))


def read_verdict(candidate: Path) -> Verdict | None:
    """The verdict on a candidate, or None."""
    path = candidate / VERDICT_FILE
    return msgspec.json.decode(path.read_bytes(), type=Verdict) if path.exists() else None


def passed_verdict(candidate: Path, in_force: str) -> Verdict:
    """The verdict that allows a promotion over the release now in force (BASELINE for none). Raises NoVerdictError."""
    verdict = read_verdict(candidate)
    if verdict is None:
        raise NoVerdictError(f"{candidate.name} was not judged; materialize registered_model first")
    if verdict.rival != in_force:
        raise NoVerdictError(
            f"{candidate.name} was judged against {verdict.rival}, and {in_force} is in force; judge it again"
        )
    if not verdict.promote:
        raise NoVerdictError(f"{candidate.name} did not pass the gate: {'; '.join(verdict.reasons)}")
    return verdict


def _gain(rival: str, comparison: Comparison) -> str:
    gain = comparison.average_precision_gain
    outcome = "beats" if gain.low > 0 else "does not reliably beat"
    return (
        f"{outcome} {rival} in average precision: {comparison.candidate.average_precision.value:.4f} against "
        f"{comparison.reference.average_precision.value:.4f}, gain {gain.value:+.4f} "
        f"(95% interval {gain.low:+.4f} to {gain.high:+.4f})"
    )
