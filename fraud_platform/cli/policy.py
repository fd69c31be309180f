"""`fraud-platform policy`: what decides beside the model, and changes of it by hand.

What belongs here: the group's commands. What does not: what a change does (`fraud_platform.decision.policy_change`).
"""

import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fraud_platform.cli.confirm import NOT_CONFIRMED, WAIT, WAIT_SECONDS, confirm
from fraud_platform.cli.screen import (
    JSON,
    by_hand,
    console,
    now,
    print_json,
    print_table,
    refused,
    settings_of_home,
    settings_of_policy,
)

if TYPE_CHECKING:
    from fraud_platform.decision.policy_record import Entry, PolicyRecord

app = typer.Typer(
    help="Thresholds, rule limits, lists and the kill switch. Every change is a new version, recorded in the ledger.",
    no_args_is_help=True,
)

_SPAN = re.compile(r"([1-9]\d{0,4})([hd])")
_FIELDS = {
    "threshold": "a greater score is blocked",
    "review_threshold": "a greater score is flagged for review",
    "rule_high_amount": "without a model, a greater amount is flagged",
    "rule_cross_country_amount": "the same outside the home country",
    "kill_switch": "off; rules_only: no model is asked; allow_all: every payment is allowed",
    "list_matching": "exact: ids must be equal; case: ignore case; look_alikes: also match ids that look alike",
}
_NAMED_CHANGES = 20
"""Entries of one change that `history` names."""


class Which(StrEnum):
    """A list."""

    allow = "allow"
    block = "block"


class Kind(StrEnum):
    """What can be listed."""

    user = "user"
    merchant = "merchant"
    device = "device"
    country = "country"


class MatchingName(StrEnum):
    """How the lists compare ids."""

    exact = "exact"
    case = "case"
    look_alikes = "look_alikes"


class Switch(StrEnum):
    """Positions of the kill switch."""

    off = "off"
    rules_only = "rules_only"
    allow_all = "allow_all"


WHY = Annotated[str, typer.Option("--why", help="The reason, recorded in the ledger.")]
EXPECTED = Annotated[
    int | None,
    typer.Option("--expected-version", help="Refuse if the policy is at another version."),
]
LIST = Annotated[Which, typer.Argument(help="The list: allow or block.")]
KIND = Annotated[Kind, typer.Argument(help="What is listed: user, merchant, device or country.")]
VALUE = Annotated[str, typer.Argument(help="The identifier or country code as it appears in payments.")]


@app.command("show")
def policy_show(
    version: Annotated[int | None, typer.Option("--version", help="A past version; default: the one in force.")] = None,
    as_json: JSON = False,
) -> None:
    """Show the policy: numbers, kill switch, lists."""
    import msgspec

    from fraud_platform.decision.policy_record import PolicyError, first_policy, read_policy

    current = settings_of_policy()
    try:
        record = read_policy(current.home, version)
    except PolicyError as error:
        raise refused(str(error)) from error
    if record is None and version is not None:
        raise refused(f"there is no version {version}: `fraud-platform policy history` lists the versions")
    if as_json:
        print_json({"kept": record is not None, **msgspec.structs.asdict(record or first_policy(current, now()))})
        return
    if record is not None:
        console().print(f"version {record.version}, since {record.since:%Y-%m-%d %H:%M:%S} UTC")
    else:
        record = first_policy(current, now())
        console().print(
            "no policy yet: version 1 will be made from the settings when a service starts or the policy is changed"
        )
    print_table(
        None, ["field", "value", "meaning"], [[name, _text(getattr(record, name)), _FIELDS[name]] for name in _FIELDS]
    )
    listed = [(which, entry) for which in Which for entry in _entries(record, which)]
    if listed:
        at = now()
        rows = [[which.value, entry.kind, entry.value, _until(entry, at), entry.why] for which, entry in listed]
        print_table(None, ["list", "kind", "value", "until (UTC)", "why"], rows)


