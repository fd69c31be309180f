# The two commands are `make run` and `make test`; everything they need is set up by them.
# What belongs here: names for commands. What does not: logic; that is in `fraud-platform` and the suite.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run gateway test test-kafka fetch-kafka test-image test-chart image-base soak lint down clean dagster serve bench bench-train bench-serving bench-reads bench-online bench-loop bench-footprint drill scenarios audit lock setup boards bench-lake bench-engines bench-pipeline bench-kafka bench-width compare test-benchmarks test-upgrade

BIN := .venv/bin
READY := .venv/.ready
export BENTOML_DO_NOT_TRACK := true
export DO_NOT_TRACK := true
# A process that may not keep what it compiles does so at each start: the service's imports take 6 s then, else 2.6.
unexport PYTHONDONTWRITEBYTECODE

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

run: $(READY) ## build the platform from raw logs to live decisions, and keep it running until Ctrl-C
	@$(BIN)/fraud-platform up

down: $(READY) ## stop everything that `make run` started, Redis included
	@$(BIN)/fraud-platform down

test: $(READY) ## run the whole test suite
	@deploy/system-packages.sh
	@# three for two cores, since tests wait for servers a quarter of the time; what measures time runs alone
	@$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(READY) ## check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

audit: $(READY) ## look for secrets in the checkout, and for known holes in the locked packages
	@$(BIN)/python .ci/audit

dagster: $(READY) ## open Dagster alone, as its developers do: http://127.0.0.1:3000
	@umask 077; DAGSTER_HOME="$$($(BIN)/python -m fraud_platform.run.home)" $(BIN)/dagster dev -w workspace.yaml \
		--host 127.0.0.1 --port $${FRAUD_DAGSTER_PORT:-3000}

serve: $(READY) ## start the decision service alone: http://127.0.0.1:3001
	@umask 077; OMP_NUM_THREADS=1 $(BIN)/bentoml serve bento.service:FraudDetector --host 127.0.0.1 \
		--port $${FRAUD_SERVICE_PORT:-3001}

gateway: $(READY) ## start the gateway before the service, TLS: https://127.0.0.1:8443 (nginx must be installed)
	@$(BIN)/fraud-platform gateway start

boards: $(READY) ## draw the dashboards from what a running Prometheus has, as PNG (ARGS="--help")
	@$(BIN)/python deploy/grafana/picture.py $(ARGS)

clean: ## say what would be removed of local state and caches; CONFIRM=yes removes it
	@paths="$$(ls -d $${FRAUD_HOME:-var} build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis 2>/dev/null)"; \
	if [ -z "$$paths" ]; then echo "Nothing to remove."; \
	elif [ "$(CONFIRM)" != yes ]; then echo "Would stop the platform and remove:" $$paths; echo "Do it with: make clean CONFIRM=yes"; \
	else if [ -x $(BIN)/fraud-platform ]; then $(BIN)/fraud-platform down || [ $$? = 3 ] || exit 1; fi; rm -rf $$paths; echo "Removed:" $$paths; fi

bench: $(READY) ## time a day of a million transactions through every offline stage
	@$(BIN)/python -m benchmarks.million

bench-train: $(READY) ## time training as data grows, in memory and from disk, on the vectors that `make run` built
	@$(BIN)/python -m benchmarks.training $(ARGS)

bench-serving: $(READY) ## time decisions beside the reference pattern, Feast's SDK and an empty endpoint (15 minutes)
	@$(BIN)/python -m benchmarks.serving $(ARGS)

compare: $(READY) ## hold this checkout's service against a commit's, by turns: BASE=main (ARGS="--help"; 5 minutes)
	@$(BIN)/python -m benchmarks.compare $(BASE) $(ARGS)

bench-width: $(READY) ## measure workers, instances behind the gateway, a noisy neighbour, and the queueing model (6 minutes)
	@$(BIN)/python -m benchmarks.width $(ARGS)

bench-reads: $(READY) ## time the reads of a payment's features alone, from Redis and from PostgreSQL (2 minutes)
	@$(BIN)/python -m benchmarks.reads $(ARGS)

bench-online: $(READY) ## weigh users in Redis, time filling it, and what serving feels of that (4 minutes)
	@$(BIN)/python -m benchmarks.online $(ARGS)

test-kafka: $(READY) ## run the inference log's tests against a real Kafka, fetched with Maven (Java 17)
	@FRAUD_TEST_KAFKA=real $(BIN)/pytest tests/integration/test_inference_log.py \
		tests/integration/test_kafka_width.py tests/integration/test_compose_stores.py -k kafka $(ARGS)

fetch-kafka: $(READY) ## fetch the Kafka of `make test-kafka` with Maven
	@$(BIN)/python -c 'from tests.integration.kafka_kit import fetched; fetched()'

test-benchmarks: $(READY) ## run the benchmarks of serving in a short form, to see that they run (8 minutes)
	@deploy/system-packages.sh
	@FRAUD_TEST_BENCHMARKS=yes $(BIN)/pytest tests/integration/test_serving_benchmark.py \
		tests/integration/test_width_benchmark.py tests/integration/test_compare_benchmark.py $(ARGS)

