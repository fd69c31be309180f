"""What one payment asks Redis to count and keep, as commands with the key that says where they go.

What belongs here: an attempt and a settlement as commands. What does not: how they are sent to one server
(`standalone`) or to many (`cluster`), what the scripts do (`velocity`, `decision_key`).
"""

from typing import NamedTuple

import msgspec
from msgspec import structs

from fraud_platform.online import velocity
from fraud_platform.online.decision_key import CLAIM, CLAIM_SHA, LIFE_MS, SETTLE_SHA, decision_key
from fraud_platform.online.wire import command
from fraud_platform.schema import Transaction


class Keyed(NamedTuple):
    """One command, which gets one reply, and the key by which a Cluster knows its server."""

    key: bytes
    payload: bytes


def get(key: bytes) -> Keyed:
    """Reads a value."""
    return Keyed(key, command(b"GET", key))


class Attempt(msgspec.Struct, frozen=True):
    """One payment as velocity counts it. claim: empty for one that no decision belongs to. plan: whose windows are
    read."""

    payment: Transaction
    caller: str
    prefix: bytes
    write: bool
    claim: bytes
    plan: velocity.Plan = velocity.PLAN

    def late(self, now: int) -> "Attempt":
        """The attempt as it is counted `now`, UTC microseconds: what came in since then is no clock that jumped."""
        payment = self.payment
        happened = min(payment.event_time, payment.received_at)
        return structs.replace(self, payment=structs.replace(payment, event_time=happened, received_at=now))

    def call(self) -> Keyed:
        """User's and merchant's count in one, which claims the payment itself: all keys are on one server."""
        decision = self._decision() if self.claim else b""
        return self._call(velocity.ENTITIES, self.write, decision, self.claim)

    def calls(self) -> list[Keyed]:
        """User's and merchant's count without any claim; each may be on a server of its own."""
        return [self._call((entity,), self.write, b"", b"") for entity in velocity.ENTITIES]

    def claiming(self) -> Keyed:
        """The claim alone; whoever does not write only looks what stands."""
        key = self._decision()
        if not self.write:
            return get(key)
        return Keyed(key, command(b"EVALSHA", CLAIM_SHA, b"1", key, self.claim, b"%d" % LIFE_MS))

    def calls_once_claimed(self, standing: bytes) -> list[Keyed]:
        """User's and merchant's count after the claim. standing: what it found; another body's counts nowhere.

        A record of the same body counts too: its claim may have been taken without this count, and whatever was
        counted is known by its identity.
        """
        write = self.write and (not standing or self.claim.removeprefix(CLAIM) in standing)
        return [self._call((entity,), write, b"", b"") for entity in velocity.ENTITIES]

    def _decision(self) -> bytes:
        return decision_key(self.caller, self.payment.transaction_id, self.prefix)

    def _call(self, entities: tuple[velocity.Entity, ...], write: bool, decision: bytes, claim: bytes) -> Keyed:
        return Keyed._make(
            velocity.call(
                entities,
                self.payment,
                self.caller,
                self.prefix,
                write=write,
                decision=decision,
                claim=claim,
                plan=self.plan,
            )
        )


_SETTLE = b"*8\r\n" + b"".join(map(velocity.bulk, (b"EVALSHA", SETTLE_SHA, b"1")))
_LIFE_AND_CLAIM = b"".join(map(velocity.bulk, (b"%d" % LIFE_MS, CLAIM)))


def settlement(caller: str, transaction_id: str, prefix: bytes, record: bytes, replacing: bytes) -> Keyed:
    """Makes a record the decision on a payment unless another than `replacing` stands, which is then the reply."""
    key = decision_key(caller, transaction_id, prefix)
    payload = b"%b$%d\r\n%b\r\n$%d\r\n%b\r\n%b$%d\r\n%b\r\n" % (
        *(_SETTLE, len(key), key, len(record), record),
        *(_LIFE_AND_CLAIM, len(replacing), replacing),
    )
    return Keyed(key, payload)
