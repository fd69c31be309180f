"""The mapping file: how somebody's export becomes our schema, as a checked model of its YAML.

What belongs here: the keys, their types and the messages for a file that does not fit them. What does not: reading the
data it points at (readers) or evaluating its expressions (normalize).
"""

import os
import re
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fraud_platform.callers import CALLER, DEFAULT_CALLER
from fraud_platform.channels import CHANNELS
from fraud_platform.currency import UnknownCurrency, exponent

Format = Literal["parquet", "csv", "jsonl"]

_ENDINGS: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}


class MappingError(ValueError):
    """A mapping file, or what it points at, does not fit; the message names the key."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, str_strip_whitespace=True)


Expression = Annotated[str, Field(min_length=1)]
"""A column's name as the source spells it, else a DuckDB SQL expression over the source's columns."""


class Columns(_Strict):
    """Where each field of our schema comes from."""

    user_id: Expression
    amount: Expression = Field(description="decimal amount in units of the currency, not cents")
    timestamp: Expression
    transaction_id: Expression | None = Field(None, description="absent: derived from the row's content")
    merchant_id: Expression | None = None
    received_at: Expression | None = Field(None, description="absent or null: the timestamp")
    currency: Expression | None = None
    country: Expression | None = None
    user_country: Expression | None = None
    merchant_category: Expression | None = None
    channel: Expression | None = None
    device_id: Expression | None = None
    latitude: Expression | None = None
    longitude: Expression | None = None


class Defaults(_Strict):
    """Values where a column is absent or its value is null."""

    merchant_id: str = "unknown"
    country: str | None = None
    user_country: str | None = None
    merchant_category: str | None = None
    channel: str | None = None


Silence = Literal["good_after_maturity", "unknown"]
"""What it means that nobody has labelled a payment: that it is good once it is old enough, or nothing."""


class LabelMapping(_Strict):
    """Where the fraud label comes from and when it became known."""

    column: Expression
    fraud_values: list[str | int | bool] | None = Field(
        None, min_length=1, description="absent: 1 and true are fraud, 0 and false not"
    )
    cleared_values: list[str | int | bool] | None = Field(
        None, min_length=1, description="absent beside fraud_values: the one other value that there is"
    )
    unknown_values: list[str | int | bool] | None = Field(
        None, min_length=1, description="values by which nobody says anything"
    )
    unlabelled: Silence = Field("good_after_maturity", description="what it means that a row has no label")
    arrives_after_days: int | None = Field(None, ge=0, description="days from received_at to the label's arrival")
    arrives_at: Expression | None = Field(None, description="when each label arrived; null: arrives_after_days")

    @model_validator(mode="after")
    def _each_value_once(self) -> Self:
        lists = {name: getattr(self, name) or [] for name in ("fraud_values", "cleared_values", "unknown_values")}
        told = [str(value).strip().lower() for values in lists.values() for value in values]
        twice = sorted({value for value in told if told.count(value) > 1})
        if twice:
            raise ValueError(f"{twice[0]!r} appears more than once in {', '.join(lists)}")
        return self

    @model_validator(mode="after")
    def _some_arrival(self) -> Self:
        if self.arrives_after_days is None and self.arrives_at is None:
            raise ValueError("give arrives_after_days, arrives_at or both: a label known at once would leak the future")
        return self


class CsvOptions(_Strict):
    """How a CSV file is written, where DuckDB's detection should not decide."""

    delimiter: str | None = Field(None, min_length=1, max_length=4)
    quote: str | None = Field(None, max_length=1)
    header: bool = True
    skip: int = Field(0, ge=0, description="lines before the header")
    decimal: Literal[".", ","] = "."
    encoding: str = "utf-8"


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{name!r} is not an IANA time zone such as Europe/Berlin or UTC") from error
    return name


def _known_currency(code: str) -> str:
    try:
        exponent(code)
    except UnknownCurrency as error:
        raise ValueError(str(error)) from error
    return code


def _known_channels(meanings: dict[str, str]) -> dict[str, str]:
    for word, channel in meanings.items():
        if channel not in CHANNELS:
            raise ValueError(f"{word!r}: {channel!r} is not a channel; the channels are {', '.join(CHANNELS)}")
    return meanings


def _fits_a_caller(name: str) -> str:
    if not CALLER.fullmatch(name):
        raise ValueError(
            f"{name!r} is no caller's name: 1 to 64 letters, digits, dots, dashes and underscores, the first a letter "
            "or digit, as `fraud-platform keys add` takes it"
        )
    return name


