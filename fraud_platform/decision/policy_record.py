"""The policy as it is kept: `<home>/policy/current.json`, and every version that ever was as `<home>/policy/<n>.json`.

What belongs here: the record's form, reading and writing it. What does not: changing it with a line in the ledger
(`policy_change`), following it in a running service (`policy_follow`), deciding by it (`policy`). Once there is a
record it is the only source of these numbers; the settings are what version 1 is made of.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from fraud_platform.decision.policy import FOREVER, KillSwitch, Kind, Listed, ListedFields, Policy
from fraud_platform.decision.rules import FallbackRules
from fraud_platform.identifiers import Matching, canonical, match_key
from fraud_platform.versions import LATER

if TYPE_CHECKING:
    # the process of the rules reads this record, and starts in a moment
    from fraud_platform.settings import Settings

Which = Literal["block", "allow"]
"""A list."""

MOST_ENTRIES = 10_000
"""Entries of one list: each version keeps all of them, and a worker reads all of them at a change."""

_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), datetime.resolution
_PRINTABLE = r"^[^\x00-\x1f\x7f]+$"

Probability = Annotated[float, Meta(gt=0, lt=1)]
Limit = Annotated[int, Meta(ge=0, le=10**12)]
Value = Annotated[
    str, Meta(min_length=1, max_length=128, pattern=_PRINTABLE, description="As payments bear it; a country's code.")
]
Why = Annotated[
    str, Meta(min_length=1, max_length=500, pattern=_PRINTABLE, description="The reason, recorded in the ledger.")
]


class PolicyError(RuntimeError):
    """A kept policy cannot be read; the message says which, and what to do."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One user, merchant, device or country on a list."""

    kind: Kind
    value: Value
    until: datetime | None
    """Payments received before it are concerned; None: all."""
    why: Why

    @property
    def until_us(self) -> int:
        """UTC microseconds."""
        return FOREVER if self.until is None else (self.until - _EPOCH) // _MICROSECOND


class PolicyRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One version of the policy. A new field has a default, so that old versions stay readable, and is written only
    where it is set, so that whoever runs the release before reads new versions meanwhile."""

    version: Annotated[int, Meta(ge=0)]
    since: datetime
    threshold: Probability
    """A payment is blocked when its score is strictly greater."""
    review_threshold: Probability
    """A score strictly greater is flagged for review."""
    rule_high_amount: Limit
    """Where no model answers, an amount above this is flagged; units of the base currency."""
    rule_cross_country_amount: Limit
    """The same outside the home country."""
    kill_switch: KillSwitch = "off"
    block_list: tuple[Entry, ...] = ()
    allow_list: tuple[Entry, ...] = ()
    list_matching: Matching = "exact"
    """Which ids both lists take for one (`identifiers.match_key`)."""

    def compiled(self) -> Policy:
        """The policy that decides. Raises ValueError when its bands do not nest."""
        return Policy(
            threshold=self.threshold,
            review_threshold=self.review_threshold,
            version=self.version,
            rules=FallbackRules(self.rule_high_amount, self.rule_cross_country_amount),
            kill_switch=self.kill_switch,
            block_list=_compiled(self.block_list, self.list_matching),
            allow_list=_compiled(self.allow_list, self.list_matching),
        )

    def deciding_entry(self, reason: str, payment: ListedFields, at: int) -> Entry | None:
        """The entry by which a list decided a payment received at a moment (UTC microseconds), by the decision's
        reason; None where no list decided."""
        kind = self.compiled().listed(reason, payment, at)
        if kind is None:
            return None
        value = payment.country if kind == "country" else getattr(payment, f"{kind}_id")
        return self.entries_for("block" if reason == "block_list" else "allow", kind, value)[0]

    def entries_for(self, which: Which, kind: Kind, value: str) -> list[Entry]:
        """The entries of a list that a payment with this value meets, expired ones too, the longest first."""
        entries = self.block_list if which == "block" else self.allow_list
        wanted = entry_key(kind, value, self.list_matching)
        found = [entry for entry in entries if entry_key(entry.kind, entry.value, self.list_matching) == wanted]
        return sorted(found, key=lambda entry: -entry.until_us)


def entry_key(kind: Kind, value: str, matching: Matching) -> tuple[Kind, str]:
    """Equal for what a list with this matching takes for one. A country is a code, and is never folded."""
    known = canonical(value)
    return kind, known if kind == "country" else match_key(known, matching)


def _compiled(entries: Iterable[Entry], matching: Matching) -> Listed:
    by_kind: dict[Kind, dict[str, int]] = {"user": {}, "merchant": {}, "device": {}, "country": {}}
    for entry in entries:
        keys = {entry_key(entry.kind, entry.value, matching)[1]}
        if matching == "exact":
            # versions of before the rule of identity decided payments that bear the value as it is
            keys.add(entry.value)
        for key in keys:
            by_kind[entry.kind][key] = max(entry.until_us, by_kind[entry.kind].get(key, 0))
    return Listed(by_kind["user"], by_kind["merchant"], by_kind["device"], by_kind["country"], matching)


_decode = msgspec.json.Decoder(PolicyRecord).decode


def folder(home: Path) -> Path:
    """Where a home keeps its policy."""
    return home / "policy"


def current_file(home: Path) -> Path:
    """The version in force."""
    return folder(home) / "current.json"


def first_policy(settings: "Settings", now: datetime, version: int = 1) -> PolicyRecord:
    """The policy that the settings describe."""
    return PolicyRecord(
        version=version,
        since=now,
        threshold=settings.threshold,
        review_threshold=settings.review_threshold,
        rule_high_amount=settings.rule_high_amount,
        rule_cross_country_amount=settings.rule_cross_country_amount,
    )


def read_policy(home: Path, version: int | None = None) -> PolicyRecord | None:
    """The version in force, or a past one; None where there is none of it. Raises PolicyError."""
    path = current_file(home) if version is None else folder(home) / f"{version}.json"
    try:
        record = _decode(path.read_bytes())
        record.compiled()
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, ValueError, OSError) as error:
        raise PolicyError(
            f"{path} cannot be read: {error}; put a version that is kept beside it back in its place, or {LATER}"
        ) from error
    return record


def kept_versions(home: Path) -> list[int]:
    """Every version that is kept, ascending."""
    return sorted(int(path.stem) for path in folder(home).glob("*.json") if path.stem.isdigit())


def keep(home: Path, record: PolicyRecord) -> None:
    """Keep a version, without putting it into force."""
    _write(folder(home) / f"{record.version}.json", record)


def put_in_force(home: Path, record: PolicyRecord) -> None:
    """Replace the version in force; callers hold the policy's lock, have kept it and written the ledger."""
    _write(current_file(home), record)


def policy_bytes(record: PolicyRecord) -> bytes:
    """A version as its file holds it."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2)


def _write(path: Path, record: PolicyRecord) -> None:
    from fraud_platform.model.bundle import replace_file

    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, policy_bytes(record))
