"""The control store on a real PostgreSQL: one order of changes that nobody alters, homes that share the policy, and a
home of before that joins."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from control_kit import StoreServer, shared, store_server

from fraud_platform.control.listen import Listener
from fraud_platform.control.schema import prepare
from fraud_platform.control.store import ControlError, ControlStore, StoredChange
from fraud_platform.decision.policy import Policy
from fraud_platform.decision.policy_change import PolicyConflictError, begin_policy, change_policy, parse_change
from fraud_platform.decision.policy_control import follow, join, policy_in_force, refresh, standing
from fraud_platform.decision.policy_follow import PolicyFollower
from fraud_platform.decision.policy_record import PolicyRecord, current_file, folder, kept_versions, read_policy
from fraud_platform.erasure.names import Names
from fraud_platform.erasure.policies import count_words, take_off
from fraud_platform.model.ledger import ledger_file, read_ledger
from fraud_platform.settings import Settings

NOW = datetime(2026, 11, 24, 10, tzinfo=UTC)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    with store_server(tmp_path_factory.mktemp("store")) as started:
        yield started


@pytest.fixture
def homes(server: StoreServer, tmp_path: Path) -> tuple[Settings, Settings]:
    url = server.store()
    return shared(tmp_path / "one", url), shared(tmp_path / "two", url)


def url_of(settings: Settings) -> str:
    assert settings.control_url is not None
    return settings.control_url.get_secret_value()


def change(settings: Settings, who: str = "ann", now: datetime = NOW, **fields: Any) -> PolicyRecord:
    asked = {"why": "a test", **fields}
    return change_policy(settings, parse_change(json.dumps(asked, default=datetime.isoformat).encode()), who, now)


def told(settings: Settings) -> list[dict[str, Any]]:
    return [line for line in read_ledger(settings.home) if line["what"] == "policy"]


def stored(url: str) -> list[StoredChange]:
    with ControlStore.opened(url) as store:
        return list(store.since("policy", 0))


def files(home: Path) -> dict[str, bytes]:
    """A home's policy and ledger, as they lie there."""
    paths = [*folder(home).glob("*.json"), ledger_file(home)]
    return {path.name: path.read_bytes() for path in paths}


def test_tables_are_made_once_however_many_make_them_at_once(server: StoreServer) -> None:
    url = server.database()
    code = "import sys; from fraud_platform.control.schema import prepare; prepare(sys.argv[1])"
    preparing = [subprocess.Popen([sys.executable, "-c", code, url]) for _ in range(2)]
    assert [process.wait(60) for process in preparing] == [0, 0]
    assert not prepare(url)
    with ControlStore.opened(url) as store:
        assert store.newest("policy") == 0
        assert store.last("policy") is None


def test_a_database_without_a_store_says_what_makes_one(server: StoreServer, tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="control join"):
        begin_policy(shared(tmp_path, server.database()), NOW)
    assert not current_file(tmp_path).exists()


def test_whoever_may_not_make_tables_is_told_so(server: StoreServer) -> None:
    url = server.database()
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("CREATE ROLE stranger LOGIN")
    with pytest.raises(ControlError, match="permission denied"):
        prepare(url.replace("postgres@", "stranger@"))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE fraud_control.change SET line = '{}'",
        "DELETE FROM fraud_control.change WHERE seq = 1",
        "DELETE FROM fraud_control.change WHERE seq = 99",
        "TRUNCATE fraud_control.change",
    ],
)
def test_not_even_the_owner_alters_what_was_changed(homes: tuple[Settings, Settings], statement: str) -> None:
    change(homes[0], threshold=0.6)
    with psycopg.connect(url_of(homes[0])) as connection, pytest.raises(psycopg.errors.RaiseException, match="stays"):
        connection.execute(statement)
    assert [each.document["threshold"] for each in stored(url_of(homes[0]))] == [0.7, 0.6]