class Mapping(_Strict):
    """A mapping file."""

    path: list[str] = Field(min_length=1, description="files: globs, fsspec addresses, ${VARIABLES}")
    columns: Columns
    caller: Annotated[str, AfterValidator(_fits_a_caller)] = Field(
        DEFAULT_CALLER,
        description="whose payments the rows are: the caller that asks the service for decisions on them",
    )
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9_-]+$", description="absent: the mapping file's folder or stem")
    format: Format | None = Field(None, description="absent: by the files' ending")
    csv: CsvOptions = Field(default_factory=CsvOptions)
    time_zone: Annotated[str, AfterValidator(_known_zone)] = Field("UTC", description="of times without an offset")
    time_format: str | None = Field(None, description="strptime format of times that are text; absent: ISO 8601")
    epoch_unit: Literal["s", "ms", "us", "ns"] | None = Field(None, description="of times that are numbers since 1970")
    currency: Annotated[str, AfterValidator(_known_currency)] | None = Field(
        None, description="of all amounts, or of those whose currency column is null"
    )
    rates: str | None = Field(None, description="file of date, currency, rate: base units per unit of the currency")
    channels: Annotated[dict[str, str], AfterValidator(_known_channels)] = Field(
        default_factory=dict, description="what the source's words of `channel` mean: online, pos, atm, moto or other"
    )
    defaults: Defaults = Field(default_factory=Defaults)
    label: LabelMapping | None = None
    first_day: date | None = Field(None, description="rows received before this UTC day are quarantined")
    last_day: date | None = Field(None, description="rows received after this UTC day are quarantined")

    @field_validator("path", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.currency is None and self.columns.currency is None:
            raise ValueError("give the currency of all amounts as `currency: EUR`, or a column as `columns.currency`")
        if self.first_day and self.last_day and self.last_day < self.first_day:
            raise ValueError("last_day is before first_day")
        return self


def load_mapping(path: Path) -> Mapping:
    """Read and check a mapping file. Raises MappingError with one line per thing that does not fit."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MappingError(f"mapping file {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MappingError(f"mapping file {path} is not YAML: {error}") from error
    except RecursionError as error:
        raise MappingError(f"mapping file {path} is nested too deeply") from error
    # what PyYAML raises for a 30th of February, a number without end, or a tag that its value does not fit
    except (ValueError, LookupError, AttributeError) as error:
        raise MappingError(f"mapping file {path} holds a value that cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise MappingError(f"mapping file {path} holds no keys")
    document.setdefault("name", _default_name(path))
    try:
        return Mapping.model_validate(document)
    except ValidationError as error:
        problems = [_explain(entry) for entry in error.errors(include_url=False)]
        raise MappingError("\n  ".join([f"mapping file {path}:", *problems])) from error


def _default_name(path: Path) -> str:
    stem = path.absolute().parent.name if path.stem == "mapping" else path.stem
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem) or "import"


def _explain(entry: Any) -> str:
    where = ".".join(str(part) for part in entry["loc"])
    if entry["type"] == "extra_forbidden":
        return f"{where}: unknown key; {_known_keys(entry['loc'])}"
    if entry["type"] == "string_type" and isinstance(entry["input"], bool):
        return f"{where}: YAML reads this as true or false; put it in quotes"
    message = entry["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _known_keys(location: tuple[int | str, ...]) -> str:
    sections: dict[str, type[BaseModel]] = {
        "columns": Columns, "defaults": Defaults, "label": LabelMapping, "csv": CsvOptions
    }  # fmt: skip
    model = sections.get(str(location[0]), Mapping) if len(location) > 1 else Mapping
    return "known here: " + ", ".join(model.model_fields)


def expand(address: str, key: str) -> str:
    """An address with its ${VARIABLES} and ~ replaced. Raises MappingError naming `key` for one that is not set."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if not os.environ.get(name):
            raise MappingError(f"{key}: the environment variable {name} is not set ({address})")
        return os.environ[name]

    return os.path.expanduser(re.sub(r"\$\{(\w+)\}", value, address))  # noqa: PTH111 - also addresses, not only paths


def infer_format(paths: list[str]) -> Format:
    """The format that the files' endings name, compression endings aside. Raises MappingError."""
    found = {_ENDINGS.get(Path(re.sub(r"\.(gz|zst)$", "", path.lower())).suffix) for path in paths}
    known = found - {None}
    if len(found) != 1 or not known:
        raise MappingError(f"format: the endings of {', '.join(paths[:3])} do not name one; set parquet, csv or jsonl")
    return next(name for name in known if name is not None)
