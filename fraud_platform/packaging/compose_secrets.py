"""The secrets of `deploy/compose.yaml` that stand between its own containers: made once, at random, and never shown.

What belongs here: the stores' passwords and the addresses that hold them. What does not: callers' API keys
(`decision.api_keys`), which are made for somebody.
"""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

_BYTES = 24
_PASSWORDS = ("postgres_password", "redis_password", "kafka_password", "grafana_password")
_USER = "fraud"


class SecretsError(RuntimeError):
    """The folder cannot hold secrets; the message says why."""


def make_secrets(folder: Path) -> list[str]:
    """Make what is missing; returns the names of the files that were made. A password that is there stays.

    The folder is its owner's alone. The files in it can be read by all: each container reads its own, under a user
    number of its own. Raises SecretsError, OSError.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        raise SecretsError(f"others may enter {folder}: chmod 700 {folder}")
    made = [name for name in _PASSWORDS if _write(folder / name, secrets.token_hex(_BYTES))]
    given = {name: (folder / name).read_text().strip() for name in _PASSWORDS}
    return made + [name for name, text in _derived(given).items() if _write(folder / name, text)]


def _derived(given: Mapping[str, str]) -> dict[str, str]:
    """What holds a password in the form that a process wants."""
    password = given["kafka_password"]
    module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    return {
        "postgres_url": f"postgresql://{_USER}:{given['postgres_password']}@postgres/{_USER}",
        "redis_url": f"redis://:{given['redis_password']}@redis:6379/0",
        "kafka_jaas": f'{module} required user_{_USER}="{password}";',
        "kafka_options": json.dumps(
            {
                "security.protocol": "SASL_PLAINTEXT",
                "sasl.mechanism": "PLAIN",
                "sasl.username": _USER,
                "sasl.password": password,
            }
        ),
    }


def _write(path: Path, text: str) -> bool:
    """Whether the file was made; one that is there stays. Nothing half written bears the name."""
    if path.exists():
        return False
    temporary = path.with_name(f".{path.name}.tmp")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        os.fchmod(file.fileno(), 0o444)
    temporary.replace(path)
    return True