def test_a_role_that_was_let_in_follows_and_changes_and_can_do_nothing_else(
    server: StoreServer, tmp_path: Path
) -> None:
    url = server.store()
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("CREATE ROLE service LOGIN")
    prepare(url, ("service",))
    as_service = url.replace("postgres@", "service@")
    assert change(shared(tmp_path / "one", as_service), kill_switch="rules_only").version == 2
    assert policy_in_force(shared(tmp_path / "two", as_service), NOW).kill_switch == "rules_only"
    with ControlStore.opened(as_service) as store:
        store.tell("a worker", b'{"pid": 1}')
        assert store.workers() == [b'{"pid": 1}']
    for statement in (
        "UPDATE fraud_control.change SET seq = seq",
        "DELETE FROM fraud_control.change",
        "ALTER TABLE fraud_control.change DISABLE TRIGGER append_only",
        "UPDATE fraud_control.words SET text = ''",
        "DELETE FROM fraud_control.words",
        "UPDATE fraud_control.store SET id = gen_random_uuid()",
        "CREATE TABLE fraud_control.mine ()",
    ):
        with psycopg.connect(as_service) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)


def test_two_homes_begin_with_one_policy_and_each_has_what_the_other_changes(homes: tuple[Settings, Settings]) -> None:
    one, two = homes
    with ThreadPoolExecutor(2) as threads:
        first = list(threads.map(lambda settings: begin_policy(settings, NOW), homes))
    assert first[0] == first[1]
    change(one, kill_switch="rules_only")
    entry = {"kind": "user", "value": "u-1", "until": NOW + timedelta(days=1)}
    changed = change(two, "bob", block_list_add=[entry], threshold=0.55)
    assert (changed.version, changed.kill_switch, changed.threshold) == (3, "rules_only", 0.55)
    refresh(one)
    assert read_policy(one.home) == read_policy(two.home) == changed
    assert kept_versions(one.home) == kept_versions(two.home) == [1, 2, 3]
    assert told(one) == told(two)
    assert [(line["who"], line["to"]["version"]) for line in told(one)] == [("first use", 1), ("ann", 2), ("bob", 3)]
    before = files(one.home)
    refresh(one)
    assert files(one.home) == before


def test_a_long_history_comes_whole_and_in_order(server: StoreServer) -> None:
    url = server.store()
    with ControlStore.opened(url) as store:
        with store.changing():
            for number in range(1, 251):
                store.add("even" if number % 2 == 0 else "odd", {"number": number, "why": f"{number}"}, {}, NOW)
        assert [(change.seq, change.document["why"]) for change in store.since("odd", 3)] == [
            (number, f"{number}") for number in range(5, 251, 2)
        ]
        assert len(list(store.since("even", 0))) == 125
        assert (store.newest("odd"), store.newest("even"), store.newest("none")) == (249, 250, 0)


def add_and_fail(store: ControlStore) -> None:
    store.add("policy", {}, {}, NOW)
    store.connection.execute("INSERT INTO fraud_control.store VALUES (false)")


def test_a_change_that_fails_leaves_nothing(server: StoreServer) -> None:
    with ControlStore.opened(server.store()) as store:
        with pytest.raises(psycopg.errors.CheckViolation), store.changing():
            add_and_fail(store)
        assert store.newest("policy") == 0


def test_changes_of_many_at_once_come_in_one_order_that_every_ledger_shows(homes: tuple[Settings, Settings]) -> None:
    one, two = homes
    begin_policy(one, NOW)

    def listed(number: int) -> int:
        settings = homes[number % 2]
        return change(settings, f"p{number}", block_list_add=[{"kind": "user", "value": f"u-{number}"}]).version

    with ThreadPoolExecutor(8) as threads:
        versions = list(threads.map(listed, range(24)))
    assert sorted(versions) == list(range(2, 26))
    for settings in homes:
        refresh(settings)
        record = policy_in_force(settings, NOW)
        assert {entry.value for entry in record.block_list} == {f"u-{number}" for number in range(24)}
        lines = told(settings)
        assert [line["to"]["version"] for line in lines] == list(range(1, 26))
        assert [line["from"]["version"] for line in lines[1:]] == list(range(1, 25))
    assert told(one) == told(two)
    assert [each.seq for each in stored(url_of(one))] == list(range(1, 26))


