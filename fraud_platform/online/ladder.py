"""The ladder of features: Redis, else PostgreSQL, else cold-start defaults. A read from here never fails. What Redis
holds of an entity and may not be read comes from the next rung alone; velocity stays.

What belongs here: which rung serves. What does not: reading one (`store`), the breaker's rules. The deadline is the
rung's own: a read that is late fails there, and the next rung serves at once.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import structs

from fraud_platform.decision.breaker import Breaker
from fraud_platform.online.sets import ServedSet
from fraud_platform.online.store import Counted, OnlineFeatures
from fraud_platform.schema import Transaction

REDIS, POSTGRES, DEFAULT = "redis", "postgres", "default"


class HotStore(Protocol):
    """`store.OnlineStore` has it."""

    @property
    def sets(self) -> tuple[ServedSet, ...]: ...
    def serve(self, sets: Sequence[ServedSet]) -> None: ...
    async def read(self, payment: Transaction, *, caller: str, write: bool, claim: bytes) -> OnlineFeatures: ...
    async def count(self, payment: Transaction, *, caller: str, claim: bytes) -> Counted: ...
    def count_later(self, payment: Transaction, *, caller: str, claim: bytes) -> None: ...


class BatchStore(Protocol):
    """`cold.ColdStore` has it."""

    def serve(self, sets: Sequence[ServedSet]) -> None: ...
    async def read(self, payment: Transaction) -> OnlineFeatures: ...


class Ladder:
    """Features of a payment from the first rung that answers. One per worker."""

    def __init__(
        self,
        hot: HotStore,
        breaker: Breaker,
        failed: Callable[[str, BaseException], None],
        *,
        cold: tuple[BatchStore, Breaker] | None = None,
    ) -> None:
        """failed(rung, error): told of each failed read. cold: the second store and its breaker."""
        self._hot = hot
        self._breaker = breaker
        self._failed = failed
        self._cold = cold

    def serve(self, sets: Sequence[ServedSet]) -> None:
        """Read these sets from now on: the champion's, and the challenger's where it is another. Reads under way may
        still be of those before: each says which it is of."""
        self._hot.serve(sets)
        if self._cold is not None:
            self._cold[0].serve(sets)

    async def read(self, payment: Transaction, *, caller: str, write: bool, claim: bytes) -> OnlineFeatures:
        """Features of a payment, counted by velocity unless `write` is False. Never raises for a store that is away."""
        if self._breaker.allow():
            try:
                features = await self._hot.read(payment, caller=caller, write=write, claim=claim)
            except (OSError, ValueError) as error:
                self._breaker.failed()
                self._failed(REDIS, error)
            else:
                self._breaker.succeeded()
                theirs = features.beside
                if features.refused or (theirs is not None and theirs.refused):
                    return await self._made_good(payment, features)
                return features
        elif write:
            self._hot.count_later(payment, caller=caller, claim=claim)
        return await self._read_cold(payment) or self._defaults(payment)

    async def count(self, payment: Transaction, *, caller: str, claim: bytes) -> OnlineFeatures:
        """What stands of a payment, which velocity counts, and none of its features. Never raises for a store that is
        away."""
        counted = None
        if self._breaker.allow():
            try:
                counted = await self._hot.count(payment, caller=caller, claim=claim)
            except (OSError, ValueError) as error:
                self._breaker.failed()
                self._failed(REDIS, error)
            else:
                self._breaker.succeeded()
        else:
            self._hot.count_later(payment, caller=caller, claim=claim)
        return self._defaults(payment, counted)

    async def _made_good(self, payment: Transaction, features: OnlineFeatures) -> OnlineFeatures:
        """Features with the next rung's rows in place of those that were refused."""
        cold = await self._read_cold(payment)
        if cold is None:
            return features
        made = _replaced(features, cold)
        if made.beside is not None and cold.beside is not None:
            made = structs.replace(made, beside=_replaced(made.beside, cold.beside))
        return made

    async def _read_cold(self, payment: Transaction) -> OnlineFeatures | None:
        if self._cold is None:
            return None
        store, breaker = self._cold
        if not breaker.allow():
            return None
        try:
            features = await store.read(payment)
        except (OSError, ValueError) as error:
            breaker.failed()
            self._failed(POSTGRES, error)
            return None
        breaker.succeeded()
        return features

    def without_stores(self, payment: Transaction, *, caller: str, claim: bytes) -> OnlineFeatures:
        """What is known of a payment when nobody is waited for; velocity counts it all the same."""
        self._hot.count_later(payment, caller=caller, claim=claim)
        return self._defaults(payment)

    def _defaults(self, payment: Transaction, counted: Counted | None = None) -> OnlineFeatures:
        """Velocity is unknown, and so is when the user paid last: attempts since the snapshot may be missing."""
        sets = self._hot.sets
        first = self._default(sets[0], payment, counted)
        if len(sets) == 1:
            return first
        return structs.replace(first, beside=self._default(sets[1], payment, counted))

    def _default(self, served: ServedSet, payment: Transaction, counted: Counted | None) -> OnlineFeatures:
        epoch = counted.epoch if counted else None
        return OnlineFeatures(
            user_row=None,
            merchant_row=None,
            user_medians=served.medians["user"],
            merchant_medians=served.medians["merchant"],
            known_countries=None,
            known_devices=None,
            last_effective_time=None,
            velocity=served.unknown_velocity,
            user_effective_time=counted.user_effective_time if counted else payment.event_time,
            merchant_effective_time=counted.merchant_effective_time if counted else payment.event_time,
            user_snapshot=None,
            merchant_snapshot=None,
            epoch=epoch.epoch if epoch else None,
            complete_since=epoch.complete_since if epoch else None,
            user_counted_since=counted.user_counted_since if counted else None,
            merchant_counted_since=counted.merchant_counted_since if counted else None,
            duplicate=False,
            standing=counted.standing if counted else None,
            served_by={"user_features": DEFAULT, "merchant_features": DEFAULT},
            set_hash=served.catalogue.hash,
        )


def _replaced(features: OnlineFeatures, cold: OnlineFeatures) -> OnlineFeatures:
    """One set's features with the next rung's rows in place of those that were refused."""
    if not features.refused or cold.set_hash != features.set_hash:
        return features
    served_by = dict(features.served_by)
    if "user" in features.refused:
        served_by["user_features"] = cold.served_by["user_features"]
        features = structs.replace(
            features,
            user_row=cold.user_row,
            user_medians=cold.user_medians,
            known_countries=cold.known_countries,
            known_devices=cold.known_devices,
            user_snapshot=cold.user_snapshot,
        )
    if "merchant" in features.refused:
        served_by["merchant_features"] = cold.served_by["merchant_features"]
        features = structs.replace(
            features,
            merchant_row=cold.merchant_row,
            merchant_medians=cold.merchant_medians,
            merchant_snapshot=cold.merchant_snapshot,
        )
    return structs.replace(features, served_by=served_by)
