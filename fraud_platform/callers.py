"""Who asks: what a caller's name may be, and whose payments are that nobody named a caller for.

What belongs here: names alone; whatever decides payments without a database starts by importing this. What does not:
keys and tokens (`decision`), whose a row of the lake is (`inference_log.callers`).
"""

import re

CALLER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""A caller's name. It holds no colon, so that `<caller>:<transaction_id>` names one payment."""

DEFAULT_CALLER = "default"
"""Whoever asks where no keys are in use, and whose an export's rows are unless its mapping names another."""
