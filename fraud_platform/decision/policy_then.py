"""The policies that were in force at some time in the past, of the versions that a home keeps.

What belongs here: finding them. What does not: the policy in force now (`policy_follow`), what a version holds
(`policy_record`).
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from fraud_platform.decision.policy import Policy
from fraud_platform.decision.policy_record import PolicyError, folder, kept_versions, read_policy

_EPOCH, _NEVER = datetime(1970, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_KEPT = 8


class _Since(msgspec.Struct):
    since: datetime


_since = msgspec.json.Decoder(_Since)


class PolicyBook:
    """Past policies of a home, read as they are asked for. Reads files, so not for the event loop; for one thread."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._begun: dict[int, datetime] = {}
        self._compiled: dict[int, Policy] = {}

    def between(self, first: int, last: int) -> list[Policy]:
        """Every policy that was in force at some moment from `first` to `last`, UTC microseconds; none where no version
        that is kept is so old. Raises PolicyError, OSError."""
        begin, end = (_EPOCH + timedelta(microseconds=at) for at in (first, last))
        begun = sorted((self._since(version), version) for version in kept_versions(self._home))
        replaced = [since for since, _ in begun[1:]] + [_NEVER]
        return [
            self._policy(version)
            for (since, version), until in zip(begun, replaced, strict=False)
            if since <= end and begin < until
        ]

    def _since(self, version: int) -> datetime:
        if version not in self._begun:
            path = folder(self._home) / f"{version}.json"
            try:
                self._begun[version] = _since.decode(path.read_bytes()).since
            except msgspec.MsgspecError as error:
                raise PolicyError(f"{path} cannot be read: {error}") from error
        return self._begun[version]

    def _policy(self, version: int) -> Policy:
        if version not in self._compiled:
            record = read_policy(self._home, version)
            if record is None:
                raise PolicyError(f"policy version {version} is gone from {folder(self._home)}")
            while len(self._compiled) >= _KEPT:
                self._compiled.pop(next(iter(self._compiled)))
            self._compiled[version] = record.compiled()
        return self._compiled[version]
