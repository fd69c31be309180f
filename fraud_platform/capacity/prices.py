"""The price table: a YAML file, checked field by field.

What belongs here: its form and reading it. What does not: what is bought (`plan`).
"""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

SHIPPED = Path(__file__).parent / "prices.yaml"

_Positive = Annotated[float, Field(gt=0)]
_Count = Annotated[int, Field(ge=0)]


class PricesError(ValueError):
    """The price table does not fit; the message names file and field."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Machine(_Part):
    """What one machine costs and holds."""

    name: str
    usd_per_hour: _Positive
    vcpus: Annotated[int, Field(ge=1)]
    memory_gib: _Positive
    usable_gib: _Positive
    """Of its memory, what data may take."""


class Rules(_Part):
    """How much is bought beyond what is needed."""

    headroom: Annotated[float, Field(ge=1)]
    p99_ms: _Positive = 20
    """Of the service, at `headroom` times the peak."""
    min_service_instances: Annotated[int, Field(ge=1)]
    redis_replicas: _Count
    batch_instances: _Count
    spool_hours: _Positive


class Prices(_Part):
    """The whole table; money in US dollars."""

    currency: str
    hours_per_month: _Positive
    days_per_month: _Positive
    service: Machine
    redis: Machine
    postgres: Machine
    batch: Machine
    s3_usd_per_gb_month: _Positive
    service_disk_usd_per_gb_month: _Positive
    postgres_disk_usd_per_gb_month: _Positive
    rules: Rules

    def monthly(self, machine: Machine, count: int) -> float:
        """US dollars a month."""
        return machine.usd_per_hour * self.hours_per_month * count


def read_prices(path: Path = SHIPPED) -> Prices:
    """The table of a file. Raises PricesError."""
    import yaml

    try:
        return Prices.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PricesError(f"{path} cannot be read: {error}") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, part['loc']))}: {part['msg']}" for part in error.errors())
        raise PricesError(f"{path}: {problems}") from error
