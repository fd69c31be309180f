"""The factory of daily tables: every table of the lake becomes one asset of the same kind.

What belongs here: partitions, quality checks, schema, row counts and column lineage as Dagster shows them. What does
not: how a table is computed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from typing import Any

import dagster as dg
import pyarrow as pa

from assets.partitions import partition_days
from assets.resources import Platform
from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.quality import Finding, evaluate, rules_of

Write = Callable[[Platform, list[date]], Any]
Facts = Callable[[Any], Mapping[date, Mapping[str, Any]]]
"""From what `write` returned to what Dagster shows of each day."""
ExtraCheck = Callable[[Platform, list[date]], Finding]

OWNERS = ["team:fraud-platform"]
_SEVERITY = {"error": dg.AssetCheckSeverity.ERROR, "warn": dg.AssetCheckSeverity.WARN}


def column_schema(schema: pa.Schema) -> dg.TableSchema:
    """An Arrow schema as Dagster shows it."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=field.name,
                type=str(field.type),
                description=(field.metadata or {}).get(b"description", b"").decode() or None,
                constraints=dg.TableColumnConstraints(nullable=field.nullable),
            )
            for field in schema
        ]
    )


def column_lineage(inputs: Mapping[str, Sequence[str]]) -> dg.TableColumnLineage:
    """Column lineage from `table.column` inputs per column."""
    return dg.TableColumnLineage(
        {
            column: [
                dg.TableColumnDep(asset_key=dg.AssetKey(source.split(".")[0]), column_name=source.split(".")[1])
                for source in sources
            ]
            for column, sources in inputs.items()
        }
    )


def check_result(finding: Finding) -> dg.AssetCheckResult:
    """A domain finding as Dagster's check result."""
    return dg.AssetCheckResult(
        check_name=finding.rule,
        passed=finding.passed,
        severity=_SEVERITY[finding.severity],
        metadata={
            name: dg.MetadataValue.json(value) if isinstance(value, dict) else value
            for name, value in finding.facts.items()
        },
    )


def daily_table(
    *,
    name: str,
    table: str,
    group: str,
    kinds: set[str],
    description: str,
    partitions: dg.PartitionsDefinition,
    write: Write,
    deps: Sequence[dg.AssetDep | str] = (),
    lineage: Mapping[str, Sequence[str]] | None = None,
    extra_checks: Mapping[str, ExtraCheck] | None = None,
    extra_warnings: Mapping[str, ExtraCheck] | None = None,
    facts: Facts | None = None,
    code_version: str | None = None,
    catalogue: Catalogue = CATALOGUE,
    told: Callable[[Any], str] | None = None,
) -> dg.AssetsDefinition:
    """An asset that writes one lake table for a day or a range of days, then holds it against its quality rules.

    catalogue: the features that the table is of, where it is of any. told: a line for the log, from what `write`
    returned. A failed rule of severity error blocks whatever depends on the table in the same run.
    """
    rules = rules_of(table, catalogue)
    errors, warnings = extra_checks or {}, extra_warnings or {}
    severities = dict(rules.names) | dict.fromkeys(errors, "error") | dict.fromkeys(warnings, "warn")

    @dg.asset(
        name=name,
        group_name=group,
        kinds=kinds,
        owners=OWNERS,
        description=description,
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=list(deps),
        code_version=code_version,
        metadata={"dagster/column_schema": column_schema(rules.schema), "dagster/table_name": table},
        check_specs=[
            dg.AssetCheckSpec(rule, asset=name, blocking=severity == "error") for rule, severity in severities.items()
        ],
    )
    def _table(
        context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        days = partition_days(context, platform.now)
        written = write(platform, days)
        shown = facts(written) if facts else {}
        total = 0
        for day in days:
            rows, size = platform.lake.size(table, day)
            total += rows
            context.add_asset_metadata(
                {"dagster/row_count": rows, "bytes": size, "dagster/uri": platform.lake.uri(table, day)}
                | dict(shown.get(day, {})),
                partition_key=day.isoformat(),
            )
        line = f"{name}: {total:,} rows in {len(days)} day(s), {days[0]} to {days[-1]}"
        context.log.info(line + (f", {told(written)}" if told else ""))
        metadata = {"dagster/column_lineage": column_lineage(lineage)} if lineage else {}
        yield dg.MaterializeResult(metadata=metadata)
        expected = min(platform.dataset.last_complete_day(platform.now), days[-1])
        findings = evaluate(platform.settings, platform.lake, table, days, expected, catalogue)
        findings += [check(platform, days) for check in (*errors.values(), *warnings.values())]
        for finding in findings:
            yield check_result(finding)

    return _table