@app.command("set")
def policy_set(
    why: WHY,
    threshold: Annotated[float | None, typer.Option(help="Block above this score, between 0 and 1.")] = None,
    review_threshold: Annotated[
        float | None, typer.Option(help="Flag for review above this score, between 0 and 1.")
    ] = None,
    rule_high_amount: Annotated[
        int | None, typer.Option(help="Flag above this amount without a model; units of the base currency.")
    ] = None,
    rule_cross_country_amount: Annotated[
        int | None, typer.Option(help="The same outside the home country; units of the base currency.")
    ] = None,
    list_matching: Annotated[MatchingName | None, typer.Option(help=_FIELDS["list_matching"])] = None,
    expected_version: EXPECTED = None,
    wait: WAIT = WAIT_SECONDS,
    as_json: JSON = False,
) -> None:
    """Change thresholds or rule limits; whatever is not given stays as it is."""
    _change(
        why,
        expected_version,
        wait,
        as_json,
        threshold=threshold,
        review_threshold=review_threshold,
        rule_high_amount=rule_high_amount,
        rule_cross_country_amount=rule_cross_country_amount,
        list_matching=None if list_matching is None else list_matching.value,
    )


@app.command("list-add")
def policy_list_add(
    which: LIST,
    kind: KIND,
    value: VALUE,
    why: WHY,
    until: Annotated[
        datetime | None,
        typer.Option(
            "--until", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M"], help="When the entry ends, in UTC; default: never."
        ),
    ] = None,
    span: Annotated[str | None, typer.Option("--for", help="How long the entry lasts, such as 12h or 7d.")] = None,
    expected_version: EXPECTED = None,
    wait: WAIT = WAIT_SECONDS,
    as_json: JSON = False,
) -> None:
    """Put a user, merchant, device or country on a list; repeat it to change the end."""
    if span is not None and until is not None:
        raise refused("give either --until or --for, not both")
    end = until.replace(tzinfo=UTC) if until is not None else None if span is None else now() + _span(span)
    entry = {"kind": kind.value, "value": value} | ({} if end is None else {"until": end.isoformat()})
    _change(why, expected_version, wait, as_json, **{f"{which.value}_list_add": [entry]})


@app.command("list-remove")
def policy_list_remove(
    which: LIST,
    kind: KIND,
    value: VALUE,
    why: WHY,
    expected_version: EXPECTED = None,
    wait: WAIT = WAIT_SECONDS,
    as_json: JSON = False,
) -> None:
    """Remove an entry from a list."""
    entry = {"kind": kind.value, "value": value}
    _change(why, expected_version, wait, as_json, **{f"{which.value}_list_remove": [entry]})


@app.command("listed")
def policy_listed(kind: KIND, value: VALUE, as_json: JSON = False) -> None:
    """Show whether a user, merchant, device or country is on a list: which entry, since when, by whom and why.

    The exit code is 0 if an entry counts, else 1.
    """
    import msgspec

    from fraud_platform.decision.policy_listed import find_listed
    from fraud_platform.decision.policy_record import PolicyError, first_policy, read_policy
    from fraud_platform.identifiers import canonical

    current, at = settings_of_policy(), now()
    try:
        record = read_policy(current.home) or first_policy(current, at)
    except PolicyError as error:
        raise refused(str(error)) from error
    found = find_listed(current.home, record, kind.value, value, at)
    listed = any(one.counts for one in found)
    if as_json:
        entries = [msgspec.structs.asdict(one) for one in found]
        about = {name: getattr(record, name) for name in ("version", "kill_switch", "list_matching")}
        print_json({"kind": kind.value, "value": canonical(value), "listed": listed, **about, "entries": entries})
        raise typer.Exit(0 if listed else 1)
    for one in found:
        since = "the ledger does not say since when"
        if one.since is not None:
            since = f"put there {one.since:%Y-%m-%d %H:%M:%S} UTC by {one.who}, with policy {one.version}"
        end = "for good" if one.until is None else f"until {one.until:%Y-%m-%d %H:%M} UTC"
        state = end if one.counts else f"{end}, which has passed, so it no longer counts"
        typer.echo(f"{one.list} list: {one.kind} {one.value}, {state}; {since}: {one.why}")
    if not listed:
        matching = f"lists match {record.list_matching}"
        typer.echo(f"{kind.value} {canonical(value)} is on no list of policy {record.version} ({matching})")
        raise typer.Exit(1)
    if record.kill_switch == "allow_all":
        typer.echo("the kill switch is at allow_all, so no list counts at the moment")


