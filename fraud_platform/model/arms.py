"""What both models said of the same payments since a challenger came, as figures that may be looked at at any time.

What belongs here: reading the log, and the figures. What does not: what follows from them (`rollout`).

Both models score every payment, in shadow and in canary, so most figures are paired: of each payment it is known what
either would have decided. Only errors and latency are the canary's own.
"""

from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraud_platform.features.label_rules import LabelRules
from fraud_platform.features.labels import label_transactions
from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import Lake, days_between
from fraud_platform.model.data import labels_before
from fraud_platform.model.routing import Routing
from fraud_platform.model.sequential import Sequence, difference_sequence, mean_sequence
from fraud_platform.model.split import microseconds
from fraud_platform.monitoring.psi import Bins

_COLUMNS = [
    *("caller", "transaction_id", "received_at", "amount", "model", "model_version", "score", "arm", "other_version"),
    *("other_score", "scored_by", "latency_us", "user_features", "merchant_features", "other_degraded"),
]
_USUAL_FRAUDS = 300
"""As many known frauds as a canary may see."""
_TYPICAL_SCORE = 0.1
"""Distance between two scores that is worth one pseudo-observation; most are near 0."""
_LATENCY_CAP_MS = 100.0
"""Longer answers count as this: one stall of the machine says nothing of a model."""


@dataclass(frozen=True)
class Scores:
    """Payments that were decided beside a challenger; arrays of shape (n,), NaN where a model gave no score."""

    champion: NDArray[np.float64]
    challenger: NDArray[np.float64]
    amounts: NDArray[np.float64]
    """Minor units of the base currency."""
    is_challengers: NDArray[np.bool_]
    """Whether it was the challenger's turn."""
    latency_ms: NDArray[np.float64]
    is_fraud: NDArray[np.float64]
    """1, 0, or NaN while the label is unknown."""


@dataclass(frozen=True)
class Evidence:
    """The figures on which a challenger goes on, stays or is taken out. Rates are of payments, would-be ones."""

    payments: int
    champion_blocks: int
    challenger_blocks: int
    block_excess: Sequence
    """Challenger's block rate less `band` times the champion's: above 0 it blocks too much."""
    block_lack: Sequence
    """Challenger's block rate less a `band`-th of the champion's: below 0 it blocks too little."""
    money_excess: Sequence
    """The same as `block_excess` in money, each payment as a share of the largest."""
    errors: Sequence
    """Share of payments that the challenger gave no score for."""
    latency_ms: Sequence
    """What the challenger's answers took longer than the champion's."""
    score_excess: Sequence
    """Challenger's mean score less `band` times the champion's."""
    score_lack: Sequence
    """Challenger's mean score less a `band`-th of the champion's."""
    score_psi: float
    """Of the challenger's scores against the champion's deciles: to be seen, not judged by. Nine deciles of calibrated
    scores lie near 0, where two good models differ for nothing."""
    frauds: int
    catch_gain: Sequence
    """Challenger's catch rate less the champion's, on known frauds."""
    good: int
    false_positive_excess: Sequence
    """Challenger's false-positive rate less `band` times the champion's, on matured good payments."""

    def plain(self) -> dict[str, Any]:
        """For the ledger."""
        return asdict(self)


def measure(scores: Scores, threshold: float, band: float) -> Evidence:
    """The figures of some payments. threshold: the policy's, above which either would block. band: how many times
    more, or fewer, may be blocked."""
    both = ~np.isnan(scores.champion) & ~np.isnan(scores.challenger)
    old = (scores.champion > threshold)[both].astype(float)
    new = (scores.challenger > threshold)[both].astype(float)
    amounts = scores.amounts[both]
    shares = amounts / max(float(amounts.max(initial=0)), 1.0)
    theirs = scores.is_challengers
    latency = np.minimum(scores.latency_ms, _LATENCY_CAP_MS)
    label = scores.is_fraud[both]
    fraud, good = label == 1, label == 0
    bins = Bins.of(scores.champion[both])
    return Evidence(
        payments=int(both.sum()),
        champion_blocks=int(old.sum()),
        challenger_blocks=int(new.sum()),
        block_excess=mean_sequence(new - band * old, width=1 + band),
        block_lack=mean_sequence(new - old / band, width=1 + 1 / band),
        money_excess=mean_sequence((new - band * old) * shares, width=float(shares.max(initial=0)) * (1 + band)),
        errors=mean_sequence(np.isnan(scores.challenger).astype(float)),
        latency_ms=difference_sequence(latency[theirs], latency[~theirs]),
        score_excess=mean_sequence((scores.challenger - band * scores.champion)[both], width=_TYPICAL_SCORE),
        score_lack=mean_sequence((scores.challenger - scores.champion / band)[both], width=_TYPICAL_SCORE),
        score_psi=bins.psi(bins.count(scores.challenger[both])) if both.any() else 0.0,
        frauds=int(fraud.sum()),
        catch_gain=mean_sequence((new - old)[fraud], width=2, tightest_at=_USUAL_FRAUDS),
        good=int(good.sum()),
        false_positive_excess=mean_sequence((new - band * old)[good], width=1 + band),
    )


