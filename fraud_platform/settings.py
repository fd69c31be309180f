"""Every knob of the platform in one typed class, read from FRAUD_* in the environment.

What belongs here: a name, a type, a default and one sentence. What does not: anything that opens a file.
"""

import json
from datetime import date
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from fraud_platform.channels import words


class Settings(BaseSettings):
    """The platform's settings; each field is the environment variable FRAUD_<FIELD> in upper case."""

    model_config = SettingsConfigDict(env_prefix="FRAUD_", env_file=".env", extra="ignore", frozen=True)

    # where state lives
    home: Path = Field(Path("var"), description="Folder of all local state: lake, Redis, MLflow, Dagster, logs.")
    clock_file: Path | None = Field(
        None, description="File that sets the platform's clock; scenarios write it. Never set it for real payments."
    )
    lake_url: str | None = Field(None, description="Root of the lake, as any fsspec address; default: <home>/lake.")
    region: str = Field(
        "",
        pattern="^[a-z0-9-]{0,32}$",
        description="Region of this home; empty: the first region, which trains the models and releases them for all.",
    )

    # where the history comes from
    mapping: Path | None = Field(None, description="Mapping file of the history to import; unset: the simulated bank.")
    history_start: date | None = Field(None, description="First day of the history; unset: chosen at the first run.")
    history_goes_on: bool = Field(
        False,
        description="Whether days after the end of an imported history are built from the service's own decisions.",
    )
    history_days: int = Field(120, ge=1, description="Days of simulated history at the first run, ending yesterday.")
    transactions_per_day: int = Field(4_600, ge=1, description="Average transactions per day of the simulated bank.")
    users: int = Field(5_000, ge=1, description="Users of the simulated bank.")
    merchants: int = Field(800, ge=1, description="Merchants of the simulated bank.")
    seed: int = Field(20_240_501, description="Seed of the simulated bank and of training.")
    bank_behaviour: dict[str, float] = Field(
        {},
        description='Overrides of the behaviour of the simulated bank, as JSON: {"card_testing": 0.01}.',
    )
    bank_changes: dict[date, dict[str, float]] = Field(
        {},
        description='The same, from a day on that has not been built yet: {"2026-03-01": {"online_scale": 2}}.',
    )
    base_currency: str = Field(
        "EUR", description="ISO 4217 currency of all amounts inside the platform; other currencies are converted to it."
    )
    channel_synonyms: dict[str, str] = Field(
        {},
        description='More words for `channel` and their meaning, as JSON: {"portal": "online", "branch": "other"}.',
    )

    # engines
    redis_url: str | None = Field(
        None, description="Redis of the online store, a Cluster as redis-cluster://…; unset: an embedded server."
    )
    redis_maxmemory_mb: int = Field(
        2_048,
        ge=64,
        description="Memory limit of the embedded Redis, in megabytes. When full, it refuses writes and payments are "
        "decided without it. Takes effect at its next start.",
    )
    postgres_url: SecretStr | None = Field(
        None, description="PostgreSQL of the cold store, which serves while Redis cannot; unset: an embedded server."
    )
    control_url: SecretStr | None = Field(
        None,
        description="PostgreSQL of the control store, which homes share the policy by; unset: this home is alone.",
    )
    kafka_bootstrap: str | None = Field(
        None, description="Kafka brokers (host:port,…) of the inference log; unset: a stream in Redis."
    )
    kafka_topic: str = Field("fraud.inference_log", description="Topic of the inference log.")
    kafka_options: dict[str, str] = Field(
        {}, description="Additional librdkafka properties as JSON, for example for SASL and TLS."
    )
    redis_stream: str = Field(
        "fraud:inference_log", description="Redis stream of the inference log while no Kafka is set."
    )
    engine: Literal["duckdb", "spark"] = Field(
        "duckdb", description="Engine that computes tiles, snapshots and the training set; Spark needs Java 17."
    )
    spark_master: str = Field(
        "local[*]", description="Master URL of Spark: local[n], spark://host:7077, yarn, k8s://…."
    )
    spark_options: dict[str, str] = Field({}, description="Additional Spark properties as JSON.")
    duckdb_memory: str = Field("4GB", description="Memory limit of one DuckDB connection.")
    duckdb_threads: int | None = Field(None, description="Threads of one DuckDB connection; unset: all cores.")

    # servers that `fraud-platform up` starts, all on loopback
    dagster_port: int = Field(3000, description="Port of the Dagster webserver.")
    service_host: str = Field(
        "127.0.0.1", description="Address the decision service listens on; beyond loopback it needs API keys."
    )
    service_port: int = Field(3001, description="Port of the decision service.")
    mlflow_port: int = Field(5000, description="Port of the MLflow server.")
    log_port: int = Field(3002, description="Port on which the inference log's process serves its metrics.")
    bind_host: str = Field(
        "127.0.0.1",
        description="Address that MLflow's server and the inference log's metrics listen on; neither asks for a key.",
    )
    allowed_hosts: list[str] = Field(
        [],
        description="Host names under which Dagster, MLflow and a decision service without keys may be called, as JSON "
        '["fraud.example"]; loopback names and IP addresses are always allowed.',
    )
    service_workers: int = Field(1, ge=1, description="Worker processes of the decision service.")
    api_key: SecretStr | None = Field(
        None, description="API key that this platform's own commands use at the decision service, once keys exist."
    )

    # the gateway, which callers meet
    gateway_host: str = Field(
        "127.0.0.1", description="Address the gateway listens on; beyond loopback the service behind it needs API keys."
    )
    gateway_port: int = Field(8443, description="Port of the gateway, TLS.")
    gateway_certificate: Path | None = Field(
        None, description="PEM file of the gateway's certificate with its chain; unset: a self-signed one is made."
    )
    gateway_certificate_key: Path | None = Field(None, description="PEM file of that certificate's private key.")
    gateway_blue: list[str] = Field(
        [],
        description='Addresses of the blue servers, as JSON ["host:port", …]; empty: FRAUD_SERVICE_PORT here.',
    )
    gateway_green: list[str] = Field(["127.0.0.1:3011"], description="Addresses of the green servers, likewise.")
    gateway_workers: int | None = Field(
        None,
        ge=1,
        description="Worker processes of nginx; unset: one per processor of the machine, also in a container.",
    )
    gateway_access_log: Path | None = Field(
        None, description="Access log of the gateway; unset: <home>/gateway/access.log."
    )
    gateway_rate: int = Field(
        1_000, ge=1, description="Requests per second allowed for one API key, or for one address without a key."
    )
    gateway_address_rate: int = Field(
        5_000, ge=1, description="Requests per second allowed for one address, whatever keys it uses."
    )
    gateway_address_connections: int = Field(
        4_096,
        ge=1,
        le=65_535,
        description="Requests of one address that may be under way at once, those half sent among them.",
    )
    gateway_timeout_ms: int = Field(
        200, ge=1, description="Milliseconds that the gateway waits for a decision before it tries the next server."
    )
    rules_port: int = Field(3003, description="Port of the process that decides by the rules when no service answers.")
    jwt_keys: Path | None = Field(
        None, description="File of public keys (JWKS) whose tokens are accepted besides API keys; unset: no tokens are."
    )
    jwt_issuer: str | None = Field(None, description="`iss` that such a token must carry.")
    jwt_audience: str | None = Field(None, description="`aud` that such a token must carry.")

    # features
    online_ttl_days: int = Field(
        3, ge=1, description="Age in days at which a batch feature in Redis counts as missing."
    )
    online_load_rate: int = Field(
        50_000, ge=1, description="Rows per second that a load writes to Redis, which goes on serving payments."
    )

    cold_ttl_days: int = Field(
        10,
        ge=1,
        description="Age in days at which a batch feature in the cold store counts as missing; it is loaded weekly.",
    )

    # labels
    label_ranks: dict[str, int] = Field(
        {},
        description='Ranks of label sources besides the defaults, as JSON {"investigator": 60}; the highest counts.',
    )
    feedback_per_minute: int = Field(
        600, ge=1, description="Labels per minute that one caller may send to a worker; a sixth of them at once."
    )
    feedback_waiting: int = Field(
        10_000, ge=0, description="Labels of one caller that may wait for payments that are not known yet."
    )
    feedback_waiting_days: int = Field(
        60, ge=1, description="Days after which a label whose payment is still unknown is given up and counted."
    )

    # model and policy
    label_maturity_days: int = Field(
        14, ge=0, description="Age in days at which a transaction without a label counts as good."
    )
    warmup_days: int = Field(
        30, ge=0, description="First days of the history that are kept out of training, while windows fill."
    )
    validation_days: int = Field(10, ge=1, description="Days after the training days that decide when training stops.")
    holdout_days: int = Field(
        16, ge=1, description="Last matured days, on which the model is measured; no training sees them."
    )
    search_trials: int = Field(5, ge=1, description="Parameter sets that a training tries.")
    search_seconds: float = Field(
        60,
        gt=0,
        description="Seconds after which a training starts no further trial; raise it together with search_trials.",
    )
    nulled_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of training rows that are shown as if a store were lost, so that the model copes with it.",
    )
    min_holdout_frauds: int = Field(
        100, ge=1, description="Minimum number of frauds in the holdout; with fewer, no model is promoted."
    )
    accepted_skew_days: list[date] = Field(
        [],
        description="Days, as JSON, that may train although served and recomputed values differ for a known reason.",
    )
    training_memory: Literal["internal", "external"] = Field(
        "internal",
        description="external: training vectors are read in batches, for data that exceed memory; slower.",
    )
    training_threads: int | None = Field(None, ge=1, description="Threads of one training; unset: all cores.")
    threshold: float = Field(
        0.7, gt=0, lt=1, description="For the first policy: a payment whose score is strictly greater is blocked."
    )
    review_threshold: float = Field(
        0.4,
        gt=0,
        lt=1,
        description="For the first policy: a payment whose score is strictly greater is flagged for review.",
    )
    loss_missed_fee: float = Field(
        15, ge=0, description="Cost of a missed fraud in addition to its amount, in base currency."
    )
    loss_blocked_good: float = Field(10, ge=0, description="Cost of blocking a good payment, in base currency.")
    loss_alert: float = Field(2, ge=0, description="Cost of handling one blocked payment, in base currency.")
    release_share: float = Field(
        0,
        ge=0,
        le=0.5,
        description="Share of payments above the threshold that is let through, to measure what blocking is worth.",
    )
    alert_budget_share: float = Field(
        0.005, gt=0, le=1, description="Largest share of payments that the threshold chosen by cost may block."
    )
    rule_high_amount: int = Field(
        10_000,
        ge=0,
        description="For the first policy: without a model, an amount above this is flagged; in base currency.",
    )
    rule_cross_country_amount: int = Field(
        1_000, ge=0, description="For the first policy: the same limit for payments outside the home country."
    )
    budget_ms: int = Field(
        100,
        ge=1,
        description="Milliseconds from sending a payment to receiving its answer; the stages below must fit into it.",
    )
    network_ms: int = Field(5, ge=0, description="Milliseconds of the budget for the network, each way.")
    read_deadline_ms: int = Field(
        20,
        ge=1,
        description="Milliseconds that a payment waits for Redis: for its features, and again to settle its decision.",
    )
    cold_deadline_ms: int = Field(
        45, ge=1, description="Milliseconds that a payment waits for the cold store once Redis has failed."
    )
    request_features_ms: int = Field(10, ge=0, description="Milliseconds of the budget for building the vector.")
    model_ms: int = Field(
        30, ge=0, description="Milliseconds of the budget for scoring; if they are not left, the rules decide."
    )
    log_ms: int = Field(5, ge=0, description="Milliseconds of the budget for writing the record.")
    breaker_failures: int = Field(5, ge=1, description="Failures in a row after which a dependency is no longer asked.")
    breaker_pause_ms: int = Field(
        1_000, ge=1, description="Milliseconds between probes of a dependency that is not asked."
    )
    capacity: int = Field(
        200, ge=1, description="Payments in progress in one worker above which the rules answer at once."
    )

    # watching
    drift_min_rows: int = Field(
        1_000,
        ge=1,
        description="Minimum decisions (or labels) in a day; with fewer, drift and performance trigger nothing.",
    )
    drift_min_share: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Minimum share of a day's decisions that are not degraded; with less, drift triggers nothing.",
    )
    feature_psi_limit: float = Field(0.2, gt=0, description="PSI of a feature above which a retraining starts.")
    drift_unusual: float = Field(
        2,
        ge=0,
        description="A PSI counts as drift only above this many times the largest that a day of the reference has.",
    )
    score_psi_limit: float = Field(0.1, gt=0, description="PSI of the score above which an alert is sent.")
    fraud_rate_sigmas: float = Field(
        2, gt=0, description="Half-width of the band around last week's fraud rate, in standard deviations."
    )
    false_positive_rise: float = Field(
        0.5, gt=0, description="Relative rise of the false-positive rate over last week's at which an alert is sent."
    )
    retrain_cooldown_days: int = Field(
        3, ge=0, description="Days after a retraining for drift during which drift starts no other."
    )

    notify: list[str] = Field(
        [],
        description='Receivers of alerts, as JSON: ["https://…", "slack+https://…", "mailto:a@b.c?smtp=host:25"].',
    )
    notify_quiet_hours: float = Field(
        24, gt=0, description="Hours during which the same problem is not reported again."
    )
    log_lag_alert: int = Field(
        50_000,
        ge=1,
        description="Decisions waiting in the broker above which an alert is sent; a stream in Redis holds 100,000.",
    )
    matured_labels_retrain: int = Field(
        200,
        ge=0,
        description="Newly matured frauds, since the champion's training, that start a retraining; 0: never.",
    )

    # releasing
    shadow_hours: float = Field(
        24, ge=0, description="Hours that a challenger scores in shadow before it decides any payment."
    )
    canary_hours: float = Field(24, ge=0, description="Minimum hours that a canary stays at each weight.")
    canary_weights: list[float] = Field(
        [0.1, 0.3], min_length=1, description="Successive shares of users that a canary decides for, as JSON."
    )
    canary_min_payments: int = Field(
        2_000, ge=1, description="Payments that both models must have scored before a challenger goes on."
    )
    canary_block_band: float = Field(
        2,
        gt=1,
        description="How many times more, or fewer, payments and money a challenger may block than the champion.",
    )
    canary_rate_slack: float = Field(
        0.05, gt=0, lt=1, description="How far a challenger's catch rate may lie below the champion's."
    )
    canary_error_limit: float = Field(0.01, gt=0, lt=1, description="Share of payments on which a challenger may fail.")
    canary_latency_ms: float = Field(
        5, gt=0, description="Milliseconds by which a challenger may be slower than the champion."
    )

    # packaging
    packed_release_decides: bool = Field(
        False,
        description="Whether a Bento's own release takes over in a home that already has another release in force.",
    )
    image_base: str = Field(
        "docker.io/library/python:3.11-slim-bookworm",
        description="Base of the service's image, preferably with its digest; it needs Python 3.11 and nothing else.",
    )
    image_nginx: str = Field(
        "docker.io/library/nginx:1.28-bookworm",
        description="Image from which the gateway's image takes nginx; it must be of the same Debian as image_base.",
    )
    image_name: str = Field(
        "fraud-detector", description="Name of the service's image, including its registry if it has one."
    )

    log_format: Literal["plain", "json"] = Field(
        "plain", description="Log format of service and inference log: plain text, or one JSON object per line."
    )
    process_log_mb: int = Field(
        10, ge=1, description="Size in megabytes at which a server's log file is rotated; five files are kept."
    )
    traces_url: str | None = Field(
        None,
        description="OpenTelemetry collector of decisions' traces, as http://host:4318/v1/traces; unset: no traces.",
    )
    traces_share: float = Field(
        0.01, ge=0, le=1, description="Share of decisions that are traced, besides those whose callers trace them."
    )

    # inference log
    spool_fsync_ms: int = Field(
        1_000,
        ge=1,
        description="Milliseconds of decisions that may be lost when the machine dies; when a process dies, none are.",
    )
    log_retention_days: int = Field(90, ge=1, description="Days that decisions stay in the lake.")
    whole_snapshot_days: int = Field(
        7, ge=1, description="Days after which a replaced snapshot keeps only the rows that payments asked for."
    )
    dagster_run_days: int = Field(
        30, ge=1, description="Days that Dagster keeps finished runs, except those that are still needed."
    )

    @field_validator("channel_synonyms")
    @classmethod
    def _synonyms_mean_channels(cls, value: dict[str, str]) -> dict[str, str]:
        words(value)
        return value

    @field_validator("notify")
    @classmethod
    def _addresses_can_be_told(cls, value: list[str]) -> list[str]:
        from fraud_platform.monitoring.alerts import check_address

        return [check_address(address) for address in value]

    @model_validator(mode="after")
    def _pairs_are_whole(self) -> Self:
        if (self.gateway_certificate is None) != (self.gateway_certificate_key is None):
            raise ValueError("set gateway_certificate and gateway_certificate_key together, or neither")
        if self.jwt_keys is not None and not (self.jwt_issuer and self.jwt_audience):
            raise ValueError("jwt_keys needs jwt_issuer and jwt_audience: whose tokens are accepted, and made for whom")
        return self

    @model_validator(mode="after")
    def _deadlines_fit_the_budget(self) -> Self:
        """The ordinary way of a payment, and the longest: by the cold store to the rules."""
        always = 2 * self.network_ms + 2 * self.read_deadline_ms + self.log_ms
        ways = {
            "request_features_ms + model_ms": self.request_features_ms + self.model_ms,
            "cold_deadline_ms": self.cold_deadline_ms,
        }
        for names, taken in ways.items():
            longest = always + taken
            if longest > self.budget_ms:
                raise ValueError(
                    f"a payment may take {longest} ms (2 × network_ms + 2 × read_deadline_ms + {names} + log_ms), "
                    f"which is more than budget_ms, {self.budget_ms}: lower one of them or raise the budget"
                )
        return self

    def environment(self) -> dict[str, str]:
        """The settings that were given, whatever file or variable they came from, as variables that say the same from
        another folder: paths absolute, secrets in the clear."""
        variables = {}
        for name in sorted(self.model_fields_set):
            value = getattr(self, name)
            if isinstance(value, SecretStr):
                variables[f"FRAUD_{name.upper()}"] = value.get_secret_value()
            elif isinstance(value, Path):
                variables[f"FRAUD_{name.upper()}"] = str(value.absolute())
            elif value is not None:
                plain = self.model_dump(mode="json", include={name})[name]
                variables[f"FRAUD_{name.upper()}"] = plain if isinstance(plain, str) else json.dumps(plain)
        return variables

    @property
    def lake(self) -> str:
        """Root of the lake as an fsspec address. Not cached: a copy of these settings with another home has its own."""
        return self.lake_url or str((self.home / "lake").absolute())

    @property
    def token_check(self) -> tuple[Path, str, str] | None:
        """File of public keys, issuer and audience of the tokens that are taken; None: none are."""
        if self.jwt_keys is None or self.jwt_issuer is None or self.jwt_audience is None:
            return None
        return self.jwt_keys.absolute(), self.jwt_issuer, self.jwt_audience
