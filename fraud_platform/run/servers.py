"""The servers of the platform: their commands, addresses and how each says that it is ready.

What belongs here: what is started. What does not: starting it (`child`) and in which order (`up`).
"""

import json
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from fraud_platform.private import private_folder, socket_path
from fraud_platform.run.child import Child, end_listeners
from fraud_platform.run.home import PROJECT, Home
from fraud_platform.settings import Settings

HOST = "127.0.0.1"
CODE, DAGSTER, DAEMON, SERVICE, MLFLOW = "dagster-code", "dagster", "dagster-daemon", "service", "mlflow"
LOG = "inference-log"
LOCATION = "fraud_platform"
"""Dagster's name of the code location."""
FACES = {
    SERVICE: ("decision service", "service_port", "/readyz"),
    DAGSTER: ("Dagster", "dagster_port", "/server_info"),
    MLFLOW: ("MLflow", "mlflow_port", "/health"),
    LOG: ("inference log", "log_port", "/metrics"),
}
"""The servers that people open: title, setting of the port, path that answers 200 when ready."""


class PortInUseError(RuntimeError):
    """Another program listens where a server should; the message names the setting."""


@dataclass
class Server:
    """A child that answers on an address. `ready_path` None: it is ready as soon as it listens; without an address: at
    once."""

    title: str
    child: Child
    port: int | None = None
    ready_path: str | None = None
    socket: Path | None = None

    @property
    def url(self) -> str | None:
        """What a person opens; None for a server without a face."""
        return f"http://{HOST}:{self.port}" if self.port and self.ready_path else None

    def start(self) -> None:
        """Start it. Where it ran before and was killed, what still listens on its port is ended first."""
        if self.port is not None and self.child.exit_code is not None:
            end_listeners(self.child.home, self.port)
        self.child.start()

    def ready(self, client: httpx.Client) -> bool:
        """Whether it runs and answers; asks once, for at most a second."""
        if not self.child.running:
            return False
        try:
            if self.socket is not None:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.settimeout(1)
                    probe.connect(str(self.socket))
                    return True
            if self.port is None:
                return True
            if self.ready_path is None:
                with socket.create_connection((HOST, self.port), timeout=1):
                    return True
            return client.get(f"{self.url}{self.ready_path}", timeout=1).status_code == httpx.codes.OK
        except (OSError, httpx.HTTPError):
            return False


def servers(settings: Settings, home: Home) -> dict[str, Server]:
    """Every server by name, not started."""
    environment = home.environment(settings)
    binaries = Path(sys.executable).parent
    # it runs what it is asked to, and asks nobody who he is: a socket that lets this user in alone
    code_socket = socket_path(private_folder(home.run), "dagster-code.sock")
    workspace = _shared_workspace(home, code_socket)

    def child(name: str, *command: str, **extra: str) -> Child:
        return Child(name, command, home, {**environment, **extra}, log_bytes=settings.process_log_mb * 1_000_000)

    def face(name: str, *command: str, **extra: str) -> Server:
        title, setting, path = FACES[name]
        return Server(title, child(name, *command, **extra), getattr(settings, setting), path)

    return {
        SERVICE: face(
            SERVICE,
            *(str(binaries / "bentoml"), "serve", "bento.service:FraudDetector", "--working-dir", str(PROJECT)),
            *("--host", HOST, "--port", str(settings.service_port)),
            OMP_NUM_THREADS="1",
            # where its metrics' files are: a second home's service would empty them
            BENTOML_HOME=str(home.root / "bentoml"),
        ),
        CODE: Server(
            "Dagster code server",
            child(
                CODE,
                # it loads changed code without ending the runs that it started
                *(str(binaries / "dagster"), "code-server", "start", "--socket", str(code_socket)),
                *("--module-name", "assets.definitions", "--attribute", "defs", "--working-directory", str(PROJECT)),
                *("--location-name", LOCATION),
                # its inner server would end after 30 s without its word, as where a laptop sleeps, and not come back
                *("--heartbeat-ttl", str(7 * 86_400)),
            ),
            socket=code_socket,
        ),
        DAGSTER: face(
            DAGSTER,
            *(sys.executable, "-m", "assets.webserver", "--workspace", str(workspace)),
            *("--host", HOST, "--port", str(settings.dagster_port)),
        ),
        LOG: face(LOG, sys.executable, "-m", "fraud_platform.cli", "inference-log", "run"),
        MLFLOW: face(MLFLOW, sys.executable, "-m", "fraud_platform.run.mlflow_server"),
        DAEMON: Server(
            "Dagster daemon",
            child(DAEMON, str(binaries / "dagster-daemon"), "run", "--workspace", str(workspace)),
        ),
    }


def build(settings: Settings, home: Home) -> Child:
    """The command that brings the home up to date, not started; it takes Ctrl-C as its user would give it."""
    command = (sys.executable, "-m", "assets.bootstrap")
    return Child("build", command, home, home.environment(settings), polite=signal.SIGINT)


def addresses(settings: Settings) -> list[tuple[str, str, str]]:
    """Title, URL and readiness path of the servers that people open."""
    return [(title, f"http://{HOST}:{getattr(settings, port)}", path) for title, port, path in FACES.values()]


def check_ports(settings: Settings) -> None:
    """Raise PortInUseError if a server could not listen."""
    for title, setting, _ in FACES.values():
        port = getattr(settings, setting)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                raise PortInUseError(
                    f"port {port}, meant for {title}, is in use{_listener(port)}: "
                    f"end that program or set FRAUD_{setting.upper()} to a free port"
                ) from error


def _listener(port: int) -> str:
    """Who listens, as far as this user may know."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,)
            if listens and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    except psutil.Error:
        return ""
    return ""


def _shared_workspace(home: Home, code: Path) -> Path:
    """A workspace whose code location is one server for webserver and daemon, as `dagster dev` has it.

    Each would start its own from workspace.yaml: five seconds of processor time and 130 MB more.
    """
    path = home.run / "workspace.yaml"
    location = {"grpc_server": {"socket": str(code), "location_name": LOCATION}}
    path.write_text(json.dumps({"load_from": [location]}))  # JSON is YAML
    return path
