"""The process beside the service that carries decisions from the spool into the lake, and shows the platform's metrics.

What belongs here: threads, locks, pauses after failures. What does not: what shipper, consumer and exporter do. A bank
runs the shipper beside each service, and one consumer and one exporter for all; on one machine one process does it all.
"""

import fcntl
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import Literal

from fraud_platform.clock import machine_clock
from fraud_platform.decision.faults import FaultLog
from fraud_platform.inference_log.broker import BrokerError, broker_name, open_producer, open_source
from fraud_platform.inference_log.consumer import Consumer
from fraud_platform.inference_log.metrics import LogMetrics
from fraud_platform.inference_log.shipper import AUDIT_US, Shipper, waiting_bytes
from fraud_platform.inference_log.spool import spool_root
from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import open_lake
from fraud_platform.logs import set_up_logs
from fraud_platform.monitoring.exporter import Exporter
from fraud_platform.settings import Settings

logger = logging.getLogger("fraud_platform.inference_log")

Part = Literal["ship", "consume", "measure"]
PARTS: tuple[Part, ...] = ("ship", "consume", "measure")

_SHIP_SECONDS = 0.2
_READ_SECONDS = 0.5
_LAG_SECONDS = 5.0
_PAUSE_SECONDS = 1.0
_MEASURE_SECONDS = 15.0
_LOCK_SECONDS = 5.0


class AlreadyDoneError(RuntimeError):
    """Another process of this home has this part."""


@contextmanager
def holding(settings: Settings, part: Part) -> Iterator[None]:
    """Be the only one of this home that does this part; the lock goes with its holder. Raises AlreadyDoneError."""
    folder = spool_root(settings.home)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{part}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyDoneError(f"another process of {settings.home} does this already: {part}") from None
        yield


def make_shipper(settings: Settings, failed: Callable[[str, BaseException], None], audit_us: int = AUDIT_US) -> Shipper:
    """The shipper of these settings."""
    return Shipper(
        settings.home,
        open_producer(settings),
        LogTable(open_lake(settings)),
        broker_name(settings),
        clock=machine_clock,
        failed=failed,
        fsync_us=settings.spool_fsync_ms * 1_000,
        audit_us=audit_us,
    )


def make_consumer(settings: Settings, failed: Callable[[str, BaseException], None]) -> Consumer:
    """The consumer of these settings."""
    # the homes' locks see to it that this name has one bearer
    table = LogTable(open_lake(settings), writer=f"{socket.gethostname()}:{settings.home.absolute()}")
    return Consumer(broker_name(settings), open_source(settings), table, clock=machine_clock, failed=failed)


def run(settings: Settings, parts: tuple[Part, ...], stop: threading.Event) -> None:
    """Do these parts until `stop` is set, then finish what is under way. Raises AlreadyDoneError."""
    set_up_logs(settings.log_format)
    metrics = LogMetrics(settings.log_port, settings.bind_host)
    faults = FaultLog(machine_clock, metrics.failed)
    work = {"ship": _ship, "consume": _consume, "measure": _measure}
    errors: list[Exception] = []

    def thread(part: Part) -> None:
        try:
            work[part](settings, stop, metrics, faults)
        except Exception as error:  # noqa: BLE001 - the process ends with it rather than doing half of its work
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=thread, args=(part,), name=part) for part in parts]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    if errors:
        raise errors[0]


def _ship(settings: Settings, stop: threading.Event, metrics: LogMetrics, faults: FaultLog) -> None:
    with _patiently(settings, "ship", stop):
        shipper = make_shipper(settings, faults.report)
        while True:
            last = stop.is_set()
            pause = _SHIP_SECONDS
            try:
                shipper.step()
            except (BrokerError, OSError) as error:
                faults.report("ship", error)
                pause = _PAUSE_SECONDS
            metrics.shipping(shipper)
            if last:
                break
            stop.wait(pause)
        shipper.close()


def _consume(settings: Settings, stop: threading.Event, metrics: LogMetrics, faults: FaultLog) -> None:
    with _patiently(settings, "consume", stop):
        consumer = make_consumer(settings, faults.report)
        looked_at = 0.0
        while not stop.is_set():
            try:
                consumer.step(_READ_SECONDS)
                if time.monotonic() - looked_at >= _LAG_SECONDS:
                    looked_at = time.monotonic()
                    consumer.look()
            except (BrokerError, OSError) as error:
                faults.report("consume", error)
                stop.wait(_PAUSE_SECONDS)
            metrics.consuming(consumer)
        try:
            consumer.close()
        except (BrokerError, OSError) as error:
            # nothing is lost: the next consumer reads it again
            faults.report("consume", error)


def _measure(settings: Settings, stop: threading.Event, metrics: LogMetrics, faults: FaultLog) -> None:
    """Show what the lake, the jobs, Redis and this home's processes say."""
    with _patiently(settings, "measure", stop):
        exporter = Exporter(settings, metrics.registry, faults.report)
        while not stop.is_set():
            exporter.step()
            stop.wait(_MEASURE_SECONDS)


@contextmanager
def _patiently(settings: Settings, part: Part, stop: threading.Event) -> Iterator[None]:
    """`holding`, after waiting a little for a predecessor that is ending."""
    until = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            with holding(settings, part):
                yield
            return
        except AlreadyDoneError:
            if time.monotonic() >= until or stop.wait(0.2):
                raise


def drain(settings: Settings, seconds: float) -> bool:
    """Wait until the lake has every decision of this home's spool; false when that takes longer than `seconds`.

    Whatever part no other process does is done here meanwhile.
    """
    until = time.monotonic() + seconds
    faults = FaultLog(machine_clock, lambda stage: None)
    with _ours(settings, "ship") as ships, _ours(settings, "consume") as consumes:
        shipper = make_shipper(settings, faults.report, audit_us=0) if ships else None
        consumer = make_consumer(settings, faults.report) if consumes else None
        while True:
            try:
                if shipper is not None:
                    shipper.step()
                if consumer is not None:
                    consumer.step(_READ_SECONDS)
                    consumer.commit()
                if waiting_bytes(settings.home) == 0 and _lag(settings) == 0:
                    if shipper is not None:
                        # what the lake has now is cut
                        shipper.step()
                    done = True
                    break
            except BrokerError as error:
                faults.report("drain", error)
            if time.monotonic() >= until:
                done = False
                break
            time.sleep(_SHIP_SECONDS)
        for each in (shipper, consumer):
            if each is not None:
                each.close()
    return done


@contextmanager
def _ours(settings: Settings, part: Part) -> Iterator[bool]:
    try:
        with holding(settings, part):
            yield True
    except AlreadyDoneError:
        yield False


@dataclass(frozen=True)
class Standing:
    """Where a home's decisions are."""

    waiting_bytes: int
    """Bytes of the spool that the broker does not have."""
    broker: str
    lag: int
    """Records in the broker that the lake does not have."""
    commits: int
    days: list[date]
    """Days of the lake that hold a decision, ascending."""


def log_standing(settings: Settings) -> Standing:
    """Where this home's decisions are. Raises BrokerError."""
    table = LogTable(open_lake(settings))
    waiting = waiting_bytes(settings.home)
    return Standing(waiting, broker_name(settings), _lag(settings), table.committed().number, table.days())


def _lag(settings: Settings) -> int:
    source = open_source(settings)
    try:
        source.seek(LogTable(open_lake(settings)).committed().offsets(broker_name(settings)))
        return source.lag()
    finally:
        source.close()
