"""Whether the consumers keep up, and what to do where they do not: a rule over two looks at a broker's partitions.

What belongs here: the rule, in words for people. What does not: looking (`standing`), alerts (`deploy/prometheus`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

KEPT_UP_SECONDS = 15.0
"""A lag of fewer seconds of arrivals is what waits for the next commits, three at most, and no delay."""


@dataclass(frozen=True)
class Look:
    """The partitions of a broker that shares them out, at one moment."""

    at_us: int
    lags: Mapping[str, int]
    """Records that the lake does not have."""
    ends: Mapping[str, int]
    """Records that each was given so far."""
    owners: Mapping[str, str]
    """Who reads each, by the lake; empty where nobody does."""
    members: int
    """Consumers, those that have no partition included."""


def growth(earlier: Look, later: Look) -> dict[str, float]:
    """By how many records a second each partition's lag grew; negative where it fell."""
    return _rates(earlier, later, earlier.lags, later.lags)


def advise(earlier: Look, later: Look) -> list[str]:
    """What to do; one line says so where nothing is to be done."""
    said = []
    behind, partitions, members = sum(later.lags.values()), len(later.lags), later.members
    if members > partitions > 0:
        idle = members - partitions
        said.append(f"end {idle} of {members} consumers: they do nothing, the topic has {partitions} partitions")
    if not members:
        said.append("start a consumer: nobody reads")
    elif unread := sorted((p for p in later.lags if not later.owners.get(p)), key=int):
        said.append(f"look again in a minute: nobody reads {', '.join(unread)} yet")
    grown = sum(growth(earlier, later).values())
    arrived = sum(_rates(earlier, later, earlier.ends, later.ends).values())
    if members and behind > arrived * KEPT_UP_SECONDS:
        said.append(_behind(later, behind, grown, arrived))
    return said or ["nothing: the consumers keep up"]


def _behind(later: Look, behind: int, grown: float, arrived: float) -> str:
    partitions, members = len(later.lags), later.members
    if grown < 0:
        return f"wait: the lag falls by {-grown:,.0f}/s and is gone in {behind / -grown:,.0f} s"
    each = (arrived - grown) / members
    if grown == 0 or each <= 0:
        return "look at the consumers' logs: they put nothing into the lake"
    told = f"the lag grows by {grown:,.0f}/s"
    if members >= partitions:
        return f"give the topic more partitions: {told}, and more consumers than its {partitions} do nothing"
    # as many as take what arrives, at the pace of those there are
    count = min(partitions, math.ceil(arrived / each)) - members
    named = "a consumer" if count == 1 else f"{count} consumers"
    return f"add {named}: {told}; {arrived:,.0f}/s arrive, a consumer takes {each:,.0f}/s"


def _rates(earlier: Look, later: Look, before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, float]:
    seconds = (later.at_us - earlier.at_us) / 1e6
    return {p: (count - before.get(p, 0)) / seconds if seconds > 0 else 0.0 for p, count in after.items()}
