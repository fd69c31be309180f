"""Changes of the policy: versions, the ledger, what is refused, changers at once; and how a service follows them."""

import asyncio
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fraud_platform.decision import policy_change, policy_control
from fraud_platform.decision.policy import Policy
from fraud_platform.decision.policy_change import PolicyConflictError, begin_policy, change_policy, parse_change
from fraud_platform.decision.policy_control import policy_in_force
from fraud_platform.decision.policy_desk import PolicyDesk
from fraud_platform.decision.policy_follow import PolicyFollower
from fraud_platform.decision.policy_record import (
    PolicyError,
    PolicyRecord,
    current_file,
    kept_versions,
    read_policy,
)
from fraud_platform.decision.problem import Problem
from fraud_platform.decision.request import InvalidRequest
from fraud_platform.model.ledger import arms_in_force, read_ledger
from fraud_platform.settings import Settings

NOW = datetime(2026, 11, 24, 10, tzinfo=UTC)
DAY = timedelta(days=1)


def change(settings: Settings, now: datetime = NOW, who: str = "ann", **fields: Any) -> PolicyRecord:
    asked = {"why": "a test", **fields}
    return change_policy(settings, parse_change(json.dumps(asked, default=datetime.isoformat).encode()), who, now)


def user(value: str, until: datetime | None = None) -> dict[str, Any]:
    return {"kind": "user", "value": value} | ({} if until is None else {"until": until})


def ledger(settings: Settings) -> list[dict[str, Any]]:
    return [line for line in read_ledger(settings.home) if line["what"] == "policy"]


def test_version_1_is_made_from_the_settings_and_the_settings_change_nothing_afterwards(settings: Settings) -> None:
    first = settings.model_copy(update={"threshold": 0.65, "rule_high_amount": 5_000})
    assert read_policy(settings.home) is None
    assert policy_in_force(first, NOW).threshold == 0.65
    assert read_policy(settings.home) is None, "looking begins nothing"
    record = begin_policy(first, NOW)
    assert (record.version, record.threshold, record.review_threshold) == (1, 0.65, 0.4)
    assert (record.rule_high_amount, record.rule_cross_country_amount, record.kill_switch) == (5_000, 1_000, "off")
    assert begin_policy(settings, NOW + DAY) == record == policy_in_force(settings, NOW + DAY)
    (line,) = ledger(settings)
    assert (line["from"], line["to"]["version"], line["to"]["threshold"]) == (None, 1, 0.65)


def test_a_change_is_the_next_version_a_line_in_the_ledger_and_leaves_what_it_does_not_name(settings: Settings) -> None:
    begin_policy(settings, NOW)
    record = change(settings, NOW + DAY, threshold=0.6, kill_switch="rules_only", why="too few blocks")
    assert (record.version, record.since, record.threshold, record.review_threshold) == (2, NOW + DAY, 0.6, 0.4)
    line = ledger(settings)[-1]
    assert (line["who"], line["why"], line["at"]) == ("ann", "too few blocks", "2026-11-25T10:00:00+00:00")
    assert line["from"] == {"version": 1, "threshold": 0.7, "kill_switch": "off"}
    assert line["to"] == {"version": 2, "threshold": 0.6, "kill_switch": "rules_only"}
    before, after = read_policy(settings.home, 1), read_policy(settings.home, 2)
    assert before is not None
    assert (before.threshold, before.since) == (0.7, NOW)
    assert after == record == read_policy(settings.home)


def test_lines_of_the_policy_do_not_disturb_who_decided(settings: Settings) -> None:
    change(settings, threshold=0.6)
    assert arms_in_force(settings.home, NOW + DAY) == {
        "champion": None, "challenger": None, "stage": "none", "weight": 0.0
    }  # fmt: skip


def test_the_ledger_tells_the_entries_that_came_and_went(settings: Settings) -> None:
    change(settings, block_list_add=[user("u-1"), user("u-2", NOW + 7 * DAY)])
    change(settings, block_list_remove=[user("u-1")], allow_list_add=[{"kind": "country", "value": "FR"}])
    was, to = (ledger(settings)[-1][side] for side in ("from", "to"))
    gone = {"kind": "user", "value": "u-1", "until": None, "why": "a test"}
    assert was == {"version": 2, "block_list": [gone], "allow_list": []}
    assert to["block_list"] == []
    assert [(entry["kind"], entry["value"]) for entry in to["allow_list"]] == [("country", "FR")]


def test_an_entry_added_again_is_replaced_and_an_expired_one_leaves_with_the_next_change(settings: Settings) -> None:
    change(settings, block_list_add=[user("u-1", NOW + DAY), user("u-2", NOW + 2 * DAY)])
    change(settings, block_list_add=[user("u-2", NOW + 9 * DAY)])
    record = change(settings, NOW + DAY, threshold=0.8)
    assert [(entry.value, entry.until) for entry in record.block_list] == [("u-2", NOW + 9 * DAY)]
    kept = read_policy(settings.home, 3)
    assert kept is not None
    assert {entry.value for entry in kept.block_list} == {"u-1", "u-2"}, "a past version is never rewritten"


