"""`POST /v1/admin/policy`: a change of the policy over HTTP.

What belongs here: the answer. What does not: what a change is (`policy_change`), and that workers follow it, which they
do by the file, whoever has changed it.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from fraud_platform.decision.answer import Answer
from fraud_platform.decision.policy import KillSwitch
from fraud_platform.decision.policy_change import PolicyConflictError, change_policy, parse_change
from fraud_platform.decision.policy_record import PolicyRecord
from fraud_platform.decision.problem import followed_policy, policy_conflict
from fraud_platform.identifiers import Matching
from fraud_platform.model.following import FollowingError
from fraud_platform.settings import Settings


class PolicyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The policy after a change; every worker decides by it within a second."""

    version: Annotated[int, Meta(description="The version before where the change made no difference.")]
    since: datetime
    threshold: float
    review_threshold: float
    rule_high_amount: int
    rule_cross_country_amount: int
    kill_switch: KillSwitch
    list_matching: Matching
    block_list: Annotated[int, Meta(description="Entries of the list.")]
    allow_list: Annotated[int, Meta(description="Entries of the list.")]


class PolicyDesk:
    """Takes changes for one worker. clock: UTC microseconds."""

    def __init__(self, settings: Settings, clock: Callable[[], int]) -> None:
        self._settings = settings
        self._clock = clock

    async def take(self, body: bytes, caller: str) -> Answer:
        """Make a change (JSON). Raises MalformedBody, InvalidRequest, Problem 409, PolicyError, OSError."""
        change = parse_change(body)
        now = datetime.fromtimestamp(self._clock() / 1_000_000, UTC)
        try:
            # beside the event loop: it waits for other changes, and for the disk
            record = await asyncio.to_thread(change_policy, self._settings, change, caller, now)
        except PolicyConflictError as error:
            raise policy_conflict(str(error)) from error
        except FollowingError as error:
            raise followed_policy(str(error)) from error
        return Answer(200, msgspec.json.encode(_answer(record)))


def _answer(record: PolicyRecord) -> PolicyAnswer:
    return PolicyAnswer(
        version=record.version,
        since=record.since,
        threshold=record.threshold,
        review_threshold=record.review_threshold,
        rule_high_amount=record.rule_high_amount,
        rule_cross_country_amount=record.rule_cross_country_amount,
        kill_switch=record.kill_switch,
        list_matching=record.list_matching,
        block_list=len(record.block_list),
        allow_list=len(record.allow_list),
    )
