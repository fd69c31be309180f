"""API keys: who gets in, who does not, how soon a change counts, and what lies on the disk."""

import json
import re
import shutil
import stat
import time
from collections.abc import Hashable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fraud_platform.cli import app
from fraud_platform.cli.confirm import NOT_CONFIRMED
from fraud_platform.decision import access as access_module
from fraud_platform.decision.access import Access, is_loopback
from fraud_platform.decision.api_keys import (
    LEDGER,
    ApiKey,
    KeyFile,
    KeysError,
    Made,
    Scope,
    add_key,
    keys_path,
    read_keys,
    revoke_key,
)
from fraud_platform.decision.problem import Problem
from fraud_platform.homes import begin_home
from fraud_platform.model.ledger import ledger_file, read_ledger

NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)


class Door:
    """An Access over a home's keys, with a clock to turn and the failures it told of."""

    def __init__(self, home: Path, *, loopback: bool = False) -> None:
        self.path = keys_path(home)
        self.time = 0.0
        self.failures: list[Exception] = []
        self.access = Access.load(
            KeyFile(home), loopback=loopback, failed=self.failures.append, clock=lambda: self.time
        )

    def answers(self, header: str | None, scope: Scope = "decide") -> str | int:
        """The caller, or the status of the refusal."""
        try:
            return self.access.check(None if header is None else header.encode(), scope)
        except Problem as problem:
            return problem.status

    def later(self) -> None:
        self.time += access_module.LOOK_SECONDS


def make(home: Path, caller: str = "shop", *scopes: Scope) -> str:
    return f"Bearer {add_key(keys_path(home), caller, scopes or ('decide',), NOW)[0]}"


def test_a_key_names_its_caller_within_its_scopes(tmp_path: Path) -> None:
    header = make(tmp_path, "shop", "decide", "explain")
    door = Door(tmp_path)
    assert door.answers(header) == "shop"
    assert door.answers(header, "explain") == "shop"
    assert door.answers(header, "feedback") == 403
    assert door.answers(header, "admin") == 403
    assert door.answers(header.replace("Bearer", "bearer")) == "shop"


def test_anything_but_the_very_key_is_refused(tmp_path: Path) -> None:
    header = make(tmp_path)
    door = Door(tmp_path)
    other = "A" if header[-1] != "A" else "B"
    for wrong in (
        None, "", "Bearer", "Bearer ", header[:-1] + other, header + "x", header[:-1], header.removeprefix("Bearer "),
        header.replace("Bearer", "Basic "), "Bearer fp_00000000_" + "A" * 43, header.replace("fp_", "fq_"),
        "Bearer " + "A" * 100_000, "Bearer \x00\x00", header.upper(),
    ):  # fmt: skip
        assert door.answers(wrong) == 401, wrong


def test_without_keys_loopback_lets_everybody_in_and_nothing_else_lets_anybody_in(tmp_path: Path) -> None:
    assert Door(tmp_path, loopback=True).answers(None, "admin") == "default"
    assert not Door(tmp_path, loopback=True).access.required
    assert Door(tmp_path).answers(None) == 401
    assert Door(tmp_path).access.required


def test_the_first_key_closes_the_door_and_revoking_the_last_does_not_open_it(tmp_path: Path) -> None:
    door = Door(tmp_path, loopback=True)
    header = make(tmp_path)
    assert door.answers(None) == "default"
    door.later()
    assert door.answers(None) == 401
    assert door.answers(header) == "shop"
    revoke_key(door.path, read_keys(door.path)[0].id, NOW)
    assert door.answers(header) == "shop"
    door.later()
    assert door.answers(header) == 401
    assert door.answers(None) == 401
    assert Door(tmp_path, loopback=True).answers(None) == 401


def test_a_key_is_changed_without_a_gap_and_without_another_caller(tmp_path: Path) -> None:
    old, new = make(tmp_path), make(tmp_path)
    door = Door(tmp_path)
    assert (door.answers(old), door.answers(new)) == ("shop", "shop")
    revoke_key(door.path, old.split("_")[1], NOW)
    door.later()
    assert (door.answers(old), door.answers(new)) == (401, "shop")


def test_a_file_that_goes_bad_or_away_leaves_its_keys_in_force_and_is_told_of(tmp_path: Path) -> None:
    header = make(tmp_path)
    door = Door(tmp_path, loopback=True)
    for damage in (lambda: door.path.write_text("{"), door.path.unlink):
        damage()
        door.failures.clear()
        door.later()
        assert door.answers(header) == "shop"
        assert door.answers(None) == 401
        assert len(door.failures) == 1
    again = make(tmp_path)
    door.later()
    assert (door.answers(header), door.answers(again)) == (401, "shop")


def test_keys_that_are_lost_leave_the_door_shut_until_somebody_opens_it(tmp_path: Path) -> None:
    token = run(tmp_path, "keys", "add", "shop", "--scope", "decide").splitlines()[-1]
    keys_path(tmp_path).unlink()
    door = Door(tmp_path, loopback=True)
    assert (door.answers(None), door.answers(f"Bearer {token}")) == (401, 401)
    assert door.access.required
    (told,) = door.failures
    assert "fraud-platform keys open" in str(told)
    # the whole folder gone is the same; a line that a crash cut off is none, and takes nothing with it
    shutil.rmtree(keys_path(tmp_path).parent)
    with (tmp_path / LEDGER).open("ab") as ledger:
        ledger.write(b'{"at": "2026-11-23T10:00:00+00:00", "what": "key", "to": {"id"')
    assert Door(tmp_path, loopback=True).answers(None) == 401


