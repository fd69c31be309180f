"""`fraud-platform up`: the platform of a home in the foreground, from the first check to the last word.

What belongs here: the command. What does not: the order in which processes live (`supervisor`).
"""

import os
import time
from collections.abc import Callable
from datetime import datetime

import httpx
from rich.console import Console
from rich.text import Text

from fraud_platform.control.store import ControlError, control_url
from fraud_platform.decision.policy_control import join
from fraud_platform.decision.policy_record import PolicyError
from fraud_platform.model.registry_moved import follow_home
from fraud_platform.online.embedded_postgres import PostgresUnavailableError, ensure_postgres, postgres_pid
from fraud_platform.online.embedded_redis import RedisUnavailableError, ensure_redis, redis_pid
from fraud_platform.private import keep_private
from fraud_platform.run.child import end_leftovers, pid_file, record_pid
from fraud_platform.run.current import is_current
from fraud_platform.run.deciding import who_decides
from fraud_platform.run.home import Home, open_home
from fraud_platform.run.lock import AlreadyRunningError, running
from fraud_platform.run.screen import Line, decision_table, status_table, trouble
from fraud_platform.run.servers import DAGSTER, SERVICE, PortInUseError, build, check_ports, servers
from fraud_platform.run.set_on_disk import SetOnDisk
from fraud_platform.run.signals import Stopped, StopRequest, stop_requests
from fraud_platform.run.status import server_lines
from fraud_platform.run.supervisor import StartError, Supervisor
from fraud_platform.settings import Settings

DEMONSTRATED_RELEASE_SHARE = 0.05
"""Of the simulated bank's would-be blocks that are let through to be measured."""


def up(settings: Settings, console: Console, clock: Callable[[], datetime], exit_when_ready: bool = False) -> int:
    """Bring the platform up and keep it until Ctrl-C or SIGTERM; with `exit_when_ready`, until it decided the samples.

    Returns the exit code: 0 also when it is already running or was asked to end, 1 when it could not start, as in any
    region but the first.
    """
    if settings.region:
        console.print(
            f"The region {settings.region} builds nothing and trains nothing: `fraud-platform region follow` gets what "
            "it decides by, `make serve` decides, and `fraud-platform inference-log run` carries decisions away."
        )
        return 1
    keep_private()
    settings = of_demonstration(settings)
    home = open_home(settings)
    try:
        with running(home), stop_requests() as stop:
            return _run(settings, home, console, clock, exit_when_ready, stop)
    except AlreadyRunningError as error:
        console.print(f"{error}:")
        console.print(status_table(server_lines(settings)))
        return 0


def of_demonstration(settings: Settings) -> Settings:
    """What the simulated bank does where nobody has said otherwise: its money is nobody's."""
    if settings.mapping is None and "release_share" not in settings.model_fields_set:
        return settings.model_copy(update={"release_share": DEMONSTRATED_RELEASE_SHARE})
    return settings


def _run(
    settings: Settings,
    home: Home,
    console: Console,
    clock: Callable[[], datetime],
    exit_when_ready: bool,
    stop: StopRequest,
) -> int:
    """The platform's life, the home being held."""
    began = time.monotonic()
    ended = end_leftovers(home)
    if ended:
        console.print(f"Ended {ended} processes that an earlier run left behind.")
    record_pid(home, "up", os.getpid())
    try:
        check_ports(settings)
        for mended in filter(None, (home.prepare(), follow_home(home.root))):
            console.print(Text(mended))
        redis_url = ensure_redis(settings)
        ensure_postgres(settings)
        _join_control(settings, console)
    except (PortInUseError, RedisUnavailableError, PostgresUnavailableError) as error:
        console.print(Text(f"Cannot start: {error}.", style="red"))
        return 1
    supervisor = Supervisor(home, servers(settings, home), build(settings, home), console, stop)
    try:
        supervisor.bring_up(is_current(settings, clock()))
        _decide_samples(settings, supervisor, clock())
        console.print(f"Ready after {time.monotonic() - began:.1f} s; MLflow and Dagster's daemon join now.")
        supervisor.complete()
        console.print(Text(who_decides(settings)))
        _say_where(supervisor, exit_when_ready)
        if exit_when_ready:
            return int(supervisor.build_failed)
        features = SetOnDisk(str(supervisor.servers[DAGSTER].url), lambda said: console.print(Text(said)))

        def keep() -> None:
            _keep_stores(settings, console)
            features.look()

        supervisor.watch(keep)
    except Stopped:
        console.print("Ending …")
    except StartError as error:
        console.print(trouble(f"Cannot start: {error}", error.log))
        console.print(f"All logs: {home.logs}")
        return 1
    finally:
        supervisor.end()
        pid_file(home, "up").unlink(missing_ok=True)
        if settings.redis_url is None:
            console.print(
                f"Redis keeps running at {redis_url}, PostgreSQL beside it; `fraud-platform down` stops both."
            )
    return 0


def _join_control(settings: Settings, console: Console) -> None:
    """Take part in the control store, where one is named; while it is away, by this home's copy of what it said."""
    url = control_url(settings)
    if url is None:
        return
    from fraud_platform.control.schema import prepare

    try:
        if prepare(url):
            console.print("The control store's tables are up to date now.")
        for said in join(settings):
            console.print(Text(f"{said[0].upper()}{said[1:]}."))
    except (ControlError, PolicyError) as error:
        console.print(Text(f"Without the control store: {error}", style="red"))


def _keep_stores(settings: Settings, console: Console) -> None:
    """Start an embedded store again where it has died; the service does without it meanwhile."""
    try:
        if settings.redis_url is None and redis_pid(settings) is None:
            ensure_redis(settings)
            console.print("Redis was down and runs again.")
        if settings.postgres_url is None and postgres_pid(settings) is None:
            ensure_postgres(settings)
            console.print("PostgreSQL was down and runs again.")
    except (RedisUnavailableError, PostgresUnavailableError) as error:
        console.print(Text(f"A store is down: {error}", style="red"))


def _decide_samples(settings: Settings, supervisor: Supervisor, now: datetime) -> None:
    from fraud_platform.lake import open_lake
    from fraud_platform.run.samples import choose_samples, decide_samples

    samples = choose_samples(open_lake(settings), settings.base_currency, now)
    url = supervisor.servers[SERVICE].url
    if not samples or url is None:
        supervisor.console.print("The lake holds no transactions yet: there is nothing to make sample payments of.")
        return
    try:
        supervisor.console.print(decision_table(decide_samples(samples, url)))
    except (httpx.HTTPError, ValueError) as error:
        raise StartError(f"the service did not decide: {error}", supervisor.servers[SERVICE].child.tail()) from error


def _say_where(supervisor: Supervisor, ends: bool) -> None:
    if supervisor.build_failed:
        code = supervisor.build.exit_code
        title = (
            f"The build failed (exit code {code}); the service decides by the model it had. Log: {supervisor.build.log}"
        )
        supervisor.console.print(trouble(title, supervisor.build.tail()))
    lines = [Line(server.title, "ready", url=server.url) for server in supervisor.servers.values() if server.url]
    supervisor.console.print(status_table(lines))
    supervisor.console.print(f"API: {supervisor.servers[SERVICE].url}/docs.json   Logs: {supervisor.home.logs}")
    if not ends:
        supervisor.console.print("Ctrl-C ends it.")
