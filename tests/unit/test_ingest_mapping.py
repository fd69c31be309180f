"""Mapping files: what is accepted, and what the messages say where something does not fit."""

import os
import re
from pathlib import Path

import pytest
import yaml
from s3fs import S3FileSystem

from fraud_platform.ingest import normalize
from fraud_platform.ingest.check import check_mapping
from fraud_platform.ingest.mapped_source import MappedSource
from fraud_platform.ingest.mapping import Columns, MappingError, load_mapping
from fraud_platform.settings import Settings

MINIMAL = """
path: {path}
currency: EUR
columns:
  user_id: customer
  amount: total
  timestamp: moment
"""


def written(folder: Path, text: str, name: str = "shop.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def opened(
    folder: Path, mapping: str, rows: str = "customer,total,moment\n7,1.50,2019-05-01 10:00:00\n"
) -> MappedSource:
    (folder / "rows.csv").write_text(rows)
    path = written(folder, mapping.replace("{path}", str(folder / "rows.csv")))
    return MappedSource.open(path, Settings(home=folder / "var"))


def mapping_with(section: str, key: str, expression: str) -> str:
    """A mapping with a label, in which one key holds the expression."""
    document = yaml.safe_load(MINIMAL.replace("{path}", "'{path}'"))
    document["label"] = {"column": "customer", "arrives_after_days": 1, "fraud_values": ["7"]}
    document[section][key] = expression
    return yaml.safe_dump(document)


def test_ids_time_and_amount_are_enough(tmp_path):
    source = opened(tmp_path, MINIMAL)
    assert (source.name, source.rows) == ("shop", 1)
    ((_, table),) = source.transactions([source.first_day()])
    (row,) = table.to_pylist()
    assert (row["user_id"], row["merchant_id"], row["amount_minor"], row["currency"]) == ("7", "unknown", 150, "EUR")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense: 1\n" + MINIMAL, r"nonsense: unknown key; known here: path, columns"),
        (MINIMAL + "  colour: red\n", r"columns.colour: unknown key; known here: user_id"),
        (MINIMAL.replace("  amount: total\n", ""), r"columns.amount: Field required"),
        (MINIMAL + "time_zone: Berlin\n", r"time_zone: 'Berlin' is not an IANA time zone"),
        (MINIMAL.replace("EUR", "EURO"), r"currency: 'EURO' is not an ISO 4217"),
        (MINIMAL.replace("currency: EUR\n", ""), r"currency of all amounts as `currency: EUR`"),
        (
            MINIMAL + "defaults: {country: NO}\n",
            r"defaults.country: YAML reads this as true or false; put it in quotes",
        ),
        (MINIMAL + "label: {column: fraud}\n", r"label: give arrives_after_days, arrives_at or both"),
        (MINIMAL + "label: {column: fraud, arrives_after_days: -1}\n", r"label.arrives_after_days: .*greater than"),
        (MINIMAL + "first_day: 2020-01-02\nlast_day: 2020-01-01\n", r"last_day is before first_day"),
        (MINIMAL + "epoch_unit: minutes\n", r"epoch_unit: .*'s', 'ms', 'us' or 'ns'"),
        ("- a\n- b\n", r"holds no keys"),
        ("a: [", r"is not YAML"),
        pytest.param("path: " + "[" * 5_000, r"shop\.yaml is nested too deeply", id="deep"),
        pytest.param("path: " + "{a: " * 5_000, r"shop\.yaml is nested too deeply", id="deep keys"),
        ("first_day: 2020-02-30", r"shop\.yaml holds a value that cannot be read: day is out of range"),
        pytest.param("path: " + "1" * 5_000, r"shop\.yaml holds a value that cannot be read", id="long number"),
        ("path: !!timestamp soon", r"shop\.yaml holds a value that cannot be read"),
        ("path: !!int ''", r"shop\.yaml holds a value that cannot be read"),
        ("path: !!bool maybe", r"shop\.yaml holds a value that cannot be read"),
    ],
)
def test_a_file_that_does_not_fit_says_where_and_why(tmp_path, text, message):
    with pytest.raises(MappingError, match=message):
        load_mapping(written(tmp_path, text.replace("{path}", "rows.csv")))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MappingError, match=r"nowhere\.yaml: No such file"):
        load_mapping(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("total", "totl"), r"columns.amount: 'totl' fits no column; the columns are customer, total, moment"),
        (("total", "sum("), r"columns.amount: 'sum\(' fits no column"),
        (("{path}", "${SHOP_EXPORT}"), r"path: the environment variable SHOP_EXPORT is not set"),
        (("{path}", "/nowhere/*.csv"), r"path: no file at /nowhere"),
        (("{path}", "shop.xlsx"), r"no file at shop.xlsx"),
        (("{path}", "nosuch://bucket/a.csv"), r"path: nosuch://bucket/a.csv is at an address that is not read here"),
        (("{path}", "zip://inside.csv::/etc/passwd"), r"path: zip://.* is at an address that is not read here"),
        (("{path}", "memory://a.csv::/etc/passwd"), r"path: memory://.* is at an address that is not read here"),
        (("{path}", "simplecache::/etc/passwd"), r"path: simplecache::.* is at an address that is not read here"),
        (("{path}", "reference://"), r"path: reference:// is at an address that is not read here"),
        (("{path}", "http://127.0.0.1:1/a.csv"), r"path: http://.* give a path, file://…, s3://… or memory://…"),
        (
            ("moment\n", "moment\nlabel: {column: \"'maybe'\", arrives_after_days: 1}\n"),
            r"values 'maybe' \(100.0% of the rows\): list those that mean",
        ),
        (("total", "CAST(total || 'x' AS DOUBLE)"), r"expression failed on a row; TRY_CAST"),
        (("moment\n", "epoch(moment::TIMESTAMP)\n"), r"timestamp is a number \(DOUBLE\): set epoch_unit"),
        (("moment\n", "list_value(moment)\n"), r"timestamp is a VARCHAR\[\], which is not a time"),
        (("moment\n", "customer\n"), r"none of 1 rows has a readable time"),
    ],
)
def test_a_mapping_that_its_data_does_not_bear_out_says_why(tmp_path, monkeypatch, change, message):
    monkeypatch.delenv("SHOP_EXPORT", raising=False)
    source = opened(tmp_path, MINIMAL.replace(*change))
    with pytest.raises(MappingError, match=message):
        source.first_day()
    assert not list((tmp_path / "var").rglob("*.parquet"))
    assert not list((tmp_path / "var").rglob("*.tmp"))