test-upgrade: $(READY) ## upgrade and take back service and platform by two older versions of the code (10 minutes)
	@FRAUD_TEST_UPGRADE=yes $(BIN)/pytest tests/integration/test_upgrade.py $(ARGS)

image-base: ## make base images of Debian's packages, where no registry of images can be reached (mmdebstrap, buildah)
	@deploy/image/base.sh
	@deploy/image/base.sh localhost/fraud-nginx:bookworm nginx

test-image: $(READY) ## build the images of service and gateway on these and run them, read-only and not as root (buildah, root)
	@FRAUD_TEST_IMAGE=yes $(BIN)/pytest tests/integration/test_image.py $(ARGS)

test-chart: $(READY) ## render the chart with Helm (fetched with Go) and hold it against Kubernetes' schemas
	@[ -x build/bin/helm ] || GOBIN=$(CURDIR)/build/bin go install helm.sh/helm/v3/cmd/helm@v3.16.4
	@PATH="$(CURDIR)/build/bin:$$PATH" $(BIN)/pytest tests/unit/test_chart.py $(ARGS)
	@$(BIN)/uv tool run --quiet --from kubernetes-validate==1.33.1 kubernetes-validate --strict tests/golden/chart.yaml

soak: $(READY) ## run the faults under load for a quarter of an hour, at 500 requests a second
	@FRAUD_TEST_SOAK=yes $(BIN)/pytest tests/integration/test_faults_under_load.py $(ARGS)

scenarios: $(READY) ## play every scenario through the real service, headless (20 minutes)
	@FRAUD_TEST_SCENARIOS=all $(BIN)/pytest tests/e2e/test_scenarios.py $(ARGS)

bench-lake: $(READY) ## count and time what the lake asks of S3, beside a folder (1 minute)
	@$(BIN)/python -m benchmarks.lake $(ARGS)

bench-kafka: $(READY) ## time decisions through a real Kafka into the lake, by 1, 2 and 4 consumers (Java 17; 2 minutes)
	@$(BIN)/python -m benchmarks.kafka $(ARGS)

bench-loop: $(READY) ## run retrain sensor and canary on seeded streams: how often each is right (3 minutes)
	@$(BIN)/python -m benchmarks.loop $(ARGS)

drill: $(READY) ## on a copy of the home: lose one store after the other, get each back, compare what is decided
	@$(BIN)/fraud-platform drill

bench-engines: $(READY) ## time the same days through DuckDB and through Spark (Java 17; 5 minutes)
	@$(BIN)/python -m benchmarks.engines $(ARGS)

bench-pipeline: $(READY) ## time, weigh and grow a new day of 5 million users, beside pandas and Feast (1 hour the first time)
	@$(BIN)/python -m benchmarks.pipeline $(ARGS)

bench-footprint: $(READY) ## weigh bytes per user, attempt and row for `fraud-platform capacity` (1 minute)
	@$(BIN)/python -m benchmarks.footprint $(ARGS)

lock: $(READY) ## resolve pyproject.toml anew into requirements.lock
	$(BIN)/uv pip compile pyproject.toml --group dev --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --upgrade -o requirements.lock
	@# the images: the same versions, with XGBoost of the same version and without CUDA
	@for image in "serving deploy/image/serving.in" "platform pyproject.toml --extra s3 deploy/image/platform.in"; do \
		set -- $$image; lock="deploy/image/$$1.lock"; shift; \
		sed -n 's/^xgboost==\([^ ]*\).*/xgboost-cpu==\1/p' requirements.lock | $(BIN)/uv pip compile --quiet "$$@" - \
			--constraint requirements.lock --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-header \
			--no-annotate --generate-hashes --no-emit-index-url --no-emit-package xgboost --no-emit-package nvidia-nccl-cu12 \
			-o "$$lock" || exit 1; \
	done

setup: $(READY) ## create .venv from the lock file; every other target does this by itself

# The stamp is written last, so an interrupted set-up is done again. uv comes from PATH, else from the lock by pip.
$(READY): requirements.lock pyproject.toml
	@set -euo pipefail; \
	if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then \
		python=""; \
		for candidate in python3.11 python3 python; do \
			if "$$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then python="$$candidate"; break; fi; \
		done; \
		if [ -z "$$python" ]; then echo "Python 3.11 was not found: neither python3.11 nor python3 on PATH is 3.11. Install it (for example with pyenv or your package manager) and try again." >&2; exit 1; fi; \
		echo "Creating .venv with $$("$$python" -V)"; rm -rf .venv; "$$python" -m venv .venv; \
	fi; \
	if command -v uv >/dev/null; then uv="$$(command -v uv)"; \
	else \
		uv=$(BIN)/uv; \
		if [ ! -x "$$uv" ]; then \
			echo "Installing uv into .venv"; \
			awk '/^[^ #]/ {wanted = /^uv==/} wanted' requirements.lock > .venv/uv.txt; \
			$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.txt; \
		fi; \
	fi; \
	echo "Installing the locked packages (the first time downloads about 1 GB)"; \
	"$$uv" pip sync --python $(BIN)/python --require-hashes requirements.lock; \
	"$$uv" pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation -e .; \
	touch $@
