"""Replayed decisions as people read them.

What belongs here: words and tables. What does not: any check.
"""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from fraud_platform.audit.day import DayReplay
from fraud_platform.audit.decision import REBUILT, Check, Group, Replayed
from fraud_platform.features.catalogue import Catalogue
from fraud_platform.inference_log.record import DecisionRecord

if TYPE_CHECKING:
    from rich.console import Group as Screen
    from rich.console import RenderableType
    from rich.table import Table

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOMENTS = ("received_at", "event_time", "user_effective_time", "merchant_effective_time", "complete_since")
"""Fields of a record that are UTC microseconds."""
_CAUSES = {
    "other_catalogue": "the decision's vector follows another catalogue",
    "degraded": "features were not served by Redis",
    "incomplete_epoch": "velocity was not complete",
    "not_in_training_set": "it does not hold this transaction",
    "other_snapshot": "it was built on another snapshot than serving saw",
    "one_sided_attempt": "it counts an attempt of its user or merchant that velocity did not, or the other way round",
}
"""Of `monitoring.skew.CAUSES`: why the training set was not compared."""


def render_decision(replayed: Replayed, with_vector: bool) -> "Screen":
    """What was recorded, what came of it again, and the verdict; with the 50 values when asked."""
    from rich.console import Group as Screen
    from rich.text import Text

    parts: list[RenderableType] = [_facts(replayed), _checks(replayed)]
    if with_vector:
        parts.append(_values(replayed))
    parts += [Text(line) for line in _held(replayed)]
    parts += [Text(f"note: {note}") for note in replayed.notes]
    record = replayed.record
    if replayed.not_kept is not None:
        verdict = f"not replayed: {replayed.not_kept}"
    elif replayed.differing:
        verdict = "differs: " + ", ".join(check.what for check in replayed.differing)
    else:
        verdict = f"the same decision again: {len(replayed.checks)} facts held, 0 differences"
    parts.append(Text(f"{record.decision_id}: {verdict}", style="green" if replayed.stands else "red"))
    return Screen(*parts)


def render_day(report: DayReplay) -> "Screen":
    """The counts of a day, examples of what differs, and the verdict."""
    from rich.console import Group as Screen
    from rich.text import Text

    parts: list[RenderableType] = [_counts(report)]
    for one in report.examples:
        parts += [Text(f"{one.record.decision_id} {_said(check)}") for check in one.differing]
    parts += [Text(f"{count} not replayed: {why}", style="red") for why, count in report.not_kept.most_common()]
    verdict = (
        f"{report.day}: {report.decisions:,} decisions, {report.facts:,} facts held, "
        f"{report.decisions_differing:,} decisions differ, {report.not_kept.total():,} could not be made again"
    )
    parts.append(Text(verdict, style="green" if report.stands else "red"))
    return Screen(*parts)


def plain_decision(replayed: Replayed) -> dict[str, Any]:
    """A replayed decision for a program: its record, every check, its values by name."""
    record = replayed.record
    told = {name: getattr(record, name) for name in record.__struct_fields__ if name != "vector"}
    moments = {name: told[name] and _at(told[name]) for name in _MOMENTS}
    request = msgspec.structs.asdict(record.request) | {"timestamp": _at(record.request.timestamp)}
    values = dict(zip((name for name, _ in _named(record, replayed.catalogue)), record.values.tolist(), strict=True))
    rest = ("checks", "notes", "not_kept", "training_set")
    return {
        "decision_id": record.decision_id,
        "stands": replayed.stands,
        **{name: getattr(replayed, name) for name in rest},
        "record": {**told, **moments, "request": request},
        "values": values,
    }


def plain_day(report: DayReplay) -> dict[str, Any]:
    """A day's decisions for a program: all counts, and examples of what differs."""
    examples = [{"decision_id": one.record.decision_id, "differing": one.differing} for one in report.examples]
    return {**vars(report), "stands": report.stands, "examples": examples}


