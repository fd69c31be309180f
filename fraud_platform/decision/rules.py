"""The last rung of the ladder: what is decided where no model can be asked, by the service and by its client alike.

What belongs here: the rules and their limits. What does not: noticing that nothing better can be had. The client
imports this file into somebody's payment process, so it stands on the standard library alone.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fraud_platform.decision.policy import DecisionName

RuleReason = Literal[
    "high_amount_fallback", "cross_country_fallback", "service_unavailable_fallback", "amount_unknown_fallback"
]

RULE_SENTENCES: dict[str, str] = {
    "high_amount_fallback": "no model was asked, and the amount is high",
    "cross_country_fallback": "no model was asked, and a larger amount was paid outside the home country",
    "service_unavailable_fallback": "no model could be asked, and no rule fired",
    "amount_unknown_fallback": "the amount is not known in the base currency, so no limit and no model can judge it",
}
"""Each reason for people."""


@dataclass(frozen=True)
class FallbackRules:
    """Limits in whole units of the base currency; a rule fires strictly above its limit."""

    high_amount: int = 10_000
    cross_country_amount: int = 1_000

    def decide(
        self, amount_minor: int | None, exponent: int, country: str | None, user_country: str | None
    ) -> "tuple[DecisionName, RuleReason]":
        """`decide_amount` for an amount in minor units of a currency with `exponent` decimals; one that is not known
        passes no limit, and is flagged."""
        if amount_minor is None:
            return "flag_for_review", "amount_unknown_fallback"
        return self.decide_amount(Decimal(amount_minor).scaleb(-exponent), country, user_country)

    def decide_amount(
        self, amount: Decimal, country: str | None, user_country: str | None
    ) -> "tuple[DecisionName, RuleReason]":
        """Flag a high amount, or a lower one abroad; allow the rest.

        amount: finite, in units of the base currency. Who knows no rates at all, as a client and the gateway, passes
        the amount as it stands, its units counting as units of the base currency: 15,000 JPY is flagged as 15,000 EUR
        would be. A payment is abroad when its country and the user's home country are known and differ.
        """
        if amount > self.high_amount:
            return "flag_for_review", "high_amount_fallback"
        abroad = country is not None and user_country is not None and country != user_country
        if abroad and amount > self.cross_country_amount:
            return "flag_for_review", "cross_country_fallback"
        return "allow", "service_unavailable_fallback"
