"""How the bank's people behave: the parameters that a drift scenario may change from a day on.

What belongs here: shares, scales and delays. What does not: who exists (`population`), which never drifts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Behaviour:
    """Shares of all transactions unless said otherwise; amounts scale the base currency's minor units."""

    amount_scale: float = 1.0
    """Multiplies every legitimate amount and, with it, what fraud is measured against."""
    volume_scale: float = 1.0
    """Multiplies the number of transactions a day."""
    online_scale: float = 1.0
    """Multiplies every user's share of online purchases, up to 1."""

    # fraud, as expected shares of all transactions
    card_testing: float = 0.0020
    account_takeover: float = 0.0014
    compromised_merchant: float = 0.0012
    out_of_character: float = 0.0008
    unremarkable: float = 0.0008

    # legitimate traffic that resembles fraud
    guest_device: float = 0.05
    """Share of online purchases from a device never seen before or again."""
    big_ticket: float = 0.02
    small_burst: float = 0.012
    shopping_spree: float = 0.006

    # the wire
    late: float = 0.02
    """Received minutes after the fact."""
    very_late: float = 0.004
    """Received hours after the fact."""
    clock_ahead: float = 0.0008
    """Timestamps minutes ahead of received_at."""
    stale_clock: float = 0.0001
    """Timestamps more than a day behind received_at."""
    retry: float = 0.003

    # labels
    labelled: float = 0.93
    """Share of frauds that are ever labelled."""
    wrongly_cleared: float = 0.03
    """Share of labelled frauds whose last word is `cleared`."""
    wrongly_accused: float = 0.02
    """Legitimate transactions called fraud, as a share of the day's frauds."""
    cleared_alerts: float = 0.001
    """Legitimate transactions investigated and cleared."""
    label_delay_days: float = 4.0
    """Median age of a transaction when its first label in a fraud state arrives."""


def behaviour_of(given: Mapping[str, float]) -> Behaviour:
    """The defaults with what is given. Raises ValueError naming what is no behaviour."""
    known = {field.name for field in fields(Behaviour)}
    unknown = sorted(given.keys() - known)
    if unknown:
        raise ValueError(f"{unknown[0]} is not a behaviour; known are: {', '.join(sorted(known))}")
    return Behaviour(**given)