def test_who_has_looked_at_an_older_policy_is_refused_in_the_other_home_too(homes: tuple[Settings, Settings]) -> None:
    one, two = homes
    assert begin_policy(two, NOW).version == 1
    change(one, threshold=0.6)
    with pytest.raises(PolicyConflictError, match="version 2, not 1"):
        change(two, threshold=0.65, expected_version=1)
    assert policy_in_force(two, NOW).threshold == 0.6


def test_while_the_store_is_away_nothing_changes_and_the_copy_is_in_force(
    server: StoreServer, homes: tuple[Settings, Settings]
) -> None:
    one, _ = homes
    made = change(one, threshold=0.6)
    before = files(one.home)
    away = one.model_copy(update={"control_url": shared(one.home, "postgresql://127.0.0.1:1/none").control_url})
    with pytest.raises(ControlError, match="FRAUD_CONTROL_URL"):
        change(away, threshold=0.5)
    assert policy_in_force(away, NOW) == made
    with server.paused():
        began = time.monotonic()
        with pytest.raises(ControlError):
            change(one, threshold=0.5)
        assert time.monotonic() - began < 15, "one that hangs is waited for no longer than one that is away"
    assert files(one.home) == before
    assert len(stored(url_of(one))) == 2


def test_what_was_acknowledged_outlives_the_store_s_death(
    server: StoreServer, homes: tuple[Settings, Settings]
) -> None:
    one, two = homes
    begin_policy(one, NOW)
    made = [change(one, threshold=0.6 + number / 100).version for number in range(3)]
    server.kill()
    server.start()
    refresh(two)
    assert kept_versions(two.home) == [1, *made]
    assert policy_in_force(two, NOW) == read_policy(one.home)