def test_what_makes_no_difference_is_no_version_and_no_line(settings: Settings) -> None:
    change(settings, kill_switch="allow_all")
    assert change(settings, NOW + DAY, kill_switch="allow_all", threshold=0.7).version == 2
    assert len(ledger(settings)) == len(kept_versions(settings.home)) == 2


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"why": ""}, "why"),
        ({"why": None, "threshold": 0.5}, "why"),
        ({"threshold": 1}, "threshold"),
        ({"threshold": 0}, "threshold"),
        ({"threshold": "0.5"}, "threshold"),
        ({"threshold": 0.3}, "threshold"),
        ({"review_threshold": 0.8}, "review_threshold"),
        ({"threshold": 0.5, "review_threshold": 0.6}, "review_threshold"),
        ({"rule_high_amount": -1}, "rule_high_amount"),
        ({"rule_high_amount": 1.5}, "rule_high_amount"),
        ({"kill_switch": "on"}, "kill_switch"),
        ({"expected_version": -1, "threshold": 0.5}, "expected_version"),
        ({"block_list_add": [{"kind": "card", "value": "1"}]}, "block_list_add[0].kind"),
        ({"block_list_add": [user("")]}, "block_list_add[0].value"),
        ({"block_list_add": [user("a\nb")]}, "block_list_add[0].value"),
        ({"block_list_add": [user("u-1", NOW)]}, "block_list_add[0].until"),
        ({"allow_list_add": [user("u-1") | {"until": "2026-12-01T00:00:00"}]}, "allow_list_add[0].until"),
        ({"allow_list_add": [user("u-1") | {"til": "2026-12-01T00:00:00Z"}]}, "allow_list_add[0]"),
        ({"allow_list_add": [user("u-1"), {"kind": "country", "value": "XX"}]}, "allow_list_add[1].value"),
        ({"block_list_remove": [user("u-9")]}, "block_list_remove[0].value"),
        ({"block_list_add": [user("trusted")]}, "block_list_add[0].value"),
        ({"allow_list_add": [user(str(n)) for n in range(1_001)]}, "allow_list_add"),
    ],
)
def test_nonsense_is_refused_by_the_name_of_the_field_and_changes_nothing(
    settings: Settings, asked: dict[str, Any], field: str
) -> None:
    change(settings, allow_list_add=[user("trusted")])
    with pytest.raises(InvalidRequest) as refusal:
        change(settings, **asked)
    assert refusal.value.field == field
    assert policy_in_force(settings, NOW).version == len(ledger(settings)) == 2


@pytest.mark.parametrize("asked", [{}, {"expected_version": 1}, {"treshold": 0.5}])
def test_a_change_of_nothing_or_of_an_unknown_field_is_refused(settings: Settings, asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        change(settings, **asked)


def test_an_entry_that_has_expired_does_not_keep_its_value_off_the_other_list(settings: Settings) -> None:
    change(settings, allow_list_add=[user("u-1", NOW + DAY)])
    record = change(settings, NOW + 2 * DAY, block_list_add=[user("u-1")])
    assert (len(record.allow_list), len(record.block_list)) == (0, 1)


def test_a_list_has_an_end(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_change, "MOST_ENTRIES", 3)
    change(settings, block_list_add=[user(str(n)) for n in range(3)])
    change(settings, block_list_add=[user("2", NOW + DAY)])
    with pytest.raises(InvalidRequest, match="4 entries"):
        change(settings, block_list_add=[user("3")])


def test_of_changes_meant_for_the_same_version_one_is_made(settings: Settings) -> None:
    begin_policy(settings, NOW)

    def attempt(number: int) -> bool:
        try:
            change(settings, expected_version=1, block_list_add=[user(f"u-{number}")])
        except PolicyConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(attempt, range(8))) == 1
    record = policy_in_force(settings, NOW)
    assert (record.version, len(record.block_list)) == (2, 1)


CHANGER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from fraud_platform.decision.policy_change import change_policy, parse_change
from fraud_platform.settings import Settings

settings, name = Settings(home=Path(sys.argv[1])), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for number in range(20):
    body = b'{"why": "at once", "block_list_add": [{"kind": "user", "value": "%s-%d"}]}' % (name.encode(), number)
    change_policy(settings, parse_change(body), name, datetime.now(UTC))