def gather(
    lake: Lake,
    routing: Routing,
    now: datetime,
    *,
    threshold: float,
    maturity_days: int,
    band: float,
    rules: LabelRules,
) -> Evidence:
    """The figures since the challenger of `routing` came. Raises ValueError without a challenger."""
    if routing.challenger is None:
        raise ValueError("there is no challenger to measure")
    rows = _rows(lake, routing, now)
    version = routing.challenger.replace("fraud-detector-", "fraud-detector/")
    decided = pc.equal(rows.column("model_version"), version).to_numpy(zero_copy_only=False)
    own, other = (rows.column(name).to_numpy(zero_copy_only=False).astype(float) for name in ("score", "other_score"))
    # what logistic regression or the rules decided is no score of either model
    rung = pc.coalesce(rows.column("scored_by"), rows.column("model"))
    whole = pc.is_in(rung, pa.array(["champion", "challenger"])).to_numpy(zero_copy_only=False)
    own = np.where(whole, own, np.nan)
    return measure(
        Scores(
            champion=np.where(decided, other, own),
            challenger=np.where(decided, own, other),
            amounts=np.nan_to_num(rows.column("amount").to_numpy().astype(float)),
            is_challengers=pc.equal(rows.column("arm"), "challenger").to_numpy(zero_copy_only=False),
            latency_ms=rows.column("latency_us").to_numpy() / 1_000,
            is_fraud=_labels(lake, rows, now.date(), maturity_days, rules),
        ),
        threshold,
        band,
    )


def _rows(lake: Lake, routing: Routing, now: datetime) -> pa.Table:
    began = datetime.fromtimestamp(routing.began / 1_000_000, UTC)
    log = LogTable(lake)
    parts = [log.read(day, _COLUMNS) for day in days_between(began.date(), now.date())]
    rows = pa.concat_tables(parts)
    version = (routing.challenger or "").replace("fraud-detector-", "fraud-detector/")
    beside = pc.or_kleene(
        pc.equal(rows.column("other_version"), version), pc.equal(rows.column("model_version"), version)
    )
    since = pc.greater_equal(rows.column("received_at"), pa.scalar(began))
    return rows.filter(pc.and_kleene(pc.and_kleene(beside, since), _comparable(rows)))


def _comparable(rows: pa.Table) -> pa.ChunkedArray:
    """Whether nothing but the models told their scores apart: of two sets of features, one alone may have been read
    from other than the first source, and what is missing to one model says nothing of it."""
    stores = (pc.not_equal(rows.column(name), "redis") for name in ("user_features", "merchant_features"))
    apart = pc.or_(pc.or_(*stores), rows.column("other_degraded"))
    return pc.invert(pc.coalesce(apart, pa.scalar(False)))


def _labels(lake: Lake, rows: pa.Table, today: date, maturity_days: int, rules: LabelRules) -> NDArray[np.float64]:
    keys = rows.select(["caller", "transaction_id", "received_at"])
    keys = keys.append_column("transaction_date", keys.column("received_at").cast(pa.date32()))
    # a blocked payment's silence counts as good here, for both models alike: left out, as training has it, it would
    # clear whoever decided of its own mistakes, and not the other
    labelled = label_transactions(keys, labels_before(lake, today, rules), microseconds(today), maturity_days)
    known: NDArray[np.float64] = (
        labelled.column("is_fraud").cast(pa.int8()).to_numpy(zero_copy_only=False).astype(float)
    )
    return known
