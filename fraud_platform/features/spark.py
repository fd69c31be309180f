"""Spark behind the offline engine: the same ibis expressions where the days outgrow one machine.

What belongs here: a session, reading the lake's files, results as Arrow. What does not: any feature's arithmetic, and
nothing that runs where the settings do not name Spark: pyspark is an extra and needs Java.
"""

from collections.abc import Sequence
from datetime import date

import ibis
import pyarrow as pa
from ibis.backends.pyspark.datatypes import PySparkSchema
from ibis.util import gen_name
from pyspark.sql import DataFrame, SparkSession

from fraud_platform.features.gaps import whole_scan
from fraud_platform.lake import Lake
from fraud_platform.settings import Settings


class SparkEngine:
    """`offline.Engine` on the Spark of the settings: one application per process, one session per engine."""

    def __init__(self, settings: Settings, lake: Lake) -> None:
        self._lake = lake
        builder = SparkSession.builder.master(settings.spark_master).appName("fraud-platform")
        options = {"spark.ui.showConsoleProgress": "false"} | settings.spark_options
        for name, value in options.items():
            builder = builder.config(name, value)
        # temporary views are the session's and go with it
        self._session = builder.getOrCreate().newSession()
        self._backend = ibis.pyspark.connect(self._session)

    def daily(self, table: str, days: Sequence[date], schema: pa.Schema) -> ibis.Table:
        """See `offline.Engine`."""
        dated = PySparkSchema.from_ibis(ibis.Schema.from_pyarrow(schema.append(pa.field("date", pa.date32()))))
        paths = whole_scan(self._lake, table, days)
        if not paths:
            return self._named(self._session.createDataFrame([], dated))
        # a given schema spares a pass over the files, and makes null what a file does not have
        reader = self._session.read.schema(dated).option("basePath", paths[0].rpartition("/date=")[0])
        return self._named(reader.parquet(*paths))

    def local(self, rows: pa.Table) -> ibis.Table:
        """See `offline.Engine`."""
        return self._named(self._session.createDataFrame(rows))

    def run(self, rows: ibis.Table) -> pa.Table:
        """See `offline.Engine`."""
        # ibis would go by pandas, where an int64 beside a null loses its last digits
        return self._backend.raw_sql(self._backend.compile(rows)).toArrow()

    def _named(self, frame: DataFrame) -> ibis.Table:
        name = gen_name("rows")
        frame.createOrReplaceTempView(name)
        return self._backend.table(name)