def _facts(replayed: Replayed) -> "Table":
    record, request = replayed.record, replayed.record.request
    table = _table("what", "recorded")
    served = record.served_by
    complete = "" if record.complete_since is None else f", complete since {_moment(record.complete_since)}"
    rows = {
        "transaction": f"{request.transaction_id} of {record.caller}",
        "received": _moment(record.received_at),
        "payment": f"{request.amount_minor} minor units of {request.currency}, by {request.user_id} "
        f"at {request.merchant_id}",
        "model": f"{record.model_version}, SHA-256 {record.scorer_hash or 'none'}",
        "served by": f"user {served.user_features}, merchant {served.merchant_features}, model {served.model}",
        "snapshots": f"user {record.user_snapshot or 'none'}, merchant {record.merchant_snapshot or 'none'}",
        "velocity's epoch": f"{record.epoch or 'none'}{complete}",
        "policy": f"version {record.policy_version}, block above {record.threshold}, review above "
        f"{record.review_threshold}",
        "latency": f"{record.latency_us / 1_000:.1f} ms",
    }
    if record.other_version is not None:
        rows["beside it"] = f"{record.other_version}, in the {record.arm}'s turn"
    if record.other_seen is not None:
        other = record.other_seen
        rows["what that saw"] = (
            f"set {other.catalogue_hash}; user {other.user_features}, merchant {other.merchant_features}"
        )
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _checks(replayed: Replayed) -> "Table":
    table = _table("fact", "recorded", "again", "")
    for check in replayed.checks:
        if check.group in ("decision", "request"):
            table.add_row(check.what, repr(check.recorded), repr(check.again), _verdict(check))
    return table


def _values(replayed: Replayed) -> "Table":
    from rich.text import Text

    differing = {check.what for check in replayed.differing}
    compared = {check.what for check in replayed.checks if check.group in ("vector", "training set")}
    table = _table("feature", "source", "value", "")
    for (name, source), value in zip(_named(replayed.record, replayed.catalogue), replayed.record.values, strict=True):
        held = Text("differs", style="red") if name in differing else "same" * (name in compared)
        table.add_row(name, source, "null" if np.isnan(value) else f"{value!s}", held)
    return table


def _named(record: DecisionRecord, catalogue: Catalogue) -> list[tuple[str, str]]:
    """Name and source of each of a record's values; numbers where its features are not those of this platform."""
    count = len(record.values)
    if record.catalogue_hash in catalogue.alike and count == len(catalogue.features):
        return [(feature.name, feature.source) for feature in catalogue.features]
    return [(f"value {number}", "unknown") for number in range(1, count + 1)]


def _held(replayed: Replayed) -> list[str]:
    """A line for each of the two groups of values, then one for each value that differs."""
    lines = []
    if _of(replayed, "vector"):
        left = [feature.name for feature in replayed.catalogue.of("request") if feature.name not in REBUILT]
        lines.append(
            f"request features rebuilt from the record: {_score(_of(replayed, 'vector'))}; "
            f"{', '.join(left)} also need what the store knew"
        )
    if replayed.training_set is None:
        lines.append(f"training set, same transaction: {_score(_of(replayed, 'training set'))}")
    else:
        lines.append(f"training set not compared: {_CAUSES[replayed.training_set]}")
    values = (check for check in replayed.differing if check.group in ("vector", "training set"))
    return [*lines, *(f"  {_said(check)}" for check in values)]


def _counts(report: DayReplay) -> "Table":
    table = _table("decisions", "")
    if report.elsewhere:
        table.add_row("of other regions, not made again here", f"{report.elsewhere:,}")
    for rung, count in report.served_by.most_common():
        table.add_row(f"scored by {rung}", f"{count:,}")
    for cause, count in report.training_set.most_common():
        said = "compared" if cause == "compared" else f"not compared: {_CAUSES[cause]}"
        table.add_row(f"training set {said}", f"{count:,}")
    for fact, count in report.differing.most_common():
        table.add_row(f"differing in {fact}", f"{count:,}")
    return table


def _of(replayed: Replayed, group: Group) -> list[Check]:
    return [check for check in replayed.checks if check.group == group]


def _score(checks: list[Check]) -> str:
    return f"{sum(check.same for check in checks)} of {len(checks)} values the same"


def _said(check: Check) -> str:
    return f"{check.group}: {check.what} recorded {check.recorded!r}, again {check.again!r}"


def _verdict(check: Check) -> "RenderableType":
    from rich.text import Text

    return "same" if check.same else Text("differs", style="red")


def _table(*names: str) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def _at(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _moment(microseconds: int) -> str:
    whole, rest = divmod(microseconds, 1_000_000)
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%d %H:%M:%S}.{rest:06d} UTC"
