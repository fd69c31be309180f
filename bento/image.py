"""What `bentoml build` adds to the code: the champion of the home, and the packages of the project's own lock.

What belongs here: the hook into BentoML's build. What does not: which packages and which release
(`fraud_platform.packaging`).
"""

from pathlib import Path
from typing import Any

import attrs
from bentoml.exceptions import BentoMLException
from bentoml.images import Image

from fraud_platform.model.bundle import BundleError, NoReleaseError
from fraud_platform.packaging.packed import pack_champion
from fraud_platform.packaging.requirements import serving_requirements
from fraud_platform.settings import Settings

ROOT = Path(__file__).parents[1]


class ChampionImage(Image):
    """The service's image; BentoML asks for it when it builds, and never when it serves."""

    def freeze(self, bento_fs: Path, envs: list[Any], platform_: str | None = None) -> Any:
        """Complete a Bento in the making: the release beside its code, the pins with their hashes."""
        try:
            pack_champion(Settings().home, bento_fs / "src")
        except (NoReleaseError, BundleError) as error:
            raise BentoMLException(str(error)) from error
        pins = serving_requirements(ROOT)
        info = super().freeze(bento_fs, envs, platform_)
        # BentoML adds its own name without a hash, which pip refuses beside hashes
        (bento_fs / "env" / "python" / "requirements.txt").write_text(pins)
        (bento_fs / "env" / "python" / "requirements.in").unlink()
        return attrs.evolve(info, python_requirements=pins)
