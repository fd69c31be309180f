"""What people are told about the consumers of a topic, by two looks ten seconds apart."""

import pytest

from fraud_platform.inference_log.width import Look, advise, growth

TEN = 10_000_000


def look(at_us: int, lag: int, end: int, members: int = 2, partitions: int = 10, unread: int = 0) -> Look:
    """A lag and an end that each of the partitions has its share of."""
    names = [str(n) for n in range(partitions)]
    owners = {p: f"c{int(p) % max(members, 1)}" for p in names[unread:]} if members else {}
    lags, ends = (dict.fromkeys(names, total // max(partitions, 1)) for total in (lag, end))
    return Look(at_us, lags, ends, owners, members)


def told(first: tuple[int, int], second: tuple[int, int], **later: int) -> list[str]:
    return advise(look(0, *first), look(TEN, *second, **later))


def test_the_lag_of_each_partition_grows_or_falls_by_so_many_a_second() -> None:
    assert growth(look(0, 1_000, 0, partitions=2), look(TEN, 3_000, 0, partitions=2)) == {"0": 100.0, "1": 100.0}


@pytest.mark.parametrize(
    ("first", "second", "members", "line"),
    [
        # what waits for commits is no delay, however it happens to stand at the two looks
        ((0, 100_000), (0, 100_000), 2, "nothing: the consumers keep up"),
        ((1_000, 100_000), (6_000, 110_000), 2, "nothing: the consumers keep up"),
        ((6_000, 100_000), (1_000, 110_000), 2, "nothing: the consumers keep up"),
        (
            (100_000, 500_000), (112_000, 552_000), 2,
            "add a consumer: the lag grows by 1,200/s; 5,200/s arrive, a consumer takes 2,000/s",
        ),
        (
            (100_000, 500_000), (130_000, 550_000), 2,
            "add 3 consumers: the lag grows by 3,000/s; 5,000/s arrive, a consumer takes 1,000/s",
        ),
        # never more than there are partitions
        (
            (500_000, 500_000), (1_000_000, 1_020_000), 2,
            "add 8 consumers: the lag grows by 50,000/s; 52,000/s arrive, a consumer takes 1,000/s",
        ),
        (
            (100_000, 500_000), (112_000, 552_000), 10,
            "give the topic more partitions: the lag grows by 1,200/s, and more consumers than its 10 do nothing",
        ),
        ((112_000, 500_000), (100_000, 500_000), 2, "wait: the lag falls by 1,200/s and is gone in 83 s"),
        ((100_000, 500_000), (152_000, 552_000), 2, "look at the consumers' logs: they put nothing into the lake"),
        ((100_000, 500_000), (100_000, 500_000), 2, "look at the consumers' logs: they put nothing into the lake"),
        ((100_000, 500_000), (152_000, 552_000), 0, "start a consumer: nobody reads"),
        ((0, 500_000), (0, 500_000), 13, "end 3 of 13 consumers: they do nothing, the topic has 10 partitions"),
    ],
)  # fmt: skip
def test_what_to_do_is_said_with_its_figures(
    first: tuple[int, int], second: tuple[int, int], members: int, line: str
) -> None:
    assert told(first, second, members=members) == [line]


def test_a_partition_that_nobody_reads_yet_is_named_beside_the_rest() -> None:
    assert told((100_000, 500_000), (112_000, 552_000), members=2, unread=2) == [
        "look again in a minute: nobody reads 0, 1 yet",
        "add a consumer: the lag grows by 1,200/s; 5,200/s arrive, a consumer takes 2,000/s",
    ]


def test_a_topic_that_is_not_there_yet_needs_nothing_but_a_consumer() -> None:
    assert told((0, 0), (0, 0), partitions=0, members=1) == ["nothing: the consumers keep up"]
