"""How good a model is on a holdout: ranking, decisions, money, calibration, slices, lost stores; each with an interval.

What belongs here: figures of one model. What does not: whether it may be promoted (`gate`), pictures (`plots`).
Intervals are percentile bootstraps of COVERAGE over payments, those of users caught a day over days, since a day's
users are one list.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fraud_platform.features.degrade import LEVELS
from fraud_platform.model.costs import CostChoice, LossTable, in_units
from fraud_platform.model.data import Holdout
from fraud_platform.model.kinds import REGRESSION, KindName
from fraud_platform.model.ranking import COVERAGE, Bools, Comparison, Interval, Ranking, compare, rank
from fraud_platform.model.slices import slices
from fraud_platform.settings import Settings

Floats = NDArray[np.float64]

RESAMPLES = 400
SLICE_FRAUDS = 10
"""Frauds (and good payments) below which a slice is not ranked: its figure would be chance."""

TOP_USERS = 100
CALIBRATION_BINS = 10


@dataclass(frozen=True)
class Scores:
    """Calibrated scores of the holdout's rows, each of shape (n,)."""

    candidate: Floats
    other: Floats
    """Of the kind that was fitted on the same rows and is not the candidate's."""
    levels: dict[str, Floats]
    """The candidate's, on the vectors of each lost store."""


@dataclass(frozen=True)
class AtThreshold:
    """What happens when scores strictly greater than a threshold are acted on."""

    threshold: float
    flagged: int
    precision: Interval | None
    """None when nothing is flagged."""
    recall: Interval
    caught: Interval
    """Amount of the frauds among them, base currency."""
    wrongly: Interval
    """Amount of the good payments among them, base currency."""
    loss_per_thousand: Interval
    """Loss of a thousand payments by the loss table, were this the threshold for blocking; base currency."""


@dataclass(frozen=True)
class Money:
    """What acting on some payments saves and costs, base currency."""

    caught: Interval
    """Amount of the frauds among them."""
    wrongly: Interval
    """Amount of the good payments among them."""
    loss_per_thousand: Interval
    """Loss of a thousand payments by the loss table, were these blocked and the others let through."""


@dataclass(frozen=True)
class Calibrated:
    """Whether scores mean what they say."""

    expected_error: Interval
    """Expected calibration error over CALIBRATION_BINS bins of equally many payments (Naeini and others, 2015)."""
    brier: Interval
    log_loss: Interval
    mean_score: float


@dataclass(frozen=True)
class Slice:
    """One slice; what too few payments cannot tell is None."""

    dimension: str
    name: str
    rows: int
    frauds: int
    ranking: Ranking | None
    block_precision: float | None
    block_recall: float | None


@dataclass(frozen=True)
class Level:
    """The candidate with a store lost."""

    name: str
    ranking: Ranking


@dataclass(frozen=True)
class Evaluation:
    """A candidate on its matured holdout, with the other kind of model on the same rows."""

    kind: KindName
    """Of the candidate."""
    other_kind: KindName
    rows: int
    frauds: int
    unknown: int
    """Transactions left out because their label is unknown."""
    currency: str
    fraud_amount: float
    comparison: Comparison
    """The candidate against the other kind."""
    block: AtThreshold
    review: AtThreshold
    by_cost: AtThreshold | None
    """At the threshold chosen by cost; None when there was nothing to choose it on."""
    choice: CostChoice | None
    top_users: Interval
    """Share of fraudulent users among the TOP_USERS of highest score of a day, mean over days."""
    calibration: Calibrated
    levels: list[Level]
    slices: list[Slice]

    def metrics(self) -> dict[str, float]:
        """Flat figures for MLflow and Dagster; what is undefined is left out."""
        ranking = self.comparison.candidate
        baseline = ranking if self.kind == REGRESSION else self.comparison.reference
        flat = {
            "holdout_rows": float(self.rows),
            "holdout_frauds": float(self.frauds),
            "holdout_unknown": float(self.unknown),
            "holdout_fraud_rate": self.frauds / self.rows,
            "baseline_auc": baseline.auc.value,
            "baseline_average_precision": baseline.average_precision.value,
        }
        intervals: dict[str, Interval] = {
            "auc": ranking.auc,
            "average_precision": ranking.average_precision,
            "average_precision_gain": self.comparison.average_precision_gain,
            f"precision_top_{TOP_USERS}_users_a_day": self.top_users,
            "expected_calibration_error": self.calibration.expected_error,
            "brier": self.calibration.brier,
            "log_loss": self.calibration.log_loss,
        }
        for name, at in (("block", self.block), ("review", self.review), ("by_cost", self.by_cost)):
            if at is not None:
                flat |= {f"{name}_threshold": at.threshold, f"{name}_flagged": float(at.flagged)}
                intervals |= {
                    f"{name}_recall": at.recall,
                    f"{name}_amount_caught": at.caught,
                    f"{name}_amount_wrongly": at.wrongly,
                    f"{name}_loss_per_thousand": at.loss_per_thousand,
                }
                if at.precision is not None:
                    intervals[f"{name}_precision"] = at.precision
        for name, interval in intervals.items():
            flat |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
        return flat | {
            f"{level.name}_average_precision": level.ranking.average_precision.value for level in self.levels
        }


