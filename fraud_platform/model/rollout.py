"""What becomes of a challenger: it goes on, it stays, or it is taken out at once.

What belongs here: the rule, and taking one step. What does not: the figures (`arms`), the changes (`release`).

Harm is acted on as soon as it is shown, at any time. Going on needs more than no harm shown: it must be shown that the
challenger blocks within its band, that it seldom fails, and that where labels are known it catches no less.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from fraud_platform.decision.policy_control import policy_in_force
from fraud_platform.features.label_rules import label_rules
from fraud_platform.lake import Lake
from fraud_platform.model.arms import Evidence, gather
from fraud_platform.model.bundle import NoReleaseError
from fraud_platform.model.release import Reason, ReleaseError, ramp, roll_back
from fraud_platform.model.routing import Routing, read_routing
from fraud_platform.settings import Settings

MIN_LATENCIES = 200
"""Payments in the challenger's turn below which latency says nothing."""
MIN_FRAUDS = 30
"""Known frauds below which the catch rate says nothing: a canary is a matter of days, labels of weeks."""

_HOUR_US = 3_600_000_000


@dataclass(frozen=True)
class Step:
    """What to do with the challenger now, and why, in sentences."""

    action: Literal["wait", "ramp", "promote", "roll_back"]
    weight: float
    reasons: list[str]


def next_step(routing: Routing, evidence: Evidence, settings: Settings, now_us: int) -> Step:
    """The step that the evidence allows. now_us: UTC microseconds."""
    harm = harms(evidence, settings)
    if harm:
        return Step("roll_back", 0.0, harm)
    hours = (now_us - routing.since) / _HOUR_US
    dwell = settings.shadow_hours if routing.stage == "shadow" else settings.canary_hours
    missing = unproven(evidence, settings)
    if hours < dwell:
        missing.insert(0, f"it is {hours:.1f} h in this stage, which takes {dwell:g} h")
    if missing:
        return Step("wait", routing.weight, missing)
    larger = [weight for weight in settings.canary_weights if weight > routing.weight]
    good = [f"{evidence.payments:,} payments scored by both, all within its bands"]
    return Step("ramp", larger[0], good) if larger else Step("promote", 1.0, good)


def harms(evidence: Evidence, settings: Settings) -> list[str]:
    """Everything that is shown to be out of its band; empty when nothing is."""
    found = []
    if evidence.block_excess.low > 0:
        found.append(f"it blocks more than {settings.canary_block_band:g} times what the champion does")
    if evidence.block_lack.high < 0:
        found.append(f"it blocks less than 1/{settings.canary_block_band:g} of what the champion does")
    if evidence.money_excess.low > 0:
        found.append(f"it blocks more than {settings.canary_block_band:g} times the champion's money")
    if evidence.errors.low > settings.canary_error_limit:
        found.append(f"it fails on {evidence.errors.mean:.1%} of payments")
    if evidence.latency_ms.observations >= MIN_LATENCIES and evidence.latency_ms.low > settings.canary_latency_ms:
        found.append(f"its answers take {evidence.latency_ms.mean:.1f} ms longer")
    if evidence.score_excess.low > 0:
        found.append(f"its scores are more than {settings.canary_block_band:g} times the champion's")
    if evidence.score_lack.high < 0:
        found.append(f"its scores are less than 1/{settings.canary_block_band:g} of the champion's")
    if evidence.frauds >= MIN_FRAUDS and evidence.catch_gain.high < -settings.canary_rate_slack:
        found.append(f"it catches {-evidence.catch_gain.mean:.1%} fewer of the known frauds")
    if evidence.false_positive_excess.low > 0:
        found.append(f"it blocks more than {settings.canary_block_band:g} times the champion's good payments")
    return found


def unproven(evidence: Evidence, settings: Settings) -> list[str]:
    """What is not shown yet and must be before the challenger goes on."""
    missing = []
    if evidence.payments < settings.canary_min_payments:
        missing.append(f"{evidence.payments:,} of {settings.canary_min_payments:,} payments were scored by both")
    if evidence.block_excess.high > 0:
        missing.append(f"it may block more than {settings.canary_block_band:g} times what the champion does")
    if evidence.block_lack.low < 0:
        missing.append(f"it may block less than 1/{settings.canary_block_band:g} of what the champion does")
    if evidence.errors.high > 2 * settings.canary_error_limit:
        missing.append("it may fail more often than it may")
    return missing


def on_trial(home: Path) -> bool:
    """Whether a challenger is being tried. Raises BundleError."""
    try:
        return read_routing(home).challenger is not None
    except NoReleaseError:
        return False


def look(lake: Lake, settings: Settings, now: datetime) -> tuple[Routing, Evidence, Step] | None:
    """Routing, evidence and the step that follows; None without a challenger or before the first release."""
    try:
        routing = read_routing(settings.home)
    except NoReleaseError:
        return None
    if routing.challenger is None:
        return None
    evidence = gather(
        lake,
        routing,
        now,
        threshold=policy_in_force(settings, now).threshold,
        maturity_days=settings.label_maturity_days,
        band=settings.canary_block_band,
        rules=label_rules(settings),
    )
    return routing, evidence, next_step(routing, evidence, settings, int(now.timestamp() * 1_000_000))


def take_step(settings: Settings, routing: Routing, evidence: Evidence, step: Step, who: str, now: datetime) -> bool:
    """Take a step that `look` found; False for one that waits, or that somebody else has made impossible meanwhile."""
    if step.action == "wait" or routing.challenger is None:
        return False
    reason = Reason(who=who, why="; ".join(step.reasons), evidence=evidence.plain())
    try:
        if step.action == "roll_back":
            from fraud_platform.model.registry import show_who_decides

            roll_back(settings.home, routing.challenger, reason, now)
            show_who_decides(settings)
        elif step.action == "ramp":
            ramp(settings.home, routing.challenger, step.weight, reason, now)
        else:
            from fraud_platform.model.registry import promote

            version = int(routing.challenger.rpartition("-")[2])
            promote(settings, version, who=reason.who, why=reason.why, now=now)
    except ReleaseError:
        # somebody took it out between the look and the step; the ledger says who
        return False
    return True
