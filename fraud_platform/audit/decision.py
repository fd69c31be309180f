"""One decision again from its record: what is held against what, and what came of it.

What belongs here: the checks of one record. What does not: the score and the decision themselves (`again`), finding a
record (`inference_log.search`), showing what was found (`screen`).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fraud_platform.audit.again import DecidingModels, NotKeptError, decide_again, score_again, values_again
from fraud_platform.channels import channel_of, is_online
from fraud_platform.currency import exponent
from fraud_platform.decision.policy import DECIDED_BY, RULES, Policy
from fraud_platform.decision.policy_record import read_policy
from fraud_platform.decision.reported import CLIENT_MODEL
from fraud_platform.decision.rules import FallbackRules
from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.features.request import RequestColumns, request_features
from fraud_platform.features.vector import Matrix
from fraud_platform.inference_log.record import SCHEMA_VERSION, DecisionRecord, hash_of_request
from fraud_platform.monitoring.skew import OfflineDay
from fraud_platform.processing import event_time
from fraud_platform.settings import Settings
from fraud_platform.versions import NewerVersionError, refuse_newer

Group = Literal["decision", "request", "vector", "training set"]

REBUILT = tuple(
    feature.name
    for feature in CATALOGUE.of("request")
    if all(table == "raw_transactions" or column in CATALOGUE.names
           for table, column in (source.split(".") for source in feature.inputs))
)  # fmt: skip
"""Request features that the recorded request gives, with the recorded batch values that they compare an amount with.
The others also ask what a store knew: the user's countries, devices and previous attempt."""


@dataclass(frozen=True)
class Check:
    """One fact of a record beside the same fact made again; None is null."""

    group: Group
    what: str
    recorded: object
    again: object
    same: bool


@dataclass(frozen=True)
class Replayed:
    """A decision made again. It `stands` when everything was made again and nothing differs."""

    record: DecisionRecord
    checks: list[Check]
    notes: list[str]
    """What could not be held against anything, and why."""
    catalogue: Catalogue
    """The features that are computed here."""
    not_kept: str | None = None
    """Why the decision could not be made again at all."""
    training_set: str | None = None
    """Why the training set was not compared; None: it was."""

    @property
    def differing(self) -> list[Check]:
        """The checks that differ."""
        return [check for check in self.checks if not check.same]

    @property
    def stands(self) -> bool:
        """Whether this is the very decision that was made."""
        return self.not_kept is None and not self.differing


class DecisionReplay:
    """Makes decisions again from their records. catalogue: the features that are computed here."""

    def __init__(self, settings: Settings, catalogue: Catalogue = CATALOGUE) -> None:
        self._catalogue = catalogue
        self._models = DecidingModels(settings.home)
        self._home = settings.home
        self._policies: dict[int, Policy | None] = {}
        self._seed = settings.seed
        self._rules = FallbackRules(settings.rule_high_amount, settings.rule_cross_country_amount)
        self._base_currency = settings.base_currency
        self._places = exponent(settings.base_currency)

    def replay(self, record: DecisionRecord, offline: OfflineDay) -> Replayed:
        """The decision again. offline: of the record's day."""
        notes: list[str] = []
        try:
            refuse_newer("the record", record.schema_version, SCHEMA_VERSION)
        except NewerVersionError as error:
            return Replayed(record, [], notes, self._catalogue, not_kept=str(error), training_set="of a later version")
        checks = list(self._request(record))
        not_kept = None
        try:
            checks += self._decision(record, notes)
        except NotKeptError as error:
            not_kept = str(error)
        checks += _vector(record, notes, self._catalogue)
        vector = offline.of(record)
        if isinstance(vector, str):
            return Replayed(record, checks, notes, self._catalogue, not_kept, training_set=vector)
        checks += [
            Check("training set", name, float(served), float(trained), _same_bits(served, trained))
            for name, served, trained in zip(self._catalogue.names, record.values, vector, strict=True)
        ]
        return Replayed(record, checks, notes, self._catalogue, not_kept)

    def _policy(self, version: int) -> Policy | None:
        if version not in self._policies:
            kept = read_policy(self._home, version)
            self._policies[version] = None if kept is None else kept.compiled()
        return self._policies[version]

    def _request(self, record: DecisionRecord) -> Iterator[Check]:
        request = record.request
        yield _check("request", "request_hash", record.request_hash, hash_of_request(request, record.schema_version))
        happened, skew = event_time(request.timestamp, record.received_at)
        yield _check("request", "event_time", record.event_time, happened)
        yield _check("request", "clock_skew", record.clock_skew, skew)
        # the rate of another currency is the day's, and no part of the record
        if request.currency == self._base_currency:
            yield _check("request", "amount", record.amount, request.amount_minor)
        # a word of a setting is of the setting of then, and no part of the record; the others are the values' version's
        meant = channel_of(request.channel)
        if meant is not None and record.catalogue_hash == self._catalogue.hash:
            yield _check("request", "channel", record.channel, meant)

    def _decision(self, record: DecisionRecord, notes: list[str]) -> Iterator[Check]:
        if record.model_version == CLIENT_MODEL:
            notes.append(
                "the caller's client decided, by limits of its own: there is no decision of the service to repeat"
            )
            return
        score, rung = None, RULES
        if record.score is not None:
            score, rung = score_again(record, self._models.of(record))
        policy = self._policy(record.policy_version)
        if policy is None:
            notes.append(
                f"policy version {record.policy_version} is not kept: thresholds are the record's, the limits of rules "
                "those of the settings"
            )
        decision, reason = decide_again(record, score, policy, self._rules, self._places, self._seed)
        yield Check("decision", "score", record.score, score, _same_score(record.score, score))
        yield _check("decision", "decision", record.decision, decision)
        yield _check("decision", "reason", record.reason, reason)
        if policy is not None and record.schema_version >= 3:
            again = policy.listed(reason, record.request, record.received_at)
            yield _check("decision", "listed", record.listed, again)
        yield _check("decision", "served_by", record.served_by.model, DECIDED_BY.get(reason, rung))
        if record.other_score is None:
            return
        try:
            beside = self._models.beside(record)
            other = beside.probability(values_again(record.other_seen or record, beside))
        except NotKeptError as error:
            notes.append(f"the score of the model beside it is not held: {error}")
        else:
            yield Check("decision", "other_score", record.other_score, other, _same_score(record.other_score, other))


