"""How far a home has followed the control store, and the signature by which its copy of the policy is what that said.

What belongs here: `<home>/control/policy.json` and the key beside it. What does not: following (`policy_control`). The
key never leaves the home. Whoever can read it can sign, so a signature stops what is damaged, put back from before or
changed by hand, and whoever may write the policy's folder alone.
"""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

import msgspec

from fraud_platform.decision.policy_record import PolicyError, PolicyRecord, current_file, policy_bytes
from fraud_platform.model.bundle import replace_file
from fraud_platform.private import private_folder

_KEY_BYTES = 32


class Reached(msgspec.Struct, frozen=True):
    """How far a home has followed."""

    store: str
    """Its `id`."""
    seq: int
    """Of the change that is in force; 0: of none."""
    signature: str
    """Of the file that is in force, hex; empty before the first."""


def reached(home: Path) -> Reached | None:
    """How far a home has followed; None where it is to be followed from the beginning."""
    try:
        return msgspec.json.decode(note_file(home).read_bytes(), type=Reached)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def note_reached(home: Path, store: str, seq: int, record: PolicyRecord | None) -> None:
    """Note how far a home has followed, and sign what is put into force next. The note comes first: whoever reads the
    file finds it signed, and where this process is killed in between it is put there by the next look."""
    private_folder(note_file(home).parent)
    signature = "" if record is None else _signature(_key(home), policy_bytes(record))
    replace_file(note_file(home), msgspec.json.encode(Reached(store, seq, signature)))


def is_as_said(home: Path) -> bool:
    """Whether the policy in force is what the control store said when it was last followed."""
    noted = reached(home)
    try:
        content = current_file(home).read_bytes()
    except FileNotFoundError:
        return noted is not None and not noted.signature
    return noted is not None and hmac.compare_digest(noted.signature, _signature(_key(home), content))


def check_copy(home: Path) -> None:
    """Raise PolicyError where it is not."""
    if not is_as_said(home):
        raise PolicyError(
            f"{current_file(home)} is not what the control store said, so nobody decides by it: it is put back as soon "
            "as the store answers"
        )


def note_file(home: Path) -> Path:
    """Where it is noted."""
    return home / "control" / "policy.json"


def _signature(key: bytes, content: bytes) -> str:
    return hmac.new(key, content, hashlib.sha256).hexdigest()


def _key(home: Path) -> bytes:
    """This home's key, made where there is none."""
    path = note_file(home).with_name("key")
    if not path.exists():
        private_folder(path.parent)
        made = path.with_name(f"key.{secrets.token_hex(8)}.tmp")
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
        try:
            # never over another process' key
            os.link(made, path)
        except FileExistsError:
            pass
        finally:
            made.unlink()
    return path.read_bytes()