def evaluate(
    holdout: Holdout,
    kinds: tuple[KindName, KindName],
    scores: Scores,
    choice: CostChoice | None,
    seen: Floats,
    settings: Settings,
) -> Evaluation:
    """Measure a candidate. kinds: its own and the other. seen: of `slices.first_seen`.

    Raises ValueError unless there are frauds and good rows.
    """
    amounts = in_units(holdout.context.column("amount_minor").to_numpy(), settings)
    is_fraud = holdout.is_fraud

    def at(threshold: float) -> AtThreshold:
        return at_threshold(is_fraud, scores.candidate, amounts, threshold, settings)

    return Evaluation(
        kind=kinds[0],
        other_kind=kinds[1],
        rows=len(holdout),
        frauds=holdout.frauds,
        unknown=holdout.unknown,
        currency=settings.base_currency,
        fraud_amount=float(amounts[is_fraud].sum()),
        comparison=compare(is_fraud, scores.candidate, scores.other, settings.seed),
        block=at(settings.threshold),
        review=at(settings.review_threshold),
        by_cost=None if choice is None else at(choice.threshold),
        choice=choice,
        top_users=top_users(holdout, scores.candidate, settings.seed),
        calibration=calibration(is_fraud, scores.candidate, settings.seed),
        levels=[
            Level(name, rank(is_fraud, scores.levels[name], settings.seed, RESAMPLES))
            for name in LEVELS
            if name in scores.levels
        ],
        slices=[
            _slice(dimension, name, is_fraud[rows], scores.candidate[rows], settings)
            for dimension, name, rows in slices(holdout, seen, settings)
        ],
    )


def at_threshold(is_fraud: Bools, scores: Floats, amounts: Floats, threshold: float, settings: Settings) -> AtThreshold:
    """What acting on every score strictly greater than the threshold does. amounts: units of the base currency."""
    flagged = scores > threshold
    sums = _acted_sums(is_fraud, flagged, amounts, settings)
    caught, frauds, wrongly = sums[:, 0], sums[:, 1], sums[:, 2]
    acted = caught + wrongly
    worth = _money(sums, len(is_fraud))
    return AtThreshold(
        threshold=threshold,
        flagged=int(flagged.sum()),
        precision=_interval(_ratio(caught, acted)) if flagged.any() else None,
        recall=_interval(_ratio(caught, frauds)),
        caught=worth.caught,
        wrongly=worth.wrongly,
        loss_per_thousand=worth.loss_per_thousand,
    )


def money(is_fraud: Bools, flagged: Bools, amounts: Floats, settings: Settings) -> Money:
    """What blocking the flagged payments is worth; all arrays (n,), n > 0. amounts: units of the base currency."""
    return _money(_acted_sums(is_fraud, flagged, amounts, settings), len(is_fraud))


def _acted_sums(is_fraud: Bools, flagged: Bools, amounts: Floats, settings: Settings) -> Floats:
    """Caught, frauds, wrongly flagged, amounts of caught and of wrongly flagged, loss; see `_resampled_sums`."""
    table = LossTable.of(settings)
    # only these rows differ from "good and let through", which adds nothing to any figure
    told = flagged | is_fraud
    flagged_told, fraud_told, amounts_told = flagged[told], is_fraud[told], amounts[told]
    hits, wrong = flagged_told & fraud_told, flagged_told & ~fraud_told
    loss = np.where(flagged_told, table.if_blocked(fraud_told), table.if_let_through(fraud_told, amounts_told))
    columns = np.column_stack([hits, fraud_told, wrong, hits * amounts_told, wrong * amounts_told, loss]).astype(float)
    return _resampled_sums(columns, settings.seed)


