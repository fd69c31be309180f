"""Files of any address and format as one DuckDB view of rows, none of them lost.

What belongs here: finding files, and reading Parquet, CSV and JSONL so that a line that cannot be read is still a row.
What does not: what the columns mean (normalize).
"""

import json
from dataclasses import dataclass
from typing import Any

import duckdb
import fsspec

from fraud_platform.ingest.mapping import CsvOptions, Format, MappingError, expand

SOURCE = "__source"
"""The view: the source's columns, and __row (all as a struct), __bad (why the line is no row), __raw (its text)."""

_REJECTS = "__rejects"
_MAX_LINE = 16 * 1024 * 1024
_SCHEMES = ("file", "memory", "s3")
"""Of addresses that are read, `file` being a path's. Others read what nobody expects: an archive, a file by the way of
another, a web host."""


@dataclass(frozen=True)
class Files:
    """The files that a path names: addresses for DuckDB, and a fingerprint that changes with their content."""

    addresses: list[str]
    fingerprint: list[str]
    filesystems: list[fsspec.AbstractFileSystem]
    """Those that DuckDB does not know by itself."""

    def make_known(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let the connection read the addresses."""
        for filesystem in self.filesystems:
            connection.register_filesystem(filesystem)


def find_files(paths: list[str], key: str = "path") -> Files:
    """Expand variables and globs, in order. Raises MappingError."""
    addresses: list[str] = []
    fingerprint: list[str] = []
    filesystems: list[fsspec.AbstractFileSystem] = []
    for path in paths:
        address = expand(path, key)
        # fsspec's own way to say that one address is read through another
        if fsspec.utils.get_protocol(address) not in _SCHEMES or "::" in address:
            raise MappingError(
                f"{key}: {address} is at an address that is not read here: give a path, file://…, s3://… or memory://…"
            )
        try:
            fs, inside = fsspec.core.url_to_fs(address)
            found = sorted(fs.glob(inside)) if fsspec.utils.get_protocol(address) and _has_magic(inside) else [inside]
            missing = not found or not all(fs.exists(entry) for entry in found)
        except Exception as error:  # what a store's library raises is of no one kind, credentials first
            raise MappingError(f"{key}: cannot read {address}: {error}") from error
        if missing:
            raise MappingError(f"{key}: no file at {address}")
        local = "file" in fs.protocol
        if not local and fs not in filesystems:
            filesystems.append(fs)
        addresses += found if local else [str(fs.unstrip_protocol(entry)) for entry in found]
        fingerprint += [f"{entry}:{fs.ukey(entry)}" for entry in found]
    return Files(addresses, fingerprint, filesystems)


def _has_magic(path: str) -> bool:
    return any(sign in path for sign in "*?[")


def quote(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def create_view(connection: duckdb.DuckDBPyConnection, files: Files, form: Format, csv: CsvOptions) -> None:
    """Create the view SOURCE over the files. Raises MappingError where they are not of the format."""
    files.make_known(connection)
    try:
        if form == "parquet":
            rows = _parquet(files.addresses)
        else:
            rows = _csv(files.addresses, csv) if form == "csv" else _jsonl(connection, files.addresses)
        connection.execute(f"CREATE OR REPLACE TEMP VIEW {SOURCE} AS {rows}")
    except duckdb.Error as error:
        raise MappingError(f"path: cannot read {files.addresses[0]} as {form}: {error}") from error


def rejected_lines(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, str]]:
    """(reason, text) of the CSV lines that were no rows, each once however often the view was scanned."""
    try:
        found = connection.execute(
            f"""SELECT min(error_type::VARCHAR), any_value(csv_line) FROM {_REJECTS}
                WHERE scan_id = (SELECT min(scan_id) FROM {_REJECTS}) GROUP BY file_id, line ORDER BY file_id, line"""
        ).fetchall()
    except duckdb.CatalogException:
        return []  # the table exists once a CSV file was scanned
    return [(f"the line is not CSV of this file's columns: {why.lower()}", line or "") for why, line in found]


def _parquet(addresses: list[str]) -> str:
    files = ", ".join(map(quote, addresses))
    return _plain(f"read_parquet([{files}], union_by_name = true)")


def _csv(addresses: list[str], csv: CsvOptions) -> str:
    # Everything is text: detected types would turn one odd value into a failed import, and strip zeros off ids.
    options = {
        "all_varchar": "true",
        "header": str(csv.header).lower(),
        "skip": str(csv.skip),
        "encoding": quote(csv.encoding),
        "store_rejects": "true",
        "rejects_table": quote(_REJECTS),
        "rejects_scan": quote(f"{_REJECTS}_scan"),
        "max_line_size": str(_MAX_LINE),
    }
    if csv.delimiter is not None:
        options["delim"] = quote(csv.delimiter)
    if csv.quote is not None:
        options["quote"] = quote(csv.quote)
    listed = ", ".join(f"{name} = {value}" for name, value in options.items())
    # One reader per file: files may differ in the order of their columns, and rejects exclude union_by_name.
    parts = [f"SELECT * FROM read_csv({quote(address)}, {listed})" for address in addresses]
    return _plain("(" + " UNION ALL BY NAME ".join(parts) + ")")


def _plain(relation: str) -> str:
    return f"SELECT __t AS __row, NULL::VARCHAR AS __bad, NULL::VARCHAR AS __raw, __t.* FROM {relation} AS __t"


def _jsonl(connection: duckdb.DuckDBPyConnection, addresses: list[str]) -> str:
    # Lines as text first, since a JSON reader fails on, or drops, a line that is no JSON. A control character cannot
    # stand in a JSON text, so as delimiter it never splits a line.
    files = ", ".join(map(quote, addresses))
    lines = f"""
        SELECT line, CASE WHEN json_valid(line) AND json_type(line) = 'OBJECT' THEN line::JSON END AS object
        FROM read_csv([{files}], columns = {{'line': 'VARCHAR'}}, delim = '\x1f', quote = '', escape = '',
                      header = false, auto_detect = false, max_line_size = {_MAX_LINE})
        WHERE trim(line) <> ''"""
    row = connection.execute(f"SELECT json_group_structure(object) FROM ({lines})").fetchone()
    structure = json.loads(row[0]) if row and row[0] else None
    if not isinstance(structure, dict) or not structure:
        raise MappingError(f"path: {addresses[0]} holds no JSON object on any line")
    shape = quote(json.dumps(_as_text(structure)))
    return f"""
        SELECT __row, CASE WHEN __row IS NULL THEN 'the line is not a JSON object' END AS __bad, __raw, unnest(__row)
        FROM (SELECT json_transform(object, {shape}) AS __row, line AS __raw FROM ({lines}))"""


def _as_text(structure: Any) -> Any:
    """The structure with every value as text, as in CSV: a long id read as a number would lose its last digits."""
    if isinstance(structure, dict):
        return {name: _as_text(value) for name, value in structure.items()}
    if isinstance(structure, list):
        return [_as_text(value) for value in structure]
    return "VARCHAR"
