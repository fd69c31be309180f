"""Where a home's decisions are: in its spool, in the broker, in the lake.

What belongs here: looking. What does not: carrying them on (`process`), what to do about a lag (`width`).
"""

from dataclasses import dataclass
from datetime import date

from fraud_platform.clock import machine_clock
from fraud_platform.inference_log.broker import broker_name, open_source
from fraud_platform.inference_log.shipper import waiting_bytes
from fraud_platform.inference_log.table import LogTable
from fraud_platform.inference_log.width import Look
from fraud_platform.lake import open_lake
from fraud_platform.settings import Settings


@dataclass(frozen=True)
class Standing:
    """Where a home's decisions are."""

    waiting_bytes: int
    """Bytes of the spool that the broker does not have."""
    broker: str
    lags: dict[str, int]
    """Records in the broker that the lake does not have, per partition."""
    look: Look | None
    """At the partitions of a broker that shares them out between consumers."""
    commits: int
    days: list[date]
    """Days of the lake that hold a decision, ascending."""

    @property
    def lag(self) -> int:
        """Records in the broker that the lake does not have."""
        return sum(self.lags.values())


def log_standing(settings: Settings) -> Standing:
    """Where this home's decisions are. Raises BrokerError."""
    table, name = LogTable(open_lake(settings)), broker_name(settings)
    waiting, last = waiting_bytes(settings.home), table.committed()
    offsets, source, look = last.offsets(name), open_source(settings), None
    try:
        lags = source.lag(offsets)
        if source.shares:
            ends = {p: offsets.get(p, 0) + behind for p, behind in lags.items()}
            owners = {p: at.owner for p, at in last.sources.get(name, {}).items() if at.owner}
            members = source.members()
            look = Look(machine_clock(), lags, ends, owners, len(set(owners.values())) if members is None else members)
    finally:
        source.close()
    return Standing(waiting, name, lags, look, last.number, table.days())