def test_who_opens_it_says_so_in_the_ledger_and_the_next_key_shuts_it_again(tmp_path: Path) -> None:
    run(tmp_path, "keys", "add", "shop", "--scope", "decide")
    assert "holds keys" in run(tmp_path, "keys", "open", "--why", "a demo", code=1)
    keys_path(tmp_path).unlink()
    assert "next start" in run(tmp_path, "keys", "open", "--why", "a demo")
    (line,) = [entry for entry in read_ledger(tmp_path) if entry["to"]["state"] == "opened"]
    assert (line["why"], line["to"]["caller"]) == ("a demo", "default")
    assert Door(tmp_path, loopback=True).answers(None) == "default"
    # a service that others reach is never open
    assert Door(tmp_path).answers(None) == 401
    run(tmp_path, "keys", "add", "shop", "--scope", "decide")
    keys_path(tmp_path).unlink()
    assert Door(tmp_path, loopback=True).answers(None) == 401


def test_the_ledger_is_where_the_door_looks_for_it(tmp_path: Path) -> None:
    assert ledger_file(tmp_path) == tmp_path / LEDGER


def test_the_door_asks_nothing_of_a_store_but_its_interface() -> None:
    class Database:
        made_before = Made(frozenset(), opened=False)
        number = 0

        def state(self) -> Hashable | None:
            return self.number or None

        def keys(self) -> tuple[ApiKey, ...]:
            return ()

        def made(self) -> Made:
            return self.made_before

    store, failures = Database(), []

    def door() -> Access:
        return Access.load(store, loopback=True, failed=failures.append)

    assert door().check(None, "decide") == "default"
    store.made_before = Made(frozenset({"shop"}), opened=False)
    with pytest.raises(Problem):
        door().check(None, "decide")
    assert len(failures) == 1


@pytest.mark.parametrize(("field", "value"), [("caller", "a:b"), ("caller", "shop\n"), ("id", ""), ("id", "0" * 9)])
def test_a_name_that_no_command_would_give_stops_the_start(tmp_path: Path, field: str, value: str) -> None:
    make(tmp_path)
    document = json.loads(keys_path(tmp_path).read_text())
    document["keys"][0][field] = value
    keys_path(tmp_path).write_text(json.dumps(document))
    with pytest.raises(KeysError, match=field):
        Door(tmp_path)


def test_two_keys_of_one_id_stop_the_start(tmp_path: Path) -> None:
    make(tmp_path)
    document = json.loads(keys_path(tmp_path).read_text())
    document["keys"] *= 2
    keys_path(tmp_path).write_text(json.dumps(document))
    with pytest.raises(KeysError, match="two keys with the same id"):
        Door(tmp_path)


def test_a_bad_file_stops_the_start_and_says_which(tmp_path: Path) -> None:
    path = keys_path(tmp_path)
    make(tmp_path)
    path.write_text(re.sub(r'"sha256": ".', '"sha256": "x', path.read_text()))
    with pytest.raises(KeysError, match=r"keys\.json"):
        Door(tmp_path)


def test_the_disk_holds_no_key_and_nobody_else_may_read_it(tmp_path: Path) -> None:
    token = make(tmp_path).removeprefix("Bearer ")
    path = keys_path(tmp_path)
    assert token.split("_", 2)[2] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(token.split("_", 2)[2]) == 43


@pytest.mark.parametrize("name", ["a:b", "", "a b", "-a", "x" * 65, "a/b", "é"])
def test_a_caller_s_name_can_stand_in_a_key_of_redis_and_in_a_log(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeysError, match="not a name for a caller"):
        add_key(keys_path(tmp_path), name, ("decide",), NOW)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("10.0.0.1", False), ("localhost.example", False)],
)  # fmt: skip
def test_loopback_is_what_the_machine_alone_can_reach(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_a_check_is_cheap_enough_for_every_request(tmp_path: Path) -> None:
    header = make(tmp_path).encode()
    access = Access.load(KeyFile(tmp_path), loopback=False, failed=lambda error: None)
    best = min(_seconds(access, header) for _ in range(20))
    assert best < 10e-6, f"{best * 1e6:.2f} µs"  # 1 µs on a quiet machine; the slack is for a busy one


def _seconds(access: Access, header: bytes, times: int = 1_000) -> float:
    started = time.perf_counter()
    for _ in range(times):
        access.check(header, "decide")
    return (time.perf_counter() - started) / times


def run(home: Path, *arguments: str, code: int = 0) -> str:
    begin_home(home)
    environment = {"COLUMNS": "200", "NO_COLOR": "1", "FRAUD_HOME": str(home)}
    result = CliRunner().invoke(app, list(arguments), env=environment)
    assert result.exit_code == code, result.output
    return result.output


def test_the_command_line_makes_lists_and_revokes(tmp_path: Path) -> None:
    token = re.search(r"fp_[0-9a-f]{8}_\S+", run(tmp_path, "keys", "add", "shop", "--scope", "decide"))
    assert token is not None
    door = Door(tmp_path)
    assert door.answers(f"Bearer {token[0]}") == "shop"
    key_id = token[0].split("_")[1]
    listed = run(tmp_path, "keys", "list")
    assert key_id in listed
    assert "shop" in listed
    assert token[0] not in listed
    assert f"the revocation of key {key_id} of shop is kept" in run(
        tmp_path, "keys", "revoke", key_id, code=NOT_CONFIRMED
    )
    door.later()
    assert door.answers(f"Bearer {token[0]}") == 401
    assert "has no key" in run(tmp_path, "keys", "revoke", "nothing", code=1)
    assert "not a name for a caller" in run(tmp_path, "keys", "add", "a:b", "--scope", "decide", code=1)
    run(tmp_path, "keys", "add", "shop", "--scope", "everything", code=2)
