"""`python -m fraud_platform.cli`."""

from fraud_platform.cli import app

app()
