"""A real Prometheus and Alertmanager on the project's own configuration, with a receiver of what they tell.

What belongs here: starting, asking, what is replaced for a test (ports and waiting times alone). What does not: rules.
"""

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from service_kit import free_port

ROOT = Path(__file__).parents[2]
CONFIGURATION = ROOT / "deploy" / "prometheus"

needs_prometheus = pytest.mark.skipif(
    shutil.which("promtool") is None or shutil.which("prometheus-alertmanager") is None,
    reason="needs the Debian packages of deploy/system-packages.txt: prometheus, prometheus-alertmanager",
)


class Receiver:
    """Where Alertmanager delivers: the alerts that wake somebody."""

    def __init__(self) -> None:
        self.paged: list[dict[str, Any]] = []
        paged = self.paged

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if self.path == "/pages":
                    paged.extend(body["alerts"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Stay silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Stack:
    """Prometheus and Alertmanager, scraping a service and an inference log of these ports every second."""

    def __init__(self, folder: Path, service_port: int, log_port: int) -> None:
        self.receiver = Receiver()
        port, alerts_port = free_port(), free_port()
        places = {"3001": service_port, "3002": log_port, "9093": alerts_port, "9095": self.receiver.port}
        shutil.copytree(CONFIGURATION, folder)
        for path in [*folder.glob("*.yml"), *folder.glob("rules/*.yml")]:
            text = path.read_text()
            for usual, here in places.items():
                text = text.replace(f"127.0.0.1:{usual}", f"127.0.0.1:{here}")
            for usual in ("scrape_interval: 15s", "evaluation_interval: 15s", "group_wait: 30s", "for: 1m"):
                text = text.replace(usual, f"{usual.split(':')[0]}: 1s")
            path.write_text(text)
        self._processes = [
            self._start(folder, "prometheus", f"--config.file={folder}/prometheus.yml",
                        f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"),
            self._start(folder, "prometheus-alertmanager", f"--config.file={folder}/alertmanager.yml",
                        f"--storage.path={folder}/alerts", f"--web.listen-address=127.0.0.1:{alerts_port}",
                        "--cluster.listen-address="),
        ]  # fmt: skip
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False)
        self.wait(lambda: self.http.get("/-/ready").status_code == 200, "Prometheus is ready")

    @staticmethod
    def _start(folder: Path, *command: str) -> "subprocess.Popen[bytes]":
        with (folder / f"{command[0]}.log").open("wb") as log:
            return subprocess.Popen([*command, "--log.level=warn"], cwd=folder, stdout=log, stderr=log)

    def ask(self, path: str, **parameters: Any) -> Any:
        """What the API answers."""
        answer = self.http.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, query: str, seconds: int = 120) -> list[float]:
        """Every number that a query had in the last seconds."""
        now = time.time()
        data = self.ask("query_range", query=query, start=now - seconds, end=now, step=1)
        found = [float(value) for series in data["result"] for _, value in series["values"]]
        return [value for value in found if value == value]

    def wait(self, there: Callable[[], object], what: str, seconds: float = 40) -> None:
        """Until something is there."""
        until = time.monotonic() + seconds
        while True:
            try:
                if there():
                    return
            except httpx.TransportError:
                pass
            assert time.monotonic() < until, f"not within {seconds} s: {what}"
            time.sleep(0.2)

    def close(self) -> None:
        """End both."""
        self.http.close()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(20)
        self.receiver.close()
