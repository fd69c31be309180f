"""The ladder of features: Redis, else PostgreSQL, else cold-start defaults. A read from here never fails. What Redis
holds of an entity and may not be read comes from the next rung alone; velocity stays.

What belongs here: which rung serves. What does not: reading one (`store`), the breaker's rules. The deadline is the
rung's own: a read that is late fails there, and the next rung serves at once.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from msgspec import structs

from fraud_platform.decision.breaker import Breaker
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.online.rows import Row
from fraud_platform.online.store import Counted, OnlineFeatures
from fraud_platform.schema import Transaction

REDIS, POSTGRES, DEFAULT = "redis", "postgres", "default"

_UNKNOWN_VELOCITY = np.full(len(CATALOGUE.of("velocity")), np.nan)


class HotStore(Protocol):
    """`store.OnlineStore` has it."""

    medians: dict[str, Row]

    async def read(self, payment: Transaction, *, caller: str, write: bool, claim: bytes) -> OnlineFeatures: ...
    async def count(self, payment: Transaction, *, caller: str, claim: bytes) -> Counted: ...
    def count_later(self, payment: Transaction, *, caller: str, claim: bytes) -> None: ...


class BatchStore(Protocol):
    """`cold.ColdStore` has it."""

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
                return await self._made_good(payment, features) if features.refused else features
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
        epoch = counted.epoch if counted else None
        return OnlineFeatures(
            user_row=None,
            merchant_row=None,
            user_medians=self._hot.medians["user"],
            merchant_medians=self._hot.medians["merchant"],
            known_countries=None,
            known_devices=None,
            last_effective_time=None,
            velocity=_UNKNOWN_VELOCITY,
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
        )
