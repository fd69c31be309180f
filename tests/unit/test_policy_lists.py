"""Lists of the policy: whom an entry means, how loosely it matches, and that a decision names the entry."""

import json
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fraud_platform.audit.again import decide_again
from fraud_platform.decision.policy import Policy, decide
from fraud_platform.decision.policy_change import begin_policy, change_policy, parse_change
from fraud_platform.decision.policy_record import Entry, PolicyRecord, keep, put_in_force, read_policy
from fraud_platform.decision.request import InvalidRequest, parse_payment
from fraud_platform.decision.rules import FallbackRules
from fraud_platform.settings import Settings
from tests.engine_kit import NOW, World, body

AT = datetime(2026, 11, 23, 10, tzinfo=UTC)
NAME = "Zoë-Kart"
EVASIONS = {
    "trailing space": f"{NAME} ",
    "NFD": unicodedata.normalize("NFD", NAME),
    "zero width": "Z\u200boë-Kart",
    "joiner behind": f"{NAME}\u2060",
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    for explainer in world.explainers:
        explainer.close()


def change(settings: Settings, **fields: Any) -> PolicyRecord:
    return change_policy(settings, parse_change(json.dumps({"why": "a mule", **fields}).encode()), "ann", AT)


def decided(record: PolicyRecord, **fields: Any) -> tuple[str, str]:
    return decide(record.compiled(), 0.1, parse_payment(body(**fields), "EUR"), 4250, 2, NOW)


@pytest.mark.parametrize("spelled", EVASIONS.values(), ids=EVASIONS)
@pytest.mark.parametrize("kind", ["user", "merchant", "device"])
def test_no_spelling_evades_a_block_and_none_has_to_be_guessed(settings: Settings, kind: str, spelled: str) -> None:
    for listed, paid in ((NAME, spelled), (spelled, NAME)):
        entry = {"kind": kind, "value": listed}
        record = change(settings, block_list_add=[entry])
        assert [each.value for each in record.block_list] == [NAME]
        assert decided(record, **{f"{kind}_id": paid}) == ("block", "block_list")
        assert decided(record, **{f"{kind}_id": "somebody"})[1] == "score_below_threshold"
        assert change(settings, block_list_add=[{"kind": kind, "value": paid}]).block_list == record.block_list
        assert change(settings, block_list_remove=[{"kind": kind, "value": paid}]).block_list == ()


@pytest.mark.parametrize(
    ("matching", "caught"),
    [("exact", set()), ("case", {"ZOË-KART"}), ("look_alikes", {"ZOË-KART", "Zоë‐Kаrt", "Ｚoë-Kart"})],
)
def test_case_and_look_alikes_are_a_setting_of_the_lists(settings: Settings, matching: str, caught: set[str]) -> None:
    change(settings, block_list_add=[{"kind": "user", "value": NAME}])
    if matching != "exact":
        assert change(settings, list_matching=matching).list_matching == matching
    record = read_policy(settings.home)
    assert record is not None
    tried = {"ZOË-KART", "Zоë‐Kаrt", "Ｚoë-Kart", "Zoe-Kart", "Zoë-Karl"}
    assert {user for user in tried if decided(record, user_id=user)[0] == "block"} == caught
    # what nobody lists is still two users to everything else
    assert parse_payment(body(user_id="ZOË-KART"), "EUR").user_id == "ZOË-KART"
    assert decided(record, user_id="somebody", country="DE")[1] == "score_below_threshold"


def test_an_id_is_on_one_list_alone_however_the_lists_match(settings: Settings) -> None:
    change(settings, list_matching="case", block_list_add=[{"kind": "user", "value": "u-1"}])
    with pytest.raises(InvalidRequest, match="other list"):
        change(settings, allow_list_add=[{"kind": "user", "value": "U-1 "}])
    # an entry is named by its own id: that of another, which the list takes for the same, removes nothing
    with pytest.raises(InvalidRequest, match="not on the list"):
        change(settings, block_list_remove=[{"kind": "user", "value": "U-1"}])


def test_a_list_of_before_the_rule_goes_on_to_decide_and_is_replayed(settings: Settings) -> None:
    """Its entries stand as they were typed: they mean the id, and decide older records as they did."""
    first = begin_policy(settings, AT)
    entry = Entry(kind="user", value=f"{NAME} ", until=None, why="typed with a blank")
    record = msgspec.structs.replace(first, version=2, block_list=(entry,))
    keep(settings.home, record)
    put_in_force(settings.home, record)
    assert decided(record, user_id=NAME) == ("block", "block_list")
    older = msgspec.structs.replace(parse_payment(body(), "EUR"), user_id=f"{NAME} ")
    assert decide(record.compiled(), 0.1, older, 4250, 2, NOW) == ("block", "block_list")
    assert change(settings, block_list_remove=[{"kind": "user", "value": NAME}]).block_list == ()


def test_a_new_field_of_the_policy_is_written_only_where_it_is_set(settings: Settings) -> None:
    """The release before refuses fields that it does not know: it must go on to follow a kill switch."""
    change(settings, kill_switch="rules_only")
    assert b"list_matching" not in (settings.home / "policy" / "current.json").read_bytes()


async def test_the_answer_names_what_is_listed_and_the_explanation_the_entry(world: World, settings: Settings) -> None:
    end = (datetime.fromtimestamp(NOW / 1e6, UTC) + timedelta(days=1)).isoformat()
    record = change(settings, list_matching="case", block_list_add=[{"kind": "device", "value": "D-881", "until": end}])
    engine = world.engine(0.1)
    engine.policy = record.compiled()
    answer = json.loads((await engine.decide(body(device_id="d-881"), "shop")).body)
    assert (answer["reason"], answer["listed"]) == ("block_list", "device")
    assert "D-881" not in json.dumps(answer)
    assert "mule" not in json.dumps(answer)
    assert world.recorder.records[-1].listed == "device"
    entry = {
        "list": "block_list", "kind": "device", "value": "D-881", "until": "2026-11-24T10:00:00Z", "why": "a mule",
        "policy_version": record.version,
    }  # fmt: skip
    entry["until"] = datetime.fromisoformat(end).isoformat().replace("+00:00", "Z")
    for asked in (b'{"transaction_id": "t-1"}', body(transaction_id="what-if", device_id="d-881")):
        assert json.loads((await engine.explain(asked, "shop")).body)["listed"] == entry
    # a payment that no list decided says nothing of lists, nor does one whose policy is not kept any more
    other = json.loads((await engine.decide(body(transaction_id="t-2", device_id="d-2"), "shop")).body)
    assert "listed" not in other
    assert "listed" not in json.loads((await engine.explain(b'{"transaction_id": "t-2"}', "shop")).body)
    (settings.home / "policy" / f"{record.version}.json").unlink()
    assert "listed" not in json.loads((await engine.explain(b'{"transaction_id": "t-1"}', "shop")).body)


async def test_what_rules_only_decided_is_replayed_under_the_name_that_it_had(world: World) -> None:
    engine = world.engine(0.9)
    engine.policy = policy = Policy(0.7, 0.4, 4, kill_switch="rules_only")
    await engine.decide(body(), "shop")
    now = world.recorder.records[-1]
    before = msgspec.structs.replace(now, schema_version=2)

    def again(record: Any) -> str:
        return decide_again(record, None, policy, FallbackRules(), 2, 0)[1]

    assert (now.reason, again(now), again(before)) == (
        "kill_switch_rules_only", "kill_switch_rules_only", "service_unavailable_fallback",
    )  # fmt: skip
    # where nothing is switched the reason keeps its name
    engine.policy = Policy(0.7, 0.4, 5)
    engine.model = None
    await engine.decide(body(transaction_id="t-2"), "shop")
    assert world.recorder.records[-1].reason == "service_unavailable_fallback"
