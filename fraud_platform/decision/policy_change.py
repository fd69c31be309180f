"""Changes of the policy: each is checked, gets the next version, a line in the ledger, and is then put into force.

What belongs here: what may be asked for and what comes of it. What does not: who may ask (`access`), HTTP
(`policy_desk`). Nothing but the home is needed, and the control store where one is named, so a kill switch works while
everything else is away.
"""

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from fraud_platform.control.store import control_url
from fraud_platform.currency import is_country
from fraud_platform.decision.policy import KillSwitch, Kind
from fraud_platform.decision.policy_control import Turn, holding
from fraud_platform.decision.policy_record import (
    MOST_ENTRIES,
    Entry,
    Limit,
    PolicyError,
    PolicyRecord,
    Probability,
    Value,
    Why,
    entry_key,
    first_policy,
    keep,
    kept_versions,
    read_policy,
)
from fraud_platform.decision.request import InvalidRequest, decode_json, identity
from fraud_platform.identifiers import Matching
from fraud_platform.model.following import read_followed, refuse_following
from fraud_platform.model.ledger import Change
from fraud_platform.settings import Settings

_MANY = Meta(max_length=1_000)
_NO_CHANGE = ("why", "expected_version")
_SCALARS = (
    *("threshold", "review_threshold", "rule_high_amount", "rule_cross_country_amount", "kill_switch"),
    "list_matching",
)


OWN_VERSIONS = 1_000_000
"""Versions that a region beside the first makes itself are above this: below are the first region's, the same there and
here."""


class Listing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody to put on a list; the same kind and value again replaces the entry."""

    kind: Kind
    value: Value
    until: (
        Annotated[datetime, Meta(tz=True, description="RFC 3339 with an offset: counts for payments received before.")]
        | None
    ) = None


class Delisting(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody to take off a list."""

    kind: Kind
    value: Value


class PolicyChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change of the policy; what is not named stays as it is."""

    why: Why
    expected_version: (
        Annotated[int, Meta(ge=0, description="Refused with 409 when the policy is at another version.")] | None
    ) = None
    threshold: Annotated[Probability, Meta(description="A strictly greater score is blocked.")] | None = None
    review_threshold: (
        Annotated[Probability, Meta(description="A strictly greater score is flagged for review.")] | None
    ) = None
    rule_high_amount: (
        Annotated[Limit, Meta(description="Without a model, a greater amount is flagged; units of the base currency.")]
        | None
    ) = None
    rule_cross_country_amount: (
        Annotated[Limit, Meta(description="Without a model, a greater amount abroad is flagged.")] | None
    ) = None
    kill_switch: (
        Annotated[
            KillSwitch,
            Meta(description="off; rules_only: no model is asked, lists count; allow_all: every payment is allowed."),
        ]
        | None
    ) = None
    list_matching: (
        Annotated[
            Matching,
            Meta(
                description="exact: ids must be equal; case: ignore case; look_alikes: also match ids that look alike."
            ),
        ]
        | None
    ) = None
    block_list_add: Annotated[tuple[Listing, ...], _MANY] = ()
    block_list_remove: Annotated[tuple[Delisting, ...], _MANY] = ()
    allow_list_add: Annotated[tuple[Listing, ...], _MANY] = ()
    allow_list_remove: Annotated[tuple[Delisting, ...], _MANY] = ()


class PolicyConflictError(RuntimeError):
    """The policy has changed since whoever asks has looked at it."""


_decode = msgspec.json.Decoder(PolicyChange).decode


def parse_change(body: bytes) -> PolicyChange:
    """The change in a JSON body. Raises MalformedBody, InvalidRequest."""
    change = decode_json(_decode, body)
    if not any(getattr(change, name) not in (None, ()) for name in change.__struct_fields__ if name not in _NO_CHANGE):
        raise InvalidRequest(None, "asks for no change: give at least one field besides `why`")
    return change


def begin_policy(settings: Settings, now: datetime) -> PolicyRecord:
    """The policy in force; version 1, made from the settings, where there is none yet.

    Raises PolicyError, ControlError, OSError.
    """
    if control_url(settings) is None and (record := read_policy(settings.home)) is not None:
        return record
    with holding(settings) as turn:
        return read_policy(settings.home) or _begun(settings, turn, now)


def _begun(settings: Settings, turn: Turn, now: datetime) -> PolicyRecord:
    first = first_policy(settings, now, version=_next_version(settings))
    _put(turn, None, first, who="first use", why="made from the settings", now=now)
    return first


def change_policy(settings: Settings, change: PolicyChange, who: str, now: datetime) -> PolicyRecord:
    """Make a change; returns what is in force then, which is the version before where nothing differs.

    Concurrent changes are made one after the other. Killed at any moment, the old version or the new one is in force.
    now: with a time zone. Raises InvalidRequest naming the field, PolicyConflictError, PolicyError, ControlError,
    OSError, and in a region that follows the first FollowingError for anything but the kill switch.
    """
    with holding(settings) as turn:
        before = read_policy(settings.home) or _begun(settings, turn, now)
        if change.expected_version not in (None, before.version):
            raise PolicyConflictError(
                f"the policy is at version {before.version}, not {change.expected_version}: look at it and try again"
            )
        followed = read_followed(settings.home) is not None
        after = _switched(settings, before, change, now) if followed else _changed(before, change, now)
        if _differing(before, after):
            if after.version == before.version:
                after = msgspec.structs.replace(after, version=_next_version(settings, before.version), since=now)
            _put(turn, before, after, who, change.why, now)
        return after


def take_policy(settings: Settings, record: PolicyRecord, who: str, why: str, now: datetime) -> bool:
    """Put the first region's policy into force; False where it is already, or where this region has turned its own
    kill switch on: then it is kept, and comes into force when that is turned off."""
    with holding(settings) as turn:
        try:
            before = read_policy(settings.home)
        except PolicyError:
            # the very thing that mends it
            before = None
        if before == record:
            return False
        if before is not None and _is_own_switch(before):
            if record.version not in kept_versions(settings.home):
                keep(settings.home, record)
            return False
        _put(turn, before, record, who, why, now)
        return True


def _is_own_switch(record: PolicyRecord) -> bool:
    return record.version > OWN_VERSIONS and record.kill_switch != "off"


def _switched(settings: Settings, before: PolicyRecord, change: PolicyChange, now: datetime) -> PolicyRecord:
    """The kill switch as this region turns it by itself; off is back to the first region's newest policy."""
    asked = {name for name in change.__struct_fields__ if getattr(change, name) not in (None, ())}
    if asked - {*_NO_CHANGE, "kill_switch"}:
        refuse_following(settings.home, "changes the policy, all but the kill switch")
    if change.kill_switch != "off":
        return _changed(before, change, now)
    if _is_own_switch(before):
        followed = [version for version in kept_versions(settings.home) if version <= OWN_VERSIONS]
        newest = read_policy(settings.home, followed[-1]) if followed else None
        return newest or _changed(before, change, now)
    if before.kill_switch != "off":
        refuse_following(settings.home, "has turned the kill switch on")
    return before


