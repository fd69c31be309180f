"""What callers told us joins a source's labels, each label on its day of arrival.

What belongs here: that a day's labels are the source's and the callers'. What does not: files (`feedback`, `waiting`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow as pa

from fraud_platform.features.labels import labels_of
from fraud_platform.ingest.feedback import by_arrival, decode_labels, feedback_table, of_other_regions, read_feedback
from fraud_platform.ingest.source import Source
from fraud_platform.ingest.waiting import take_up_waiting
from fraud_platform.lake import Lake


@dataclass(frozen=True)
class WithFeedback:
    """A source whose labels are joined by what callers sent back; everything else is the source's own."""

    source: Source
    home: Path
    lake: Lake
    waiting_days: int = 60
    """Days after which a label whose payment nobody knows is given up."""

    @property
    def name(self) -> str:
        """The source's."""
        return self.source.name

    def first_day(self) -> date:
        """The source's."""
        return self.source.first_day()

    def last_day(self) -> date | None:
        """The source's."""
        return self.source.last_day()

    def transactions(self, days: Sequence[date]) -> Iterator[tuple[date, pa.Table]]:
        """The source's."""
        return self.source.transactions(days)

    def labels(self, days: Sequence[date]) -> Iterator[tuple[date, pa.Table]]:
        """Per day the LABELS rows that arrived then, the source's first.

        A label that waited for its payment has arrived, for good, on the day that first found its payment.
        """
        elsewhere = of_other_regions(self.lake, waiting=False)
        for day, labels in self.source.labels(days):
            take_up_waiting(self.home, self.lake, day, self.waiting_days)
            told = read_feedback(self.home, day)
            for path in elsewhere.get(day, ()):
                told += decode_labels(path, self.lake.document(self.lake.name_of(path)) or b"")
            sent = feedback_table(by_arrival(told))
            yield day, pa.concat_tables([labels_of(labels), sent])

    def rates(self, day: date) -> pa.Table:
        """The source's."""
        return self.source.rates(day)
