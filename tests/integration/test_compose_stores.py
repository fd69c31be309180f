"""The stores of deploy/compose.yaml as real servers: started by its commands, they let nobody in without a password."""

import os
import re
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from fraud_platform.inference_log.broker import Message
from fraud_platform.inference_log.kafka import KafkaProducer
from fraud_platform.online.embedded_redis import find_redis_server
from fraud_platform.packaging.compose_secrets import make_secrets
from tests.conftest import free_port
from tests.integration import kafka_kit
from tests.redis_kit import NO_RETRY, wait_for

FILE = Path(__file__).parents[2] / "deploy" / "compose.yaml"
START_SECONDS = 30.0


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "secrets"
    make_secrets(folder)
    return folder


def service(name: str, secrets: Path) -> dict[str, Any]:
    """A service as its container is started, with its secrets where they are here."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", FILE.read_text()).replace("$$", "$")
    found: dict[str, Any] = yaml.safe_load(text.replace("/run/secrets", str(secrets)))["services"][name]
    return found


@pytest.fixture
def redis_port(tmp_path: Path, secrets: Path) -> Iterator[int]:
    told, port = service("redis", secrets), free_port()
    program, *options = told["command"]
    assert program == "redis-server"
    # by the name that servers before 7 know too
    options = [option.replace("listpack", "ziplist") for option in options]
    command = [*told["entrypoint"], str(find_redis_server()), *options, "--port", str(port), "--dir", str(tmp_path)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        try:
            yield port
        finally:
            process.terminate()


def test_redis_lets_nobody_in_without_the_password_of_its_address(redis_port: int, secrets: Path) -> None:
    address = (secrets / "redis_url").read_text().replace("@redis:6379", f"@127.0.0.1:{redis_port}")
    with (
        redis.Redis.from_url(address, retry=NO_RETRY) as client,
        redis.Redis(port=redis_port, retry=NO_RETRY) as stranger,
    ):
        wait_for(client)
        for ask in (stranger.ping, stranger.dbsize, stranger.config_get):
            with pytest.raises(redis.exceptions.AuthenticationError):
                ask()
        # what stands behind the password in the command counts as well
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        password = (secrets / "redis_password").read_text()
    shown = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
    assert not any(password.encode() in line for line in shown)


def test_kafka_lets_nobody_in_without_the_password_of_its_options(tmp_path: Path, secrets: Path) -> None:
    if kafka_kit.wanted() != "real":
        pytest.skip(
            "the mock cluster asks for no password: FRAUD_TEST_KAFKA=real starts a real broker (Java 17, Maven)"
        )
    ports = {number: free_port() for number in ("9092", "9093", "9094")}
    # as the image does: KAFKA_A_B is the property a.b
    properties = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): re.sub(
            r"909[234]", lambda found: str(ports[found[0]]), str(value)
        ).replace("://kafka:", "://127.0.0.1:")
        for name, value in service("kafka", secrets)["environment"].items()
    }
    properties["listener.name.clients.plain.sasl.jaas.config"] = (secrets / "kafka_jaas").read_text()
    properties["log.dirs"] = str(tmp_path / "data")
    file = tmp_path / "server.properties"
    file.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
    java = ["java", "-Xmx512m", "-cp", f"{kafka_kit.fetched()}/*"]
    form = ["kafka.tools.StorageTool", "format", "-c", str(file), "-t", uuid.uuid4().hex[:22]]
    subprocess.run([*java, *form], check=True, capture_output=True, timeout=60)
    bootstrap = f"127.0.0.1:{ports['9092']}"
    options = yaml.safe_load((secrets / "kafka_options").read_text())
    log = tmp_path / "kafka.log"
    with (
        log.open("wb") as output,
        subprocess.Popen([*java, "kafka.Kafka", str(file)], stdout=output, stderr=output) as process,
    ):
        try:
            client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, **options})
            deadline = time.monotonic() + START_SECONDS
            while True:
                try:
                    client.list_topics(timeout=1)
                    break
                except KafkaException:
                    assert process.poll() is None, log.read_text()[-2_000:]
                    assert time.monotonic() < deadline, "Kafka does not answer"
            producer = KafkaProducer(bootstrap, "decisions", options)
            producer.send([Message(b"user", b"payment")])
            producer.close()
            for wrong in ({}, options | {"sasl.password": "guessed"}):
                stranger = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, **wrong})
                with pytest.raises(KafkaException):
                    stranger.list_topics(timeout=3)
        finally:
            # an orderly end may wait for minutes for a controller that ends as well; nothing is to be kept
            process.kill()
