"""The policy in the form that decides: from a payment, its score and what people have set to a decision and a reason.

What belongs here: the order in which a policy decides. What does not: where the score came from, how a policy is kept
(`policy_record`) and changed (`policy_change`). Nothing here reads a clock or a file, so a decision can be made again
from its record and the version that it names. Comparisons take the unrounded score; what is shown may be rounded.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from fraud_platform.decision.rules import RULE_SENTENCES, FallbackRules
from fraud_platform.identifiers import Matching, match_key

DecisionName = Literal["allow", "block", "flag_for_review"]
Reason = Literal["score_above_threshold", "score_in_review_band", "score_below_threshold"]
PolicyReason = Literal["block_list", "allow_list", "kill_switch_allow_all", "kill_switch_rules_only"]
STRICTNESS: dict[DecisionName, int] = {"allow": 0, "flag_for_review": 1, "block": 2}
"""Of two decisions on one payment the one with the higher figure is the stricter."""

Kind = Literal["user", "merchant", "device", "country"]
"""What a list can hold."""

KillSwitch = Literal["off", "rules_only", "allow_all"]

FOREVER = 2**63 - 1
"""Until when an entry without an end counts, in UTC microseconds."""

LISTS = ("block_list", "allow_list")
"""The reasons by which a list decided."""

POLICY_SENTENCES: dict[str, str] = {
    "block_list": "the payment's user, merchant, device or country is on the block list",
    "allow_list": "the payment's user, merchant, device or country is on the allow list",
    "kill_switch_allow_all": "the kill switch allows every payment",
    "kill_switch_rules_only": "the kill switch keeps the model out, and no rule fired",
}
"""Each reason of a policy's own for people."""

RULES = "rules"
"""What decided where no model could be asked."""

DECIDED_BY: dict[str, str] = {
    "block_list": "list",
    "allow_list": "list",
    "kill_switch_allow_all": "kill_switch",
    "kill_switch_rules_only": RULES,
    **dict.fromkeys(RULE_SENTENCES, RULES),
}
"""What decided, as `served_by.model` says it, by reason; with any other reason the model did."""


DECISION_OF: dict[str, DecisionName] = {
    "block_list": "block",
    "allow_list": "allow",
    "kill_switch_allow_all": "allow",
    "kill_switch_rules_only": "allow",
    "high_amount_fallback": "flag_for_review",
    "cross_country_fallback": "flag_for_review",
    "service_unavailable_fallback": "allow",
    "amount_unknown_fallback": "flag_for_review",
}
"""What a reason decides that needs no score."""


class ListedFields(Protocol):
    """What a policy reads of a payment besides its amount: `request.Payment` has it, `wire.PaymentRequest` too."""

    @property
    def user_id(self) -> str: ...
    @property
    def merchant_id(self) -> str: ...
    @property
    def device_id(self) -> str | None: ...
    @property
    def country(self) -> str: ...
    @property
    def user_country(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Listed:
    """A list as it is looked up in: by `match_key` of a value, the UTC microseconds before which its entry counts."""

    users: Mapping[str, int] = field(default_factory=dict)
    merchants: Mapping[str, int] = field(default_factory=dict)
    devices: Mapping[str, int] = field(default_factory=dict)
    countries: Mapping[str, int] = field(default_factory=dict)
    """Of the purchase."""
    matching: Matching = "exact"

    def holds(self, payment: ListedFields, at: int) -> Kind | None:
        """What of the payment has an entry that counts at a moment, UTC microseconds; None: nothing."""
        user, merchant, device = payment.user_id, payment.merchant_id, payment.device_id or ""
        if self.matching != "exact":
            user, merchant, device = (match_key(each, self.matching) for each in (user, merchant, device))
        if self.users.get(user, 0) > at:
            return "user"
        if self.merchants.get(merchant, 0) > at:
            return "merchant"
        if self.devices.get(device, 0) > at:
            return "device"
        return "country" if self.countries.get(payment.country, 0) > at else None


@dataclass(frozen=True)
class Policy:
    """What people have set; `version` names all of it in answers and records. Never changed, only replaced."""

    threshold: float
    review_threshold: float
    version: int
    rules: FallbackRules = field(default_factory=FallbackRules)
    kill_switch: KillSwitch = "off"
    block_list: Listed = field(default_factory=Listed)
    allow_list: Listed = field(default_factory=Listed)

    def __post_init__(self) -> None:
        if not 0 < self.review_threshold <= self.threshold < 1:
            raise ValueError(
                "a policy needs 0 < review_threshold <= threshold < 1, "
                f"got {self.review_threshold} and {self.threshold}"
            )

    def listed(self, reason: str, payment: ListedFields, at: int) -> Kind | None:
        """What of a payment a list has decided by, by the decision's reason; None where no list has decided it."""
        if reason not in LISTS:
            return None
        return (self.block_list if reason == "block_list" else self.allow_list).holds(payment, at)

    @property
    def asks_model(self) -> bool:
        """Whether a payment is scored: not while the kill switch is thrown."""
        return self.kill_switch == "off"

    def of_score(self, score: float) -> tuple[DecisionName, Reason]:
        """Block strictly above the threshold, flag strictly above the review threshold, else allow.

        Raises ValueError for a score that is not a probability, which no comparison would notice.
        """
        if not 0 <= score <= 1:
            raise ValueError(f"a score is a probability, got {score}")
        if score > self.threshold:
            return "block", "score_above_threshold"
        if score > self.review_threshold:
            return "flag_for_review", "score_in_review_band"
        return "allow", "score_below_threshold"


def decide(
    policy: Policy, score: float | None, payment: ListedFields, amount: int | None, exponent: int, received_at: int
) -> tuple[DecisionName, str]:
    """The decision on a payment and its reason: kill switch, block list, allow list, then the score or the rules.

    score: unrounded calibrated probability; None where no model gave one. amount: minor units of the base currency,
    which has `exponent` decimals; where it is None, a score is not heard, and the rules flag. received_at: UTC
    microseconds, by which entries of a list expire. `rules_only` takes the score out of it and leaves the lists in. The
    same arguments give the same decision, today and in a replay.
    Raises ValueError for a score that is to decide and is no probability.
    """
    if policy.kill_switch == "allow_all":
        return "allow", "kill_switch_allow_all"
    if policy.block_list.holds(payment, received_at):
        return "block", "block_list"
    if policy.allow_list.holds(payment, received_at):
        return "allow", "allow_list"
    if score is None or amount is None or not policy.asks_model:
        decision, reason = policy.rules.decide(amount, exponent, payment.country, payment.user_country)
        # a model may be there: nothing is out of service
        switched = reason == "service_unavailable_fallback" and not policy.asks_model
        return decision, "kill_switch_rules_only" if switched else reason
    return policy.of_score(score)
