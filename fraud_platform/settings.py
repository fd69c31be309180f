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
        None, description="File that moves the platform's clock, which scenarios make; never set it for real payments."
    )
    lake_url: str | None = Field(None, description="Root of the lake, any fsspec address; default <home>/lake.")
    region: str = Field(
        "",
        pattern="^[a-z0-9-]{0,32}$",
        description="Region of this home; empty: the first, which trains and says who decides in all of them.",
    )

    # where the history comes from
    mapping: Path | None = Field(None, description="Mapping file of an imported history; unset: the simulated bank.")
    history_start: date | None = Field(None, description="First day of history; unset: fixed at the first run.")
    history_goes_on: bool = Field(
        False, description="After an imported history's last day, days are built of what the service decides."
    )
    history_days: int = Field(120, ge=1, description="Days of simulated history at the first run, ending yesterday.")
    transactions_per_day: int = Field(4_600, ge=1, description="Mean transactions a day of the simulated bank.")
    users: int = Field(5_000, ge=1, description="Users of the simulated bank.")
    merchants: int = Field(800, ge=1, description="Merchants of the simulated bank.")
    seed: int = Field(20_240_501, description="Seed of the simulated bank and of training.")
    bank_behaviour: dict[str, float] = Field(
        {},
        description='Behaviour of the simulated bank beside its defaults, as JSON: {"card_testing": 0.01}.',
    )
    bank_changes: dict[date, dict[str, float]] = Field(
        {},
        description='The same from a day on, which is not built yet: {"2026-03-01": {"online_scale": 2}}.',
    )
    base_currency: str = Field("EUR", description="ISO 4217 currency of all amounts inside; others are converted.")
    channel_synonyms: dict[str, str] = Field(
        {},
        description='Further words of `channel` and what they mean, as JSON: {"portal": "online", "branch": "other"}.',
    )

    # engines
    redis_url: str | None = Field(
        None, description="Redis of the online store, a Cluster as redis-cluster://…; unset: an embedded server."
    )
    redis_maxmemory_mb: int = Field(
        2_048,
        ge=64,
        description="Megabytes that the embedded Redis takes; full, it refuses writes, and payments are decided "
        "without it. From its next start.",
    )
    postgres_url: SecretStr | None = Field(
        None, description="PostgreSQL of the cold store, which serves when Redis does not; unset: an embedded server."
    )
    kafka_bootstrap: str | None = Field(
        None, description="Kafka brokers (host:port,…) of the inference log; unset: a stream in Redis."
    )
    kafka_topic: str = Field("fraud.inference_log", description="Topic of the inference log.")
    kafka_options: dict[str, str] = Field(
        {}, description="Further librdkafka properties as JSON, such as those of SASL and TLS."
    )
    redis_stream: str = Field("fraud:inference_log", description="Stream of the inference log where Kafka is unset.")
    engine: Literal["duckdb", "spark"] = Field(
        "duckdb", description="What computes tiles, snapshots and the training set; Spark needs Java 17."
    )
    spark_master: str = Field(
        "local[*]", description="Master URL of Spark: local[n], spark://host:7077, yarn, k8s://…."
    )
    spark_options: dict[str, str] = Field({}, description="Further properties of Spark as JSON.")
    duckdb_memory: str = Field("4GB", description="Memory limit of one DuckDB connection.")
    duckdb_threads: int | None = Field(None, description="Threads of one DuckDB connection; unset: all cores.")

    # servers that `fraud-platform up` starts, all on loopback
    dagster_port: int = Field(3000, description="Port of the Dagster webserver.")
    service_host: str = Field(
        "127.0.0.1", description="Address the decision service listens on; beyond loopback it needs API keys."
    )
    service_port: int = Field(3001, description="Port of the decision service.")
    mlflow_port: int = Field(5000, description="Port of the MLflow server.")
    log_port: int = Field(3002, description="Port of the metrics of the inference log's process.")
    bind_host: str = Field(
        "127.0.0.1",
        description="Address that MLflow's server and the inference log's metrics listen on; neither asks for keys.",
    )
    allowed_hosts: list[str] = Field(
        [],
        description="Names that Dagster, MLflow and a decision service without keys are called by, as JSON "
        '["fraud.example"]; those of loopback and addresses are taken anyhow.',
    )
    service_workers: int = Field(1, ge=1, description="Worker processes of the decision service.")
    api_key: SecretStr | None = Field(
        None, description="Key that this platform's own commands show the decision service, once keys exist."
    )

    # the gateway, which callers meet
    gateway_host: str = Field(
        "127.0.0.1", description="Address the gateway listens on; beyond loopback the service behind it needs API keys."
    )
    gateway_port: int = Field(8443, description="Port of the gateway, TLS.")
    gateway_certificate: Path | None = Field(
        None, description="PEM file of the gateway's certificate with its chain; unset: one is made that nobody signed."
    )
    gateway_certificate_key: Path | None = Field(None, description="PEM file of that certificate's key.")
    gateway_blue: list[str] = Field(
        [], description='Addresses of the blue release\'s servers, as JSON ["host:port", …]; empty: FRAUD_SERVICE_PORT.'
    )
    gateway_green: list[str] = Field(["127.0.0.1:3011"], description="The same of the green release.")
    gateway_workers: int | None = Field(
        None,
        ge=1,
        description="Worker processes of nginx; unset: one a processor, in a container of all the machine's.",
    )
    gateway_access_log: Path | None = Field(
        None, description="File that gets a line for each request; unset: <home>/gateway/access.log."
    )
    gateway_rate: int = Field(
        1_000, ge=1, description="Requests a second that one API key, or an address that shows none, may send."
    )
    gateway_address_rate: int = Field(
        5_000, ge=1, description="Requests a second that one address may send, whatever keys it shows."
    )
    gateway_timeout_ms: int = Field(
        200, ge=1, description="Milliseconds that the gateway waits for a decision before it asks the next server."
    )
    rules_port: int = Field(3003, description="Port of the process that decides by rules where no service answers.")
    jwt_keys: Path | None = Field(
        None, description="File of public keys (JWKS) whose tokens are taken beside API keys; unset: none are."
    )
    jwt_issuer: str | None = Field(None, description="The `iss` that such a token must have.")
    jwt_audience: str | None = Field(None, description="The `aud` that such a token must have.")

    # features
    online_ttl_days: int = Field(3, ge=1, description="Age at which a batch feature value counts as missing.")
    online_load_rate: int = Field(
        50_000, ge=1, description="Rows a second that a load writes to Redis, which serves payments meanwhile."
    )

    cold_ttl_days: int = Field(
        10, ge=1, description="The same for values of the cold store, which is loaded weekly and after a promotion."
    )

    # labels
    label_ranks: dict[str, int] = Field(
        {},
        description='Ranks of sources of labels beside the defaults, as JSON {"investigator": 60}; the higher counts.',
    )
    feedback_per_minute: int = Field(
        600, ge=1, description="Labels a minute that one caller may send to a worker; a sixth of them at once."
    )
    feedback_waiting: int = Field(
        10_000, ge=0, description="Labels of one caller that may wait for payments which nobody knows yet."
    )
    feedback_waiting_days: int = Field(
        60, ge=1, description="Days after which a label whose payment nobody knows is given up, and counted."
    )

    # model and policy
    label_maturity_days: int = Field(14, ge=0, description="Age at which a transaction without a label counts as good.")
    warmup_days: int = Field(30, ge=0, description="First days of history kept out of training: windows still fill.")
    validation_days: int = Field(10, ge=1, description="Days that stop training early, after the training days.")
    holdout_days: int = Field(16, ge=1, description="Last matured days, seen by no training, that measure the model.")
    search_trials: int = Field(5, ge=1, description="Parameter sets that a training tries.")
    search_seconds: float = Field(
        60, gt=0, description="Time after which a training tries no further set; more trials want more of it."
    )
    nulled_share: float = Field(
        0.1, ge=0, lt=1, description="Share of training rows seen as if a store were lost, so that the model bears it."
    )
    min_holdout_frauds: int = Field(
        100, ge=1, description="Frauds in the holdout below which no model is promoted: its figures say too little."
    )
    accepted_skew_days: list[date] = Field(
        [],
        description="Days as JSON whose differences between served and recomputed values are explained, and may train.",
    )
    training_memory: Literal["internal", "external"] = Field(
        "internal",
        description="external: vectors of the training days stay in the lake and are read batch by batch; slower.",
    )
    training_threads: int | None = Field(None, ge=1, description="Threads of one training; unset: all cores.")
    threshold: float = Field(
        0.7, gt=0, lt=1, description="Of the first policy: a payment is blocked when its score is strictly greater."
    )
    review_threshold: float = Field(
        0.4, gt=0, lt=1, description="Of the first policy: a score strictly greater is flagged for review."
    )
    loss_missed_fee: float = Field(15, ge=0, description="Cost of a missed fraud beside its amount, base currency.")
    loss_blocked_good: float = Field(10, ge=0, description="Cost of blocking a good payment, base currency.")
    loss_alert: float = Field(2, ge=0, description="Cost of looking at one blocked payment, base currency.")
    release_share: float = Field(
        0,
        ge=0,
        le=0.5,
        description="Share of what the threshold would block that is let through, so that blocking can be measured.",
    )
    alert_budget_share: float = Field(
        0.005, gt=0, le=1, description="Share of payments that may be blocked by the threshold chosen by cost."
    )
    rule_high_amount: int = Field(
        10_000,
        ge=0,
        description="Of the first policy: without a model, an amount above this is flagged; base currency.",
    )
    rule_cross_country_amount: int = Field(
        1_000, ge=0, description="Of the first policy: the same for an amount outside the home country."
    )
    budget_ms: int = Field(
        100, ge=1, description="Milliseconds from a payment's sending to its answer; the stages below must fit in it."
    )
    network_ms: int = Field(5, ge=0, description="Milliseconds of the budget that one way over the network may take.")
    read_deadline_ms: int = Field(
        20,
        ge=1,
        description="Milliseconds that a payment waits for Redis: for its features, and to settle its decision.",
    )
    cold_deadline_ms: int = Field(
        45, ge=1, description="Milliseconds that it waits for the cold store's, once Redis has failed it."
    )
    request_features_ms: int = Field(10, ge=0, description="Milliseconds of the budget for building the vector.")
    model_ms: int = Field(
        30, ge=0, description="Milliseconds of the budget for scoring; where they are not left, the rules decide."
    )
    log_ms: int = Field(5, ge=0, description="Milliseconds of the budget for writing the record down.")
    breaker_failures: int = Field(5, ge=1, description="Failures in a row after which a dependency is left alone.")
    breaker_pause_ms: int = Field(1_000, ge=1, description="Milliseconds between probes of a dependency left alone.")
    capacity: int = Field(
        200, ge=1, description="Payments under way in one worker beyond which the rules answer at once."
    )

    # watching
    drift_min_rows: int = Field(
        1_000, ge=1, description="Decisions (or labels) of a day below which drift and performance decide nothing."
    )
    drift_min_share: float = Field(
        0.9, ge=0, le=1, description="Share of a day's decisions with nothing degraded below which likewise."
    )
    feature_psi_limit: float = Field(0.2, gt=0, description="PSI of a feature above which a retraining is started.")
    drift_unusual: float = Field(
        2, ge=0, description="No drift is a PSI below so many times the largest that a day of the reference would have."
    )
    score_psi_limit: float = Field(0.1, gt=0, description="PSI of the score above which people are told to look.")
    fraud_rate_sigmas: float = Field(
        2, gt=0, description="Half the width of the band of the last week's fraud rate, in standard deviations."
    )
    false_positive_rise: float = Field(
        0.5, gt=0, description="Rise of the false-positive rate over the last week's at which business is told."
    )
    retrain_cooldown_days: int = Field(
        3, ge=0, description="Days after a retraining for drift in which drift starts no other."
    )

    notify: list[str] = Field(
        [], description='Where alerts go, as JSON: ["https://…", "slack+https://…", "mailto:a@b.c?smtp=host:25"].'
    )
    notify_quiet_hours: float = Field(24, gt=0, description="Hours in which the same trouble is not told again.")
    log_lag_alert: int = Field(
        50_000,
        ge=1,
        description="Decisions behind in the broker above which people are told; a stream in Redis takes 100,000.",
    )
    matured_labels_retrain: int = Field(
        200,
        ge=0,
        description="Frauds that matured since the champion's data at which it is retrained; 0: never for that.",
    )

    # releasing
    shadow_hours: float = Field(
        24, ge=0, description="Hours that a challenger scores beside the champion before it decides anything."
    )
    canary_hours: float = Field(24, ge=0, description="Hours that a canary keeps each of its weights at least.")
    canary_weights: list[float] = Field(
        [0.1, 0.3], min_length=1, description="Shares of users that a canary decides for, one after the other, as JSON."
    )
    canary_min_payments: int = Field(
        2_000, ge=1, description="Payments that both models have scored before a challenger goes on."
    )
    canary_block_band: float = Field(
        2,
        gt=1,
        description="A challenger may block up to so many times the champion's payments or money, or one of so many.",
    )
    canary_rate_slack: float = Field(
        0.05, gt=0, lt=1, description="By how much a challenger's catch rate may lie below the champion's."
    )
    canary_error_limit: float = Field(0.01, gt=0, lt=1, description="Share of payments that a challenger may fail on.")
    canary_latency_ms: float = Field(5, gt=0, description="Milliseconds that a challenger's answers may take longer.")

    # packaging
    packed_release_decides: bool = Field(
        False, description="Whether a Bento's own release is put into force also in a home that has another in force."
    )
    image_base: str = Field(
        "docker.io/library/python:3.11-slim-bookworm",
        description="Image that the service's image is built on, best with its digest; it needs Python 3.11 alone.",
    )
    image_nginx: str = Field(
        "docker.io/library/nginx:1.28-bookworm",
        description="Image that the gateway's image has its nginx from; of the same Debian as image_base.",
    )
    image_name: str = Field("fraud-detector", description="Name of the service's image, with its registry if any.")

    log_format: Literal["plain", "json"] = Field(
        "plain", description="How service and inference log write their logs: for people, or a JSON object a line."
    )
    process_log_mb: int = Field(
        10, ge=1, description="Megabytes of what a server prints before another file is begun; five files are kept."
    )
    traces_url: str | None = Field(
        None,
        description="OpenTelemetry collector that gets decisions' traces, as http://host:4318/v1/traces; unset: none.",
    )
    traces_share: float = Field(
        0.01, ge=0, le=1, description="Share of decisions that are traced, beside those whose callers trace them."
    )

    # inference log
    spool_fsync_ms: int = Field(
        1_000, ge=1, description="Milliseconds of decisions that a machine may lose which dies; a process loses none."
    )
    log_retention_days: int = Field(90, ge=1, description="Days that decisions are kept in the lake.")
    whole_snapshot_days: int = Field(
        7, ge=1, description="Days after which a snapshot out of force keeps only the rows that payments asked for."
    )
    dagster_run_days: int = Field(
        30, ge=1, description="Days that Dagster keeps a run after its end, but for the runs that something needs."
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
            raise ValueError("gateway_certificate and gateway_certificate_key are set together or not at all")
        if self.jwt_keys is not None and not (self.jwt_issuer and self.jwt_audience):
            raise ValueError("jwt_keys needs jwt_issuer and jwt_audience: whose tokens, and made for whom")
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
