"""What decisions cost: a loss table, and the threshold that makes the expected loss smallest within an alert budget.

What belongs here: money per decision and choosing by it. What does not: the policy in force, which people set.
The threshold is chosen on scores that no training saw and whose days lie before the holdout; the holdout then says what
it would have cost.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fraud_platform.currency import exponent
from fraud_platform.settings import Settings

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class LossTable:
    """What a wrong decision costs, in units of the base currency."""

    missed_fee: float
    """A fraud that is let through costs its amount and this: chargeback fees, handling."""
    blocked_good: float
    """A good payment that is blocked: lost margin, a call to the bank, trust."""
    alert: float
    """Any blocked payment: somebody looks at it."""

    @staticmethod
    def of(settings: Settings) -> "LossTable":
        """The table of the settings."""
        return LossTable(
            missed_fee=settings.loss_missed_fee,
            blocked_good=settings.loss_blocked_good,
            alert=settings.loss_alert,
        )

    def if_let_through(self, is_fraud: Bools, amounts: Floats) -> Floats:
        """Loss of each payment, (n,), when it is not blocked."""
        return np.asarray(np.where(is_fraud, amounts + self.missed_fee, 0.0), np.float64)

    def if_blocked(self, is_fraud: Bools) -> Floats:
        """Loss of each payment, (n,), when it is blocked."""
        return np.asarray(np.where(is_fraud, 0.0, self.blocked_good) + self.alert, np.float64)


@dataclass(frozen=True, kw_only=True)
class CostChoice:
    """A threshold chosen by cost; scores strictly greater are blocked."""

    threshold: float
    alert_share: float
    """Share of payments above it where it was chosen."""
    bound_by_budget: bool
    """More alerts would have cost less, and the budget does not allow them."""


def in_units(amounts_minor: NDArray[np.number], settings: Settings) -> Floats:
    """Amounts in units of the base currency, for adding up and showing; not for deciding. One that is not known, NaN,
    adds nothing."""
    return np.asarray(np.nan_to_num(amounts_minor) / float(10 ** exponent(settings.base_currency)), np.float64)


def choose_threshold(is_fraud: Bools, scores: Floats, amounts: Floats, settings: Settings) -> CostChoice:
    """The threshold of smallest loss over these payments among those within the alert budget.

    amounts: units of the base currency. All arrays of shape (n,), n > 0.
    """
    table = LossTable.of(settings)
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    # what blocking the k highest changes, k from 0
    gain = table.if_let_through(is_fraud, amounts)[order] - table.if_blocked(is_fraud)[order]
    saved = np.concatenate([[0.0], np.cumsum(gain)])
    # equal scores are blocked together or not at all
    possible = np.concatenate([[True], np.append(ranked[1:] != ranked[:-1], True)])
    affordable = np.arange(len(saved)) <= settings.alert_budget_share * len(scores)
    best = int(np.argmax(np.where(possible & affordable, saved, -np.inf)))
    free = int(np.argmax(np.where(possible, saved, -np.inf)))
    threshold = 0.0 if best == len(ranked) else float(ranked[best])
    return CostChoice(
        threshold=threshold, alert_share=best / len(scores), bound_by_budget=bool(saved[free] > saved[best])
    )