def _next_version(settings: Settings, standing: int = 0) -> int:
    """A number never used: that of a version which was kept and, its process killed, never in force is left out."""
    follows = settings.region or read_followed(settings.home) is not None
    return 1 + max(standing, *kept_versions(settings.home), OWN_VERSIONS if follows else 0)


def _put(turn: Turn, before: PolicyRecord | None, after: PolicyRecord, who: str, why: str, now: datetime) -> None:
    names = [*_SCALARS, "block_list", "allow_list"] if before is None else _differing(before, after)
    was = None if before is None else {"version": before.version, **_told(before, after, names)}
    to = {"version": after.version, **_told(after, before, names)}
    turn.put(after, Change(at=now, who=who, why=why, what="policy", was=was, to=to))


def _differing(before: PolicyRecord, after: PolicyRecord) -> list[str]:
    return [name for name in (*_SCALARS, "block_list", "allow_list") if getattr(before, name) != getattr(after, name)]


def _told(one: PolicyRecord, other: PolicyRecord | None, names: list[str]) -> dict[str, Any]:
    """What the ledger says of one side of a change: numbers, and the entries that the other side has not."""
    told: dict[str, Any] = {}
    for name in names:
        value = getattr(one, name)
        if name not in _SCALARS:
            there = set() if other is None else set(getattr(other, name))
            value = [msgspec.to_builtins(entry) for entry in value if entry not in there]
        told[name] = value
    return told


def _changed(before: PolicyRecord, change: PolicyChange, now: datetime) -> PolicyRecord:
    given = {name: getattr(change, name) for name in _SCALARS if getattr(change, name) is not None}
    after = msgspec.structs.replace(
        before,
        **given,
        block_list=_list("block_list", before.block_list, change.block_list_add, change.block_list_remove, change, now),
        allow_list=_list("allow_list", before.allow_list, change.allow_list_add, change.allow_list_remove, change, now),
    )
    low, high = after.review_threshold, after.threshold
    if low > high:
        if change.review_threshold is None:
            raise InvalidRequest("threshold", f"{high:g} would be below review_threshold, {low:g}")
        raise InvalidRequest("review_threshold", f"{low:g} would be above threshold, {high:g}")
    for name, other in (("block_list", after.allow_list), ("allow_list", after.block_list)):
        held = {entry_key(entry.kind, entry.value, after.list_matching) for entry in other}
        for position, listing in enumerate(getattr(change, f"{name}_add")):
            if entry_key(listing.kind, listing.value, after.list_matching) in held:
                raise InvalidRequest(
                    f"{name}_add[{position}].value",
                    f"{listing.kind} {listing.value} is on the other list; remove it there first",
                )
    return after


def _list(
    name: str,
    standing: tuple[Entry, ...],
    add: tuple[Listing, ...],
    remove: tuple[Delisting, ...],
    change: PolicyChange,
    now: datetime,
) -> tuple[Entry, ...]:
    """A list after a change; entries that have expired leave it with the next change of anything. An entry is named by
    its id, however that is spelled, and never by a looser matching of the list: what it is taken for may be another's.
    """

    def key(entry: Entry | Listing | Delisting) -> tuple[Kind, str]:
        return entry_key(entry.kind, entry.value, "exact")

    entries = {key(entry): entry for entry in standing if entry.until is None or entry.until > now}
    for position, one in enumerate(remove):
        if entries.pop(key(one), None) is None:
            raise InvalidRequest(f"{name}_remove[{position}].value", f"{one.kind} {one.value} is not on the list")
    for position, new in enumerate(add):
        where = f"{name}_add[{position}]"
        value = identity(f"{where}.value", new.value)
        if new.kind == "country" and not is_country(value):
            raise InvalidRequest(f"{where}.value", f"{new.value} is not an ISO 3166 alpha-2 code")
        if new.until is not None and new.until <= now:
            raise InvalidRequest(f"{where}.until", "is in the past")
        until = None if new.until is None else new.until.astimezone(UTC)
        entries[key(new)] = Entry(kind=new.kind, value=value, until=until, why=change.why)
    if len(entries) > MOST_ENTRIES:
        raise InvalidRequest(f"{name}_add", f"the list would have {len(entries)} entries, at most {MOST_ENTRIES} fit")
    return tuple(entries.values())
