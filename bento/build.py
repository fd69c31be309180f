"""`python -m bento.build`: the current champion as a Bento; prints its tag and its folder as JSON.

What belongs here: the call of BentoML's build. What does not: what goes in (`image`, `fraud_platform.packaging`).
`bentoml build` in the checkout does the same under a version of its own making; here the content gives the version, so
that the same champion, code and packages are built once.
"""

import json
import os
import sys
from pathlib import Path

from fraud_platform.model.bundle import BundleError, NoReleaseError
from fraud_platform.packaging.packed import content_version
from fraud_platform.settings import Settings

ROOT = Path(__file__).parents[1]
NAME = "fraud_detector"


def main() -> int:
    """Build, unless the very same was built before."""
    home = Settings().home.absolute()
    try:
        version = content_version(ROOT, home)
    except (NoReleaseError, BundleError) as error:
        print(error, file=sys.stderr)
        return 1
    # BentoML writes what the settings say into the Bento: what one machine sets must not travel
    for name in [name for name in os.environ if name.startswith("FRAUD_")]:
        del os.environ[name]
    os.environ["FRAUD_HOME"] = str(home)
    Settings.model_config["env_file"] = None
    import bentoml

    try:
        bento = bentoml.get(f"{NAME}:{version}")
    except bentoml.exceptions.NotFound:
        bento = bentoml.bentos.build_bentofile(str(ROOT / "bentofile.yaml"), version=version, build_ctx=str(ROOT))
    print(json.dumps({"tag": str(bento.tag), "folder": bento.path}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