def test_a_home_that_was_killed_between_store_and_files_is_completed(
    homes: tuple[Settings, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = homes
    begin_policy(one, NOW)
    before = files(one.home)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    for number, function in enumerate(("keep", "append_lines", "note_reached", "put_in_force")):
        with monkeypatch.context() as patched:
            patched.setattr(f"fraud_platform.decision.policy_control.{function}", killed)
            with pytest.raises(KeyboardInterrupt):
                change(one, threshold=0.6 + number / 100)
        if function == "keep":
            assert files(one.home) == before
        refresh(one)
        record = read_policy(one.home)
        assert record is not None
        assert (record.version, record.threshold) == (2 + number, 0.6 + number / 100)
        assert [line["to"]["version"] for line in told(one)] == list(range(1, 3 + number)), function


def test_a_home_of_before_is_taken_over_once_and_its_files_stay(server: StoreServer, tmp_path: Path) -> None:
    alone = Settings(home=tmp_path / "old")
    change(alone, threshold=0.6)
    change(alone, "bob", block_list_add=[{"kind": "device", "value": "d-1"}])
    before = files(alone.home)
    url = server.store()
    old = shared(alone.home, url)
    assert join(old) == ["the control store has 3 change(s) of the policy from this home now"]
    assert join(old) == []
    assert files(old.home) == before
    new = shared(tmp_path / "new", url)
    assert join(new) == ["this home has 3 version(s) of the policy from the control store now"]
    assert files(new.home) == before, "the ledger's lines of the policy too"
    assert read_policy(new.home) == read_policy(old.home)
    found = standing(new)
    assert (found.there, found.here, found.changes) == (3, 3, 3)


def test_a_home_whose_policy_is_announced_by_no_line_is_taken_over_as_it_is_in_force(
    server: StoreServer, tmp_path: Path
) -> None:
    alone = Settings(home=tmp_path / "old")
    change(alone, threshold=0.6)
    ledger_file(alone.home).unlink()
    url = server.store()
    join(shared(alone.home, url))
    assert policy_in_force(shared(tmp_path / "new", url), NOW) == read_policy(alone.home)
    (line,) = told(shared(tmp_path / "new", url))
    assert (line["who"], line["to"]) == ("control join", {"version": 2})


def test_a_home_with_a_policy_of_its_own_is_refused_and_left_alone(
    homes: tuple[Settings, Settings], tmp_path: Path
) -> None:
    change(homes[0], threshold=0.6)
    alone = Settings(home=tmp_path / "another bank")
    change(alone, threshold=0.8)
    before = files(alone.home)
    with pytest.raises(ControlError, match="policy 2 of this home is not policy 2 of the control store"):
        join(shared(alone.home, url_of(homes[0])))
    assert files(alone.home) == before
    assert len(stored(url_of(homes[0]))) == 2


def test_a_store_that_was_lost_gets_everything_back_from_a_home(
    server: StoreServer, homes: tuple[Settings, Settings]
) -> None:
    one, _ = homes
    begin_policy(one, NOW)
    change(one, threshold=0.6)
    history = stored(url_of(one))
    another = shared(one.home, server.store())
    change(another, threshold=0.65)
    assert stored(url_of(another))[:2] == history
    assert policy_in_force(another, NOW).version == 3


def test_a_store_that_was_restored_from_before_is_noticed(homes: tuple[Settings, Settings]) -> None:
    one, _ = homes
    change(one, threshold=0.6)
    url = url_of(one)
    with psycopg.connect(url) as owner:
        owner.execute("ALTER TABLE fraud_control.change DISABLE TRIGGER append_only")
        owner.execute("DELETE FROM fraud_control.change WHERE seq = 2")
    with pytest.raises(ControlError, match="behind this home"):
        change(one, threshold=0.5)
    (one.home / "control" / "policy.json").unlink()
    assert join(one) == ["the control store has 1 change(s) of the policy from this home now"]
    assert policy_in_force(one, NOW).threshold == 0.6


@pytest.mark.parametrize("how", ["cut off", "by hand", "of before", "gone", "another key"])
def test_a_copy_that_is_not_what_the_store_said_decides_nothing_and_is_put_back(
    homes: tuple[Settings, Settings], how: str
) -> None:
    one, _ = homes
    made = change(one, threshold=0.6)
    path, good = current_file(one.home), current_file(one.home).read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "another key":
        (one.home / "control" / "key").write_bytes(b"0" * 32)
    else:
        first = (folder(one.home) / "1.json").read_bytes()
        changed = {"cut off": good[:40], "by hand": good.replace(b"0.6,", b"0.9,"), "of before": first}[how]
        assert changed != good
        path.write_bytes(changed)
    away = one.model_copy(update={"control_url": shared(one.home, "postgresql://127.0.0.1:1/none").control_url})
    assert begun(away).version == 0, "the settings' numbers, by which a service is not ready"
    assert begun(one) == made.compiled()
    assert path.read_bytes() == good
    assert begun(away) == made.compiled()
    assert join(one) == []


def begun(settings: Settings) -> Policy:
    """What a worker that starts decides by."""
    return PolicyFollower(settings, lambda _: None, lambda *_: None, lambda: 1_000_000).begin()


def test_a_home_s_key_is_for_its_user_alone_and_no_two_homes_have_one(homes: tuple[Settings, Settings]) -> None:
    for settings in homes:
        begin_policy(settings, NOW)
    keys = [settings.home / "control" / "key" for settings in homes]
    assert [path.stat().st_mode & 0o777 for path in keys] == [0o600, 0o600]
    assert len({path.read_bytes() for path in keys}) == 2
    assert [len(path.read_bytes()) for path in keys] == [32, 32]


class Follower:
    """A listener that brings the policy into a home, with what it met."""

    def __init__(self, settings: Settings) -> None:
        self.failures: list[str] = []
        self.settings = settings
        self.listener = Listener(
            url_of(settings),
            lambda store: follow(settings, store),
            lambda: b'{"pid": 1}',
            lambda error: self.failures.append(str(error)),
        )

    def __enter__(self) -> "Follower":
        self.listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.end()
        assert not self.listener.is_alive()

    def seconds_to(self, version: int, most: float = 20.0) -> float:
        """How long until the home has a version in force."""
        began = time.monotonic()
        while (record := read_policy(self.settings.home)) is None or record.version != version:
            assert time.monotonic() - began < most, self.failures
            time.sleep(0.01)
        return time.monotonic() - began


def test_a_follower_is_told_at_once_polls_where_nobody_tells_and_survives_the_store(
    server: StoreServer, homes: tuple[Settings, Settings]
) -> None:
    one, two = homes
    begin_policy(one, NOW)
    with Follower(two) as follower:
        follower.seconds_to(1)
        version = change(one, threshold=0.6).version
        assert follower.seconds_to(version) < 1
        with psycopg.connect(url_of(one), autocommit=True) as admin:
            # as behind a pool that hands the connection to others
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fraud'")
        version = change(one, threshold=0.61).version
        assert follower.seconds_to(version) < 2
        server.kill()
        time.sleep(0.5)
        assert follower.failures
        assert not follower.listener.answers
        server.start()
        version = change(one, threshold=0.62).version
        assert follower.seconds_to(version) < 3
        good = current_file(two.home).read_bytes()
        current_file(two.home).write_bytes(good.replace(b"0.62", b"0.92"))
        time.sleep(1.5)
        assert current_file(two.home).read_bytes() == good, "what somebody has written by hand is put back"
        with server.paused():
            time.sleep(1)
            assert policy_in_force(two, NOW).version == version, "the copy is read while the store hangs"
        version = change(one, threshold=0.63).version
        assert follower.seconds_to(version) < 3
    with ControlStore.opened(url_of(one)) as store:
        assert store.workers() == [], "a worker that ends takes its note away"


def test_whoever_listens_where_no_notification_arrives_sees_a_change_by_polling(
    homes: tuple[Settings, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = homes
    begin_policy(one, NOW)
    monkeypatch.setattr("fraud_platform.control.listen.CHANNEL", "nobody_speaks_here")
    with Follower(two) as follower:
        follower.seconds_to(1)
        assert follower.seconds_to(change(one, threshold=0.6).version) < 1.5


def test_an_erasure_leaves_the_history_and_takes_the_person_out_of_it(homes: tuple[Settings, Settings]) -> None:
    one, two = homes
    listed = [{"kind": "user", "value": "user-4711"}, {"kind": "device", "value": "phone-4711"}]
    change(one, why="user-4711 is a mule", block_list_add=listed)
    change(one, why="another", block_list_add=[{"kind": "user", "value": "user-47110"}])
    with psycopg.connect(url_of(one)) as owner:
        history = owner.execute("SELECT seq, document, line FROM fraud_control.change ORDER BY seq").fetchall()
    assert "4711" not in str(history)
    names = Names("user-4711", devices=frozenset({"phone-4711"}))
    pseudonyms = {"user-4711": "erased-1", "phone-4711": "erased-2"}
    assert count_words(one, names) == 3
    take_off(one, names, pseudonyms, "ann", NOW)
    assert count_words(one, names) == 0
    record = policy_in_force(two, NOW)
    assert {entry.value for entry in record.block_list} == {"user-47110"}
    assert record.version == 4
    past = read_policy(two.home, 2)
    assert past is not None
    assert [(entry.value, entry.why) for entry in past.block_list] == [
        ("erased-1", "erased-1 is a mule"), ("erased-2", "erased-1 is a mule"),
    ]  # fmt: skip
    everything = b"".join(files(one.home).values()) + b"".join(files(two.home).values())
    assert b'user-4711"' not in everything
    assert b"phone-4711" not in everything
    with psycopg.connect(url_of(one)) as owner:
        after = owner.execute("SELECT seq, document, line FROM fraud_control.change ORDER BY seq").fetchall()
        kept = owner.execute("SELECT text FROM fraud_control.words").fetchall()
    assert after[: len(history)] == history
    assert not {("user-4711",), ("phone-4711",), ("user-4711 is a mule",)} & set(kept)