"""


def test_two_processes_that_change_at_once_lose_nothing_and_share_no_version(settings: Settings) -> None:
    command = [sys.executable, "-c", CHANGER, str(settings.home)]
    changers = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in ("ann", "bob")
    ]
    for process in changers:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in changers:
        process.communicate("go\n", timeout=60)
        assert process.returncode == 0
    record = policy_in_force(settings, NOW)
    assert {entry.value for entry in record.block_list} == {f"{n}-{k}" for n in ("ann", "bob") for k in range(20)}
    lines = ledger(settings)
    assert [line["to"]["version"] for line in lines] == list(range(1, 42)) == kept_versions(settings.home)
    assert [line["from"]["version"] for line in lines[1:]] == list(range(1, 41))
    assert all(len(line["to"]["block_list"]) == 1 for line in lines[1:])


def test_a_change_that_is_killed_leaves_the_old_version_and_its_number_is_not_used_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_policy(settings, NOW)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(policy_control, "put_in_force", killed)
        with pytest.raises(KeyboardInterrupt):
            change(settings, threshold=0.5)
    assert policy_in_force(settings, NOW).threshold == 0.7
    assert change(settings, threshold=0.6).version == 3
    assert [line["from"] and line["from"]["version"] for line in ledger(settings)] == [None, 1, 1]


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"{",
        b'{"version": 1}',
        lambda text: text.replace(b'"threshold": 0.7', b'"threshold": 7'),
        lambda text: text.replace(b'"threshold": 0.7', b'"threshold": 0.1'),
        lambda text: text.replace(b"{", b'{"kill_swich": "off",', 1),
    ],
)
def test_a_record_that_cannot_be_is_refused_with_its_path(settings: Settings, broken: Any) -> None:
    begin_policy(settings, NOW)
    path = current_file(settings.home)
    path.write_bytes(broken if isinstance(broken, bytes) else broken(path.read_bytes()))
    with pytest.raises(PolicyError, match=r"current\.json"):
        read_policy(settings.home)
    with pytest.raises(PolicyError):
        change(settings, threshold=0.5)


class Followed:
    """A follower with what it took and what it met."""

    def __init__(self, settings: Settings) -> None:
        self.taken: list[Policy] = []
        self.failures: list[BaseException] = []
        now = int(NOW.timestamp()) * 1_000_000
        self.follower = PolicyFollower(
            settings, self.taken.append, lambda _, error: self.failures.append(error), lambda: now
        )

    def look(self) -> list[int]:
        asyncio.run(self.follower.look())
        return [policy.version for policy in self.taken]


def test_a_service_takes_each_change_once_and_stays_with_the_last_that_could_be_read(settings: Settings) -> None:
    followed = Followed(settings)
    assert followed.follower.begin().version == 1
    assert followed.look() == []
    change(settings, block_list_add=[user("u-1", NOW + DAY)], rule_high_amount=7)
    assert followed.look() == followed.look() == [2]
    policy = followed.taken[0]
    assert policy.block_list.users == {"u-1": int((NOW + DAY).timestamp()) * 1_000_000}
    assert policy.rules.high_amount == 7
    path = current_file(settings.home)
    good = path.read_bytes()
    path.write_bytes(b"not a policy")
    assert followed.look() == followed.look() == [2]
    assert len(followed.failures) == 2, "counted as long as it lasts"
    path.unlink()
    assert followed.look() == [2]
    assert len(followed.failures) == 3
    path.write_bytes(good)
    change(settings, threshold=0.9)
    assert followed.look() == [2, 3]
    assert len(followed.failures) == 3


def test_a_service_starts_with_the_newest_version_that_can_be_read(settings: Settings) -> None:
    change(settings, threshold=0.6)
    change(settings, threshold=0.5)
    folder = current_file(settings.home).parent
    for name in ("current.json", "3.json"):
        (folder / name).write_bytes(b"{")
    followed = Followed(settings)
    policy = followed.follower.begin()
    assert (policy.version, policy.threshold, len(followed.failures)) == (2, 0.6, 2)
    for path in folder.glob("*.json"):
        path.write_bytes(b"{")
    nothing = Followed(settings).follower.begin()
    assert (nothing.version, nothing.threshold) == (0, settings.threshold)


def test_a_service_starts_where_nothing_can_be_written(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("in the way")
    followed = Followed(settings.model_copy(update={"home": tmp_path / "a file"}))
    assert followed.follower.begin().version == 0
    assert followed.failures


async def test_the_desk_answers_with_what_is_in_force_and_knows_who_asked(settings: Settings) -> None:
    desk = PolicyDesk(settings, lambda: int(NOW.timestamp()) * 1_000_000)
    body = b'{"why": "storm", "kill_switch": "allow_all", "block_list_add": [{"kind": "user", "value": "u-1"}]}'
    answer = await desk.take(body, "operations")
    assert (answer.status, json.loads(answer.body)) == (
        200,
        {
            "version": 2, "since": "2026-11-24T10:00:00Z", "threshold": 0.7, "review_threshold": 0.4,
            "rule_high_amount": 10_000, "rule_cross_country_amount": 1_000, "kill_switch": "allow_all",
                "list_matching": "exact",
            "block_list": 1, "allow_list": 0,
        },
    )  # fmt: skip
    assert [line["who"] for line in ledger(settings)] == ["first use", "operations"]
    with pytest.raises(Problem) as conflict:
        await desk.take(b'{"why": "late", "expected_version": 1, "kill_switch": "off"}', "operations")
    assert (conflict.value.status, conflict.value.document.field) == (409, "expected_version")
