"""The `fraud-platform` command: one module for each group of commands.

What belongs here: names, options and help. What does not: work; each command imports what it needs when it is called,
so that `--help` answers at once.
"""

import typer

from fraud_platform.cli import (
    backtest,
    capacity,
    control,
    data,
    erasure,
    gateway,
    inference_log,
    keys,
    labels,
    model,
    package,
    platform,
    policy,
    recovery,
    region,
    release,
    scenario,
)
from fraud_platform.private import keep_private

app = typer.Typer(
    help="A fraud-decision platform: raw logs to live decisions. Settings are FRAUD_* variables, see `settings`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _before_any_command() -> None:
    keep_private()


for commands in (
    platform.app, data.app, model.app, backtest.app, scenario.app, capacity.app, erasure.app, recovery.app, package.app,
):  # fmt: skip
    app.add_typer(commands)
app.add_typer(release.app, name="release")
app.add_typer(region.app, name="region")
app.add_typer(policy.app, name="policy")
app.add_typer(control.app, name="control")
app.add_typer(keys.app, name="keys")
app.add_typer(labels.app, name="labels")
app.add_typer(inference_log.app, name="inference-log")
app.add_typer(gateway.app, name="gateway")