def _money(sums: Floats, payments: int) -> Money:
    return Money(_interval(sums[:, 3]), _interval(sums[:, 4]), _interval(sums[:, 5] / payments * 1_000))


def top_users(holdout: Holdout, scores: Floats, seed: int, top: int = TOP_USERS) -> Interval:
    """Mean over days of the share of users with a fraud among the `top` users of highest score that day."""
    users = holdout.context.column("user_id").combine_chunks().dictionary_encode().indices.to_numpy()
    shares = []
    for day in np.unique(holdout.days):
        rows = holdout.days == day
        codes, group = np.unique(users[rows], return_inverse=True)
        highest, fraud = np.full(len(codes), -np.inf), np.zeros(len(codes), np.bool_)
        np.maximum.at(highest, group, scores[rows])
        np.logical_or.at(fraud, group, holdout.is_fraud[rows])
        shares.append(fraud[np.argsort(-highest, kind="stable")[:top]].mean())
    values = np.array(shares)
    random = np.random.default_rng(seed)
    means = values[random.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
    return _interval(np.concatenate([[values.mean()], means]))


def calibration(is_fraud: Bools, scores: Floats, seed: int) -> Calibrated:
    """Expected calibration error, Brier score and log loss."""
    order = np.argsort(scores, kind="stable")
    bins = np.empty(len(scores), np.intp)
    bins[order] = np.arange(len(scores)) * CALIBRATION_BINS // len(scores)
    clipped = np.clip(scores, 1e-12, 1 - 1e-12)
    brier = (scores - is_fraud) ** 2
    log_loss = -np.where(is_fraud, np.log(clipped), np.log1p(-clipped))
    random = np.random.default_rng(seed)
    errors, briers, losses = (np.empty(1 + RESAMPLES) for _ in range(3))
    for sample in range(1 + RESAMPLES):
        # a Poisson weight per payment is the bootstrap's multinomial for large n, and needs no index array
        weights = random.poisson(1.0, len(scores)).astype(float) if sample else np.ones(len(scores))
        gaps = np.bincount(bins, weights * (scores - is_fraud), CALIBRATION_BINS)
        errors[sample] = np.abs(gaps).sum() / weights.sum()
        briers[sample] = (weights * brier).sum() / weights.sum()
        losses[sample] = (weights * log_loss).sum() / weights.sum()
    return Calibrated(_interval(errors), _interval(briers), _interval(losses), float(scores.mean()))


def _slice(dimension: str, name: str, is_fraud: Bools, scores: Floats, settings: Settings) -> Slice:
    frauds, flagged = int(is_fraud.sum()), scores > settings.threshold
    enough = min(frauds, len(is_fraud) - frauds) >= SLICE_FRAUDS
    caught = int((flagged & is_fraud).sum())
    return Slice(
        dimension=dimension,
        name=name,
        rows=len(is_fraud),
        frauds=frauds,
        ranking=rank(is_fraud, scores, settings.seed, RESAMPLES) if enough else None,
        block_precision=caught / int(flagged.sum()) if flagged.any() else None,
        block_recall=caught / frauds if frauds else None,
    )


def _resampled_sums(columns: Floats, seed: int) -> Floats:
    """Sums of columns (n, k), then of RESAMPLES bootstrap samples with Poisson weights: (1 + RESAMPLES, k)."""
    random = np.random.default_rng(seed)
    return np.vstack([columns.sum(axis=0), *(random.poisson(1.0, len(columns)) @ columns for _ in range(RESAMPLES))])


def _ratio(part: Floats, whole: Floats) -> Floats:
    """part / whole; resamples in which whole is 0 say nothing and are left out."""
    return np.asarray(part[whole > 0] / whole[whole > 0], np.float64)


def _interval(values: Floats) -> Interval:
    """The first value with the percentile interval of the others."""
    tail = (1 - COVERAGE) / 2
    others = values[1:] if len(values) > 1 else values
    low, high = np.quantile(others, [tail, 1 - tail])
    return Interval(float(values[0]), float(low), float(high))
