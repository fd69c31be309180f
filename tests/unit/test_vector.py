"""Cold start and the vector's order: what a payment gets when little or nothing is known."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from fraud_platform.features.catalogue import CATALOGUE, MIN_TRANSACTIONS
from fraud_platform.features.request import assemble
from fraud_platform.features.vector import VectorBuilder
from fraud_platform.schema import Transaction

USERS, MERCHANTS = len(CATALOGUE.of("user")), len(CATALOGUE.of("merchant"))
BUILDER = VectorBuilder()
PAYMENT = Transaction(
    transaction_id="t", user_id="u", merchant_id="m", amount=4_200, event_time=1_774_785_600_000_000,
    received_at=1_774_785_600_000_000, country="DE", user_country="DE", channel="online", device_key=1,
)  # fmt: skip


@dataclass(frozen=True)
class Read:
    user_row: Any = None
    merchant_row: Any = None
    user_medians: Any = field(default_factory=lambda: np.arange(100, 100 + USERS, dtype=np.float32))
    merchant_medians: Any = field(default_factory=lambda: np.arange(200, 200 + MERCHANTS, dtype=np.float32))
    known_countries: Any = None
    known_devices: Any = None
    velocity: Any = field(default_factory=lambda: np.full(len(CATALOGUE.of("velocity")), np.nan))
    user_effective_time: int = 1_774_785_600_000_000
    last_effective_time: Any = None


def value(vector: np.ndarray, name: str) -> float:
    return float(vector[CATALOGUE.names.index(name)])


def a_user(count: int) -> np.ndarray:
    row = np.full(USERS, 7, np.float32)
    row[CATALOGUE.names.index("user_txn_count_90d")] = count
    return row


def test_the_catalogue_holds_fifty_distinct_features_in_contiguous_blocks() -> None:
    assert len(set(CATALOGUE.names)) == 50
    positions = [CATALOGUE.columns(source) for source in ("user", "merchant", "velocity", "request")]
    assert [p.start for p in positions] == [0, *(p.stop for p in positions[:-1])]
    assert positions[-1].stop == 50


def test_an_unknown_user_takes_medians_and_counts_nothing() -> None:
    vector = BUILDER.build(PAYMENT, Read())
    medians = Read().user_medians
    for position, feature in enumerate(CATALOGUE.of("user")):
        expected = medians[position] if feature.cold_start == "median" else 0.0
        assert value(vector, feature.name) == expected, feature.name
    assert value(vector, "amount_to_user_avg_30d") == np.float32(4_200 / value(vector, "user_amount_avg_30d"))


def test_the_fifth_transaction_makes_a_user_personal() -> None:
    cold = BUILDER.build(PAYMENT, Read(user_row=a_user(MIN_TRANSACTIONS - 1)))
    personal = BUILDER.build(PAYMENT, Read(user_row=a_user(MIN_TRANSACTIONS)))
    assert value(cold, "user_amount_avg_30d") == Read().user_medians[CATALOGUE.names.index("user_amount_avg_30d")]
    assert value(cold, "user_txn_count_90d") == MIN_TRANSACTIONS - 1, "counts are never replaced"
    assert value(personal, "user_amount_avg_30d") == 7


def test_a_personal_users_missing_value_stays_missing() -> None:
    row = a_user(9)
    row[CATALOGUE.names.index("user_amount_avg_7d")] = np.nan
    assert np.isnan(value(BUILDER.build(PAYMENT, Read(user_row=row)), "user_amount_avg_7d"))


def test_a_missing_optional_field_gives_null_and_nothing_else_changes() -> None:
    read = Read(user_row=a_user(9), known_countries=frozenset({"DE"}), known_devices=frozenset({2}))
    full = BUILDER.build(PAYMENT, read)
    bare = BUILDER.build(
        Transaction(
            transaction_id="t", user_id="u", merchant_id="m", amount=4_200,
            event_time=PAYMENT.event_time, received_at=PAYMENT.received_at,
        ),
        read,
    )  # fmt: skip
    changed = {
        name for name, a, b in zip(CATALOGUE.names, full, bare, strict=True) if a != b and not (a != a and b != b)
    }
    assert changed == {"is_online", "country_mismatch", "country_is_new", "device_is_new"}
    assert all(np.isnan(value(bare, name)) for name in changed)
    assert (value(full, "country_is_new"), value(full, "device_is_new")) == (0.0, 1.0)


def test_velocity_is_never_defaulted() -> None:
    vector = BUILDER.build(PAYMENT, Read())
    assert np.isnan(vector[CATALOGUE.columns("velocity")]).all()
    counted = replace(Read(), velocity=np.arange(11, dtype=np.float64))
    assert BUILDER.build(PAYMENT, counted)[CATALOGUE.columns("velocity")].tolist() == list(range(11))


def test_a_zero_habit_divides_to_null() -> None:
    row = a_user(9)
    row[CATALOGUE.names.index("user_amount_avg_30d")] = 0
    assert np.isnan(value(BUILDER.build(PAYMENT, Read(user_row=row)), "amount_to_user_avg_30d"))


def test_an_array_from_redis_needs_no_other_code_than_one_of_the_lake() -> None:
    """Rows from Redis are read-only views; a signature of their own would make a live payment wait for the compiler."""
    from fraud_platform.features.request import assemble

    read_only = np.frombuffer(a_user(9).tobytes(), np.float32)
    assert not read_only.flags.writeable
    np.testing.assert_array_equal(
        BUILDER.build(PAYMENT, Read(user_row=read_only)), BUILDER.build(PAYMENT, Read(user_row=a_user(9)))
    )
    BUILDER.build(PAYMENT, Read())
    assert len(assemble.signatures) == 1


def test_a_block_of_another_width_is_refused_before_memory_is_touched() -> None:
    wide, narrow = np.zeros(USERS + 1, np.float32), np.zeros(MERCHANTS - 1, np.float32)
    for read in (
        Read(user_row=wide),
        Read(user_row=wide, user_medians=wide),
        Read(user_medians=np.zeros(1, np.float32)),
        Read(user_row=np.zeros(0, np.float32), user_medians=np.zeros(0, np.float32)),
        Read(merchant_row=narrow),
        Read(merchant_medians=narrow),
        Read(user_row=wide, user_medians=wide, merchant_row=narrow, merchant_medians=narrow),
        Read(velocity=np.zeros(10)),
        Read(velocity=np.zeros(100)),
    ):
        with pytest.raises(ValueError, match="other widths than their features"):
            BUILDER.build(PAYMENT, read)


def test_blocks_of_other_lengths_and_plans_beyond_their_rows_are_refused() -> None:
    def arguments(rows: int = 3, **changes: Any) -> dict[str, Any]:
        plan = (0, np.array([1]), np.array([0]))
        given = {
            "out": np.empty((rows, 4 + 12), np.float32),
            "users": np.zeros((rows, 2), np.float32), "user_medians": np.zeros((rows, 2), np.float32),
            "user_plan": plan,
            "merchants": np.zeros((rows, 1), np.float32), "merchant_medians": np.zeros((rows, 1), np.float32),
            "merchant_plan": (0, np.array([0]), np.array([0])),
            "velocity": np.zeros((rows, 1)), "inputs": np.zeros((rows, 7)), "event_time": np.zeros(rows, np.int64),
            "personal": np.array([0, 1, 1, 0, 2]), "minimum": 5, "day": 86_400_000_000, "hour": 3_600_000_000,
        }  # fmt: skip
        return given | changes

    assemble(*arguments().values())
    short = np.zeros((2, 2), np.float32)
    for name, value in (
        ("users", short), ("user_medians", short), ("merchants", short[:, :1].copy()), ("velocity", np.zeros((2, 1))),
        ("inputs", np.zeros((2, 7))), ("event_time", np.zeros(2, np.int64)), ("inputs", np.zeros((3, 6))),
        ("user_plan", (2, np.array([1]), np.array([0]))), ("user_plan", (0, np.array([2]), np.array([0]))),
        ("user_plan", (0, np.array([-1]), np.array([0]))), ("merchant_plan", (0, np.array([0]), np.array([1]))),
        ("personal", np.array([0, 1, 1, 0, 3])), ("personal", np.array([0, 1])),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="the blocks of the vectors"):
            assemble(*arguments(**{name: value}).values())
