"""The circuit breaker's states, by a clock that the test turns."""

import pytest

from fraud_platform.decision.breaker import CircuitBreaker


class Clock:
    """Seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def opened(clock: Clock) -> CircuitBreaker:
    breaker = CircuitBreaker("redis", clock)
    for _ in range(5):
        assert breaker.allow()
        breaker.failed()
    return breaker


def test_it_opens_at_the_fifth_failure_in_a_row(clock: Clock) -> None:
    breaker = CircuitBreaker("redis", clock)
    for _ in range(4):
        breaker.failed()
    assert (breaker.allow(), breaker.state) == (True, "closed")
    breaker.failed()
    assert (breaker.allow(), breaker.state) == (False, "open")


def test_a_success_in_between_begins_the_count_anew(clock: Clock) -> None:
    breaker = CircuitBreaker("redis", clock)
    for _ in range(3):
        for _ in range(4):
            breaker.failed()
        breaker.succeeded()
    assert breaker.state == "closed"


def test_open_it_lets_one_probe_through_per_pause(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now += 0.99
    assert not breaker.allow()
    clock.now += 0.02
    assert [breaker.allow() for _ in range(10)] == [True] + [False] * 9
    assert breaker.state == "half_open"


def test_a_probe_that_succeeds_closes_it(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now += 1.01
    assert breaker.allow()
    breaker.succeeded()
    assert (breaker.state, breaker.allow(), breaker.allow()) == ("closed", True, True)


def test_a_probe_that_fails_opens_it_for_another_pause(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now += 1.01
    assert breaker.allow()
    breaker.failed()
    assert (breaker.state, breaker.allow()) == ("open", False)
    clock.now += 1.01
    assert breaker.allow()


def test_a_probe_whose_outcome_nobody_reports_does_not_keep_it_open_for_good(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now += 1.01
    assert breaker.allow()
    clock.now += 1.01
    assert breaker.allow()


@pytest.mark.parametrize("wrong", [{"failures": 0}, {"pause": 0}])
def test_limits_that_mean_nothing_are_refused(clock: Clock, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="breaker"):
        CircuitBreaker("redis", clock, **wrong)  # type: ignore[arg-type]