@pytest.fixture
def nobody_s_s3(tmp_path, monkeypatch):
    """A machine without credentials, be they in its environment, in a file or of its cloud."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    S3FileSystem.clear_instance_cache()
    yield
    S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("address", ["s3://nobody/a.csv", "s3://nobody/*.csv"])
@pytest.mark.usefixtures("nobody_s_s3")
def test_an_object_store_without_credentials_is_named(tmp_path, address):
    with pytest.raises(MappingError, match=rf"path: cannot read {re.escape(address)}: .*credentials"):
        opened(tmp_path, MINIMAL.replace("{path}", address)).first_day()


@pytest.mark.parametrize(
    "expression",
    [
        "1) FROM __source; COPY (SELECT 42) TO '{out}'; SELECT (1",
        "(SELECT content FROM read_text('{secret}'))",
        "(SELECT max(file) FROM glob('{secret}'))",
        "read_text('{secret}')",
        "getenv('HOME')",
        "current_setting('allowed_paths')",
        "current_user",
        "now()",
        "current_localtimestamp()",
        "uuid()",
        "sum(total)",
        "row_number() OVER ()",
        "unnest(['1', '2'])",
        "total AS amount",
        "total, customer",
        "#1",
        "json_serialize_plan('SELECT * FROM read_csv(''{secret}'')')",
        "list_transform([total], lambda x: x)[1]",
        "ago(INTERVAL 1 DAY)",
        "json_group_array(total)",
        "total /*",
        pytest.param("abs(" * 900 + "1" + ")" * 900, id="deep"),
        pytest.param("abs(" * 20_000 + "1" + ")" * 20_000, id="deeper"),
        pytest.param("+".join(["1"] * 20_000), id="long"),
    ],
)
def test_an_expression_that_reaches_beyond_its_row_is_refused_and_does_nothing(tmp_path, expression):
    secret, out = tmp_path / "secret.txt", tmp_path / "written.csv"
    secret.write_text("the bank's own")
    opened(tmp_path, mapping_with("columns", "amount", expression.format(secret=secret, out=out)))
    with pytest.raises(MappingError, match=r"^columns.amount: .* fits no column; the columns are customer") as error:
        check_mapping(tmp_path / "shop.yaml", Settings(home=tmp_path / "var"))
    assert "the bank's own" not in str(error.value)
    assert not out.exists()


@pytest.mark.parametrize(
    "key", [*(f"columns.{name}" for name in Columns.model_fields), "label.column", "label.arrives_at"]
)
def test_every_expression_of_a_mapping_is_checked(tmp_path, key):
    with pytest.raises(MappingError, match=rf"^{key}: .*a subquery"):
        opened(tmp_path, mapping_with(*key.split("."), "(SELECT 1)")).first_day()


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("total -- as they write it", 150),
        ("nullif(total, '')", 150),
        ("CASE WHEN customer = '7' THEN CAST(total AS DECIMAL(9, 2)) * 2 END", 300),
        ("split_part(total || ';1', ';', 1)", 150),
        ("if(total IS NULL, '0', coalesce(total, '1'))", 150),
        ("""('{"a": {"b": 2.5}}'::JSON -> 'a') ->> 'b'""", 250),
        ("list_sum([CAST(total AS DOUBLE), 1])", 250),
        ("TRY_CAST(regexp_extract(total, '[0-9.]+') AS DOUBLE)", 150),
    ],
)
def test_an_expression_may_say_what_sql_says_of_one_row(tmp_path, expression, expected):
    source = opened(tmp_path, mapping_with("columns", "amount", expression))
    ((_, table),) = source.transactions([source.first_day()])
    assert table["amount_minor"].to_pylist() == [expected]


def test_what_a_check_let_through_would_still_find_every_file_but_the_mapped_one_shut(tmp_path, monkeypatch):
    monkeypatch.setattr(normalize, "check_expression", lambda *_: None)
    secret, out = tmp_path / "secret.txt", tmp_path / "written.csv"
    secret.write_text("the bank's own")
    for expression in (
        f"(SELECT content FROM read_text('{secret}'))",
        f"1) FROM __source; COPY (SELECT 42) TO '{out}'; SELECT (1",
        "1) FROM __source; SET enable_external_access = true; SELECT (1",
    ):
        with pytest.raises(MappingError, match=r"disabled by configuration|has been locked"):
            opened(tmp_path, MINIMAL.replace("total", expression)).first_day()
        assert not out.exists()


def test_another_currency_without_rates_says_what_to_set(tmp_path):
    with pytest.raises(MappingError, match="set FRAUD_BASE_CURRENCY=USD"):
        opened(tmp_path, MINIMAL.replace("EUR", "USD"))


def test_rates_are_read_from_the_same_addresses_as_rows(tmp_path):
    source = opened(tmp_path, MINIMAL + "rates: zip://rates.csv::/etc/passwd\n")
    with pytest.raises(MappingError, match=r"^rates: zip://.* is at an address that is not read here"):
        source.rates(source.first_day())


def test_an_ending_that_names_no_format_needs_one(tmp_path):
    (tmp_path / "rows.dat").write_text("customer,total,moment\n7,1,2019-05-01\n")
    text = MINIMAL.replace("{path}", str(tmp_path / "rows.dat"))
    settings = Settings(home=tmp_path / "var")
    with pytest.raises(MappingError, match=r"format: the endings of .*rows\.dat"):
        MappedSource.open(written(tmp_path, text), settings).first_day()
    assert MappedSource.open(written(tmp_path, text + "format: csv\n"), settings).rows == 1


def test_a_variable_and_a_default_name_are_filled_in(tmp_path, monkeypatch):
    folder = tmp_path / "my shop"
    folder.mkdir()
    (folder / "rows.csv").write_text("customer,total,moment\n7,1,2019-05-01\n")
    monkeypatch.setenv("SHOP_EXPORT", str(folder))
    path = written(folder, MINIMAL.replace("{path}", "${SHOP_EXPORT}/rows.csv"), "mapping.yaml")
    source = MappedSource.open(path, Settings(home=tmp_path / "var"))
    assert (source.name, source.rows) == ("my-shop", 1)
