"""MLflow's own server in one process: `python -m fraud_platform.run.mlflow_server`.

What belongs here: handing MLflow the addresses of this home. What does not: experiments and models (`model.registry`).
`mlflow server` would do the same in two processes and import MLflow twice, 13 s of processor time each.
"""

import os

import uvicorn

from fraud_platform.hosts import LOOPBACK, bracketed
from fraud_platform.model.registry_moved import follow_home
from fraud_platform.private import keep_private
from fraud_platform.run.home import open_home
from fraud_platform.settings import Settings


def main(settings: Settings) -> None:
    """Serve until a signal ends it."""
    keep_private()
    folder = open_home(settings).root / "mlflow"
    (folder / "artifacts").mkdir(parents=True, exist_ok=True)
    moved = follow_home(folder.parent)
    if moved:
        print(moved, flush=True)
    store = f"sqlite:///{folder / 'mlflow.db'}"
    # no job runner: it serves MLflow's own evaluation of prompts, and its consumers outlive a killed server
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    names = {*LOOPBACK, *settings.allowed_hosts, settings.bind_host}
    # MLflow's own default takes any name that begins like a private address, 10.example.com for one
    os.environ["MLFLOW_SERVER_ALLOWED_HOSTS"] = ",".join(
        each for name in names for each in (bracketed(name), f"{bracketed(name)}:{settings.mlflow_port}")
    )
    from mlflow.server import constants

    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = store
    os.environ[constants.SERVE_ARTIFACTS_ENV_VAR] = "true"
    os.environ[constants.ARTIFACTS_DESTINATION_ENV_VAR] = str(folder / "artifacts")
    os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = "mlflow-artifacts:/"
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(store, store, "mlflow-artifacts:/")
    uvicorn.run(app, host=settings.bind_host, port=settings.mlflow_port, log_level="warning")


if __name__ == "__main__":
    main(Settings())