@app.command("kill-switch")
def policy_kill_switch(
    position: Annotated[Switch, typer.Argument(help=_FIELDS["kill_switch"])],
    why: WHY,
    expected_version: EXPECTED = None,
    wait: WAIT = WAIT_SECONDS,
    as_json: JSON = False,
) -> None:
    """Stop asking the model, or allow every payment; `off` undoes it."""
    _change(why, expected_version, wait, as_json, kill_switch=position.value)


@app.command("history")
def policy_history(as_json: JSON = False) -> None:
    """Every change: when, who, what from and to, why."""
    from fraud_platform.model.ledger import read_ledger

    lines = [line for line in read_ledger(settings_of_policy().home) if line["what"] == "policy"]
    if as_json:
        told = [{name: line[name] for name in ("at", "who", "why", "from", "to")} for line in lines]
        print_json([{"version": line["to"]["version"], **line, "change": _difference(line)} for line in told])
        return
    rows = [
        [str(line["to"]["version"]), line["at"][:19].replace("T", " "), line["who"], _difference(line), line["why"]]
        for line in lines
    ]
    print_table(None, ["version", "at (UTC)", "who", "change", "why"], rows)


def _change(why: str, expected_version: int | None, wait: float, as_json: bool, **fields: Any) -> None:
    """Make a change and wait until every worker decides by it."""
    import msgspec

    from fraud_platform.control.store import ControlError
    from fraud_platform.decision.policy_change import PolicyConflictError, change_policy, parse_change
    from fraud_platform.decision.policy_control import policy_in_force
    from fraud_platform.decision.policy_record import PolicyError
    from fraud_platform.decision.request import InvalidRequest
    from fraud_platform.decision.workers import of_other_homes
    from fraud_platform.model.following import FollowingError

    asked = {"why": why, "expected_version": expected_version, **fields}
    current = settings_of_home()
    try:
        change = parse_change(msgspec.json.encode({name: value for name, value in asked.items() if value is not None}))
        before = policy_in_force(current, now()).version
        record = change_policy(current, change, by_hand(), now())
    except (InvalidRequest, PolicyConflictError, PolicyError, FollowingError, ControlError) as error:
        raise refused(str(error)) from error
    changed = record.version != before
    if not changed:
        typer.echo(f"nothing to change: policy {record.version} already says so", err=True)
    try:
        confirm(
            current.home,
            f"policy {record.version}",
            lambda worker: worker.policy == record.version,
            wait,
            told={"version": record.version, "changed": changed} if as_json else None,
            elsewhere=lambda: of_other_homes(current),
        )
    except ControlError as error:
        said = f"policy {record.version} is kept; whether every worker follows is not known: {error}"
        raise refused(said, NOT_CONFIRMED) from error


def _entries(record: "PolicyRecord", which: Which) -> "tuple[Entry, ...]":
    return record.allow_list if which is Which.allow else record.block_list


def _until(entry: "Entry", at: datetime) -> str:
    if entry.until is None:
        return "for good"
    return f"{entry.until:%Y-%m-%d %H:%M}{' (expired)' if entry.until <= at else ''}"


def _difference(line: dict[str, Any]) -> str:
    """A change in the ledger as one reads it: `threshold 0.7 → 0.65`, `block_list + user u-1`."""
    was, to = line["from"] or {}, line["to"]
    said = []
    for name in [name for name in (*_FIELDS, "block_list", "allow_list") if name in to]:
        value = to[name]
        if isinstance(value, list):
            added = [_named(entry) for entry in value]
            kept = set(added)
            removed = [one for one in map(_named, was.get(name, [])) if one not in kept]
            for sign, entries in (("−", removed), ("+", added)):
                said += [f"{name} {sign} {entry}" for entry in entries[:_NAMED_CHANGES]]
                if len(entries) > _NAMED_CHANGES:
                    said.append(f"{name} {sign} {len(entries) - _NAMED_CHANGES:,} more")
        else:
            said.append(f"{name} {_text(was[name])} → {_text(value)}" if name in was else f"{name} {_text(value)}")
    return ", ".join(said)


def _named(entry: dict[str, Any]) -> str:
    return f"{entry['kind']} {entry['value']}"


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _span(text: str) -> timedelta:
    found = _SPAN.fullmatch(text)
    if found is None:
        raise refused(f"--for: {text!r} is not a duration; give hours or days, such as 12h or 7d")
    count = int(found[1])
    return timedelta(hours=count) if found[2] == "h" else timedelta(days=count)
