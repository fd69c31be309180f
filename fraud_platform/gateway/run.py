"""The gateway in the foreground: nginx and, behind it, the process of the rules.

What belongs here: starting and ending both. What does not: the servers behind them (`make run`, `make serve`).
"""

import logging
import os
import subprocess
import sys
from datetime import datetime
from functools import partial

from fraud_platform.control.listen import Listener
from fraud_platform.control.store import control_url
from fraud_platform.decision.api_keys import keys_path, read_keys
from fraud_platform.decision.policy_control import follow, policy_in_force
from fraud_platform.decision.policy_record import PolicyRecord
from fraud_platform.gateway import nginx
from fraud_platform.gateway.certificate import make_certificate
from fraud_platform.gateway.config import COLOURS, GatewayError, certificate_files, folder, needs_keys, render, servers
from fraud_platform.gateway.switch import weights_in_force
from fraud_platform.run.signals import stop_event
from fraud_platform.settings import Settings

logger = logging.getLogger("fraud_platform.gateway")

LOOK_SECONDS = 0.5


def rules_command(settings: Settings, policy: PolicyRecord) -> list[str]:
    """What runs the process of the rules. It takes options rather than settings, whose reading takes longer than the
    rest of its start. policy: the one in force, whose limits it keeps until it is started again."""
    options: dict[str, object] = {
        "home": settings.home.absolute(),
        "port": settings.rules_port,
        "high-amount": policy.rule_high_amount,
        "cross-country-amount": policy.rule_cross_country_amount,
        "threshold": policy.threshold,
        "review-threshold": policy.review_threshold,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    words += [word for colour in COLOURS for address in servers(settings, colour) for word in ("--service", address)]
    words += [word for name in settings.allowed_hosts for word in ("--allowed-host", name)]
    if needs_keys(settings):
        words.append("--keys-needed")
    if settings.token_check is not None:
        words += ["--tokens", *map(str, settings.token_check)]
    return [sys.executable, "-m", "fraud_platform.gateway.rules_server", *words]


def prepare(settings: Settings, now: datetime) -> None:
    """Certificate and configuration, tested. Raises GatewayError, KeysError."""
    if needs_keys(settings) and settings.jwt_keys is None and not read_keys(keys_path(settings.home)):
        raise GatewayError(
            f"a gateway on {settings.gateway_host} can be reached from other machines, and there is no API key yet: "
            "`fraud-platform keys add` makes one"
        )
    if nginx.master(folder(settings)) is not None:
        raise GatewayError(f"a gateway of {settings.home} is already running")
    if settings.gateway_certificate is None:
        make_certificate(*certificate_files(settings), now)
    nginx.put(folder(settings), render(settings, weights_in_force(settings)))


def run(settings: Settings, now: datetime) -> None:
    """Both processes until SIGINT or SIGTERM; requests under way are finished first. Raises GatewayError, KeysError.

    A rules process that dies is started again; when nginx dies, this ends.
    """
    prepare(settings, now)
    control = _listener(settings)
    with stop_event() as stop:
        rules = _start_rules(settings, now)
        server = nginx.start(folder(settings))
        try:
            while not stop.wait(LOOK_SECONDS):
                if server.poll() is not None:
                    raise GatewayError(f"nginx ended with code {server.returncode}; see {folder(settings)}/error.log")
                if rules.poll() is not None:
                    rules = _start_rules(settings, now)
        finally:
            if server.poll() is None:
                nginx.stop(server)
            rules.terminate()
            rules.wait(10)
            if control is not None:
                control.end()


def _listener(settings: Settings) -> Listener | None:
    """What brings the policy of the control store to the process of the rules, running; None where none is named."""
    url = control_url(settings)
    if url is None:
        return None
    listener = Listener(
        url,
        partial(follow, settings),
        None,
        lambda error: logger.error("the rules go by this home's copy of the policy: %s", error),
    )
    listener.start()
    return listener


def _start_rules(settings: Settings, now: datetime) -> "subprocess.Popen[bytes]":
    key = settings.api_key
    environment = {**os.environ, **({"FRAUD_API_KEY": key.get_secret_value()} if key else {})}
    return subprocess.Popen(
        rules_command(settings, policy_in_force(settings, now)),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        env=environment,
    )
