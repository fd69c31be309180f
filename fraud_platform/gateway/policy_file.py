"""The policy in force as the process of the rules follows it: kill switch, lists and the rules' limits.

What belongs here: looking at the file. What does not: its form (`decision.policy_record`). One that cannot be read
leaves the one before in force.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from fraud_platform.decision.policy import Policy
from fraud_platform.decision.policy_record import PolicyError, current_file, read_policy

logger = logging.getLogger("fraud_platform.gateway")

LOOK_SECONDS = 1.0
NOT_KEPT = 0
"""Version of a policy that no record says."""


class PolicyFile:
    """Calling it gives the policy in force. first: where none is kept. clock: seconds, from anywhere."""

    def __init__(self, home: Path, first: Policy, clock: Callable[[], float]) -> None:
        self._home = home
        self._policy = first
        self._clock = clock
        self._seen: tuple[int, int] | None = None
        self._look_at = clock()

    def __call__(self) -> Policy:
        """The policy in force a second ago at the earliest."""
        if self._clock() >= self._look_at:
            self._look_at = self._clock() + LOOK_SECONDS
            self._look()
        return self._policy

    def _look(self) -> None:
        try:
            found = current_file(self._home).stat()
            state = found.st_mtime_ns, found.st_ino
            if state != self._seen:
                record = read_policy(self._home)
                if record is not None:
                    self._policy, self._seen = record.compiled(), state
        except FileNotFoundError:
            return
        except (OSError, PolicyError) as error:
            logger.error("the policy before stays in force: %s", error)
