"""Whether a candidate may replace what decides now: the rule, the verdict, and where the verdict is kept.

What belongs here: judging from measured comparisons, and reading a verdict again. What does not: measuring (`ranking`),
promoting (`registry`).
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from fraud_platform.model.bundle import replace_file
from fraud_platform.model.kinds import KINDS, KindName
from fraud_platform.model.ranking import Comparison, Interval

VERDICT_FILE = "verdict.json"
CHANCE = "chance"
"""The rival where no release is in force."""
_CHANCE_AUC = 0.5


class NoVerdictError(RuntimeError):
    """A candidate may not be promoted: there is no verdict, it did not pass, or it was against another rival."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The decision with what it rests on, in sentences."""

    promote: bool
    rival: str
    """Name of the release that was in force, or CHANCE when none was."""
    frauds: int
    """In the holdout of the comparison."""
    reasons: list[str]


def judge(
    *,
    frauds: int,
    min_frauds: int,
    kinds: tuple[KindName, KindName],
    between: Comparison,
    rival: str = CHANCE,
    against_rival: Comparison | None = None,
) -> Verdict:
    """The promotion rule. frauds: in the holdout. kinds: the candidate's, and that of the model fitted beside it.
    between: the two. against_rival: None when no model is in force.

    A candidate, the better of the two kinds, must surely beat chance, and the champion where there is one, on the same
    holdout: the whole interval of AUC ROC above 0.5, the whole paired interval of the gain in average precision above
    0. With fewer frauds than `min_frauds` nothing is promoted.
    """
    auc = between.candidate.auc
    passed = [auc.low > _CHANCE_AUC]
    reasons = [_choice(kinds, between), _against_chance(auc)]
    if against_rival is not None:
        passed.append(against_rival.average_precision_gain.low > 0)
        reasons.append(_against(rival, against_rival))
    enough = frauds >= min_frauds
    if not enough:
        few = f"only {frauds} frauds in the holdout, {min_frauds} are needed to trust a gain (FRAUD_MIN_HOLDOUT_FRAUDS)"
        reasons.insert(0, few)
    return Verdict(promote=enough and all(passed), rival=rival, frauds=frauds, reasons=reasons)


def write_verdict(candidate: Path, verdict: Verdict) -> None:
    """Keep a verdict beside its candidate, in place of an earlier one."""
    replace_file(candidate / VERDICT_FILE, msgspec.json.format(msgspec.json.encode(verdict), indent=2))


def read_verdict(candidate: Path) -> Verdict | None:
    """The verdict on a candidate, or None."""
    path = candidate / VERDICT_FILE
    return msgspec.json.decode(path.read_bytes(), type=Verdict) if path.exists() else None


def passed_verdict(candidate: Path, in_force: str) -> Verdict:
    """The verdict that allows a promotion over the release now in force (CHANCE for none). Raises NoVerdictError."""
    verdict = read_verdict(candidate)
    if verdict is None:
        raise NoVerdictError(f"{candidate.name} has not been judged; materialize registered_model first")
    if verdict.rival != in_force:
        raise NoVerdictError(
            f"{candidate.name} was judged against {verdict.rival}, and {in_force} is in force; judge it again"
        )
    if not verdict.promote:
        raise NoVerdictError(f"{candidate.name} did not pass the gate: {'; '.join(verdict.reasons)}")
    return verdict


def _choice(kinds: tuple[KindName, KindName], between: Comparison) -> str:
    chosen, other = (KINDS[kind].title for kind in kinds)
    surely = "surely " if between.average_precision_gain.low > 0 else "not surely "
    return f"{chosen} is taken, which is {surely}better than {other} in {_gain(between)}"


def _against_chance(auc: Interval) -> str:
    outcome = "surely beats" if auc.low > _CHANCE_AUC else "does not surely beat"
    return f"{outcome} chance: AUC ROC {auc.value:.4f} (95% interval {auc.low:.4f} to {auc.high:.4f}), chance is 0.5"


def _against(rival: str, comparison: Comparison) -> str:
    outcome = "surely beats" if comparison.average_precision_gain.low > 0 else "does not surely beat"
    return f"{outcome} {rival} in {_gain(comparison)}"


def _gain(comparison: Comparison) -> str:
    gain = comparison.average_precision_gain
    return (
        f"average precision: {comparison.candidate.average_precision.value:.4f} against "
        f"{comparison.reference.average_precision.value:.4f}, gain {gain.value:+.4f} "
        f"(95% interval {gain.low:+.4f} to {gain.high:+.4f})"
    )