def _vector(record: DecisionRecord, notes: list[str], catalogue: Catalogue) -> Iterator[Check]:
    """The request features again, from the request and the recorded batch values."""
    values = record.values
    if record.catalogue_hash != catalogue.hash:
        notes.append(f"the vector follows catalogue {record.catalogue_hash}, this code computes {catalogue.hash}")
    elif np.isnan(values).all():
        notes.append("no vector was built: the rules answered without asking a store")
    else:
        rebuilt = request_features(_columns(record, catalogue))[0]
        for feature, again in zip(catalogue.of("request"), rebuilt, strict=True):
            if feature.name in REBUILT:
                recorded = values[catalogue.position[feature.name]]
                yield Check("vector", feature.name, float(recorded), float(again), _same_bits(recorded, again))


def _columns(record: DecisionRecord, catalogue: Catalogue) -> RequestColumns:
    """One row; what only a store knows is null."""
    request, values = record.request, record.values

    def one(value: float | None) -> np.ndarray:
        return np.array([np.nan if value is None else value], np.float64)

    def batch(name: str) -> np.ndarray:
        return one(float(values[catalogue.position[name]]))

    abroad = None if request.user_country is None else float(request.country != request.user_country)
    return RequestColumns(
        amount=one(record.amount),
        event_time=np.array([record.event_time], np.int64),
        user_effective_time=one(float(record.user_effective_time)),
        last_effective_time=one(None),
        is_online=one(is_online(record.read_channel)),
        country_mismatch=one(abroad),
        country_known=one(None),
        device_known=one(None),
        user_amount_avg_30d=batch("user_amount_avg_30d"),
        user_amount_avg_90d=batch("user_amount_avg_90d"),
        user_amount_std_90d=batch("user_amount_std_90d"),
        user_amount_max_90d=batch("user_amount_max_90d"),
        merchant_amount_avg_30d=batch("merchant_amount_avg_30d"),
    )


def _check(group: Group, what: str, recorded: object, again: object) -> Check:
    return Check(group, what, recorded, again, recorded == again)


def _same_score(recorded: float | None, again: float | None) -> bool:
    """The same float64 bits, or both None."""
    if recorded is None or again is None:
        return recorded is again
    return struct.pack("<d", recorded) == struct.pack("<d", again)


def _same_bits(first: Matrix, second: Matrix) -> bool:
    """Two float32 scalars: the same bits, or both null."""
    return bool(first.view(np.uint32) == second.view(np.uint32) or (np.isnan(first) and np.isnan(second)))
