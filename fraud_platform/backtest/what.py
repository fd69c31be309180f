"""What is tried on past traffic: a rule, a threshold, a model, the fallback rules.

What belongs here: which payments each of them would have stopped. What does not: what that is worth (`figures`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fraud_platform.backtest.rule import Rule
from fraud_platform.backtest.traffic import Bools, Day, Floats, InForce, Span, payments_schema, score_all
from fraud_platform.currency import exponent
from fraud_platform.decision.policy_record import read_policy
from fraud_platform.decision.rules import FallbackRules
from fraud_platform.decision.serving_model import kept_releases, load_model
from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.model.bundle import MODEL_NAME, Bundle, BundleError, NoReleaseError, current_release, releases
from fraud_platform.settings import Settings


class NoSuchModelError(LookupError):
    """The home has no such release; the message says which it has."""


@dataclass(frozen=True)
class What:
    """Something to try."""

    title: str
    hit_is: Literal["block", "alert"]
    """A hit would block, and is held against what ran's blocks; or flag, held against its blocks and flags."""
    hits: Callable[[Day], tuple[Bools, Bools]]
    """Of a day's payments: which are hit, and which it has nothing to decide by; both (n,)."""
    learned: Span | None = None
    """First and last day that a model's training saw; figures there flatter it."""


def by_rule(text: str, settings: Settings, catalogue: Catalogue = CATALOGUE) -> What:
    """Block where an expression over payments and features of a set is true. Raises RuleError."""
    rule = Rule(text, payments_schema(catalogue), settings.duckdb_memory)
    return What(text, "block", lambda day: rule.hits(day.payments))


def by_threshold(threshold: float, in_force: InForce | None) -> What:
    """Block where what ran's score is strictly greater: on imported history that of the release in force."""

    def hits(day: Day) -> tuple[Bools, Bools]:
        return _above(day.payments.column("score").to_numpy(), threshold)

    return What(f"score > {threshold:g}", "block", hits, None if in_force is None else in_force.learned)


def by_model(home: Path, version: int, threshold: float | None) -> What:
    """Block where a release's score is strictly greater than its own threshold, or the given one.

    Raises NoSuchModelError.
    """
    folder = releases(home) / f"{MODEL_NAME}-{version}"
    try:
        model = load_model(folder)
    except BundleError as error:
        there = ", ".join(kept.name for kept in kept_releases(home)) or "none"
        raise NoSuchModelError(f"no release {version} can be loaded ({error}); this home has {there}") from error
    limit = _bands(home, folder)[0] if threshold is None else threshold

    def hits(day: Day) -> tuple[Bools, Bools]:
        return _above(np.where(day.built, score_all(model, day.vectors), np.nan), limit)

    return What(f"{model.version} > {limit:g}", "block", hits, learned_span(folder))


def by_fallback_rules(settings: Settings) -> What:
    """Flag what the fallback rules would flag."""
    rules = FallbackRules(settings.rule_high_amount, settings.rule_cross_country_amount)
    places = exponent(settings.base_currency)

    def hits(day: Day) -> tuple[Bools, Bools]:
        countries = (day.payments.column(name).to_pylist() for name in ("country", "user_country"))
        decided = (
            rules.decide(None if np.isnan(amount) else int(amount), places, country, home)[0]
            for amount, country, home in zip(day.amounts.tolist(), *countries, strict=True)
        )
        hit = np.fromiter((decision != "allow" for decision in decided), np.bool_, len(day.amounts))
        return hit, np.zeros(len(hit), np.bool_)

    title = f"fallback rules: above {rules.high_amount:,}, abroad above {rules.cross_country_amount:,}"
    return What(title, "alert", hits)


def in_force(home: Path) -> InForce | None:
    """The release in force; None where there is none. Raises BundleError when it cannot be loaded."""
    try:
        folder = current_release(home)
    except NoReleaseError:
        return None
    return InForce(load_model(folder), *_bands(home, folder), learned_span(folder))


def _bands(home: Path, release: Path) -> tuple[float, float]:
    """Threshold and review threshold of the policy in force, else those that the release was measured at."""
    standing = read_policy(home) or Bundle.load(release)
    return standing.threshold, standing.review_threshold


def learned_span(release: Path) -> Span | None:
    """First and last day that a release's training saw, as its bundle says; None where it does not."""
    split: dict[str, Any] = Bundle.load(release).data.get("split", {})
    if not {"train", "validation"} <= split.keys():
        return None
    return date.fromisoformat(split["train"][0]), date.fromisoformat(split["validation"][1])


def _above(scores: Floats, threshold: float) -> tuple[Bools, Bools]:
    undecided = np.isnan(scores)
    return np.asarray(scores > threshold, np.bool_), np.asarray(undecided, np.bool_)
