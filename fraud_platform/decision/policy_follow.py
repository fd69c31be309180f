"""The policy as a running service follows it: what is in force at its start, and every change within a second.

What belongs here: looking at the file. What does not: its form (`policy_record`), changing it (`policy_change`),
bringing it here from the control store (`policy_control`). A policy that cannot be read leaves the one before in force.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from fraud_platform.control.store import ControlError, control_url
from fraud_platform.decision.policy import Policy
from fraud_platform.decision.policy_change import begin_policy
from fraud_platform.decision.policy_copy import check_copy
from fraud_platform.decision.policy_record import PolicyError, current_file, first_policy, kept_versions, read_policy
from fraud_platform.settings import Settings

LOOK_SECONDS = 0.5
"""How soon a change is looked for: read and in force within a second."""

NOT_KEPT = 0
"""Version of a policy that was made from the settings because none could be read."""


class PolicyFollower:
    """Follows the policy for one worker.

    take: gets each policy that comes into force after the one of `begin`. failed(stage, error): told of whatever
    cannot be read, as often as it is looked at. clock: UTC microseconds.
    """

    def __init__(
        self,
        settings: Settings,
        take: Callable[[Policy], None],
        failed: Callable[[str, BaseException], None],
        clock: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._take = take
        self._failed = failed
        self._clock = clock
        self._seen: tuple[int, int, int] | None = None
        self._turn = asyncio.Lock()

    def begin(self) -> Policy:
        """The policy in force, made from the settings at the very first start.

        Where it cannot be read, the newest version that is kept and can be, else the settings' numbers as version 0: a
        broken file must not keep a service from starting.
        """
        now = datetime.fromtimestamp(self._clock() / 1_000_000, UTC)
        try:
            try:
                begin_policy(self._settings, now)
            except ControlError as error:
                # this home's copy of what was in force decides
                self._failed("control", error)
            policy = self._changed()
        except (PolicyError, OSError) as error:
            self._failed("policy", error)
            policy = None
        return policy or self._newest_readable(now)

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Take the policy in force if it has changed."""
        # one after the other: an older one, read more slowly, must not come last
        async with self._turn:
            try:
                # beside the event loop: lists may hold thousands
                policy = await asyncio.to_thread(self._changed)
            except (PolicyError, OSError) as error:
                self._failed("policy", error)
                return
            if policy is not None:
                self._take(policy)

    def _changed(self) -> Policy | None:
        """The policy where its file is another than the last one read. Raises PolicyError, OSError."""
        path = current_file(self._settings.home)
        state = _state(path)
        if state == self._seen:
            return None
        if control_url(self._settings) is not None:
            check_copy(self._settings.home)
        record = read_policy(self._settings.home)
        if record is None:
            raise PolicyError(f"{path} is gone; the policy read before stays in force")
        self._seen = state
        return record.compiled()

    def _newest_readable(self, now: datetime) -> Policy:
        # of a control store's policy the one in force is signed, and no other
        alone = control_url(self._settings) is None
        for version in reversed(kept_versions(self._settings.home)) if alone else ():
            try:
                record = read_policy(self._settings.home, version)
            except PolicyError as error:
                self._failed("policy", error)
            else:
                if record is not None:
                    return record.compiled()
        return first_policy(self._settings, now, NOT_KEPT).compiled()


def _state(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_ino, found.st_size
