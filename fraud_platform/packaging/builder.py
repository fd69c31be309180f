"""Who builds images on this machine: docker, podman or buildah, whichever works.

What belongs here: finding one and asking it. What does not: what is built (`image`).
"""

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_PROBES = {
    # a client without its engine is no builder
    "docker": ("docker", "info", "--format", "{{.ServerVersion}}"),
    "podman": ("podman", "info", "--format", "{{.Version.Version}}"),
    "buildah": ("buildah", "info"),
}


class BuilderError(RuntimeError):
    """No image can be built; the message says why."""


@dataclass(frozen=True)
class Builder:
    """A program that builds images from a Dockerfile."""

    name: str

    def build(
        self,
        context: Path,
        dockerfile: Path,
        tag: str,
        *,
        target: str,
        arguments: Mapping[str, str],
        labels: Mapping[str, str],
        at: int,
    ) -> None:
        """Build a target of a Dockerfile. arguments: what its ARGs are. at: seconds since 1970 that are written as the
        time of building, so that the same content is the same image. Raises BuilderError."""
        verb = ["build"] if self.name == "docker" else ["build", "--format", "docker", "--timestamp", str(at)]
        command = [self.name, *verb, "--file", str(dockerfile), "--tag", tag, "--target", target]
        for argument, value in arguments.items():
            command += ["--build-arg", f"{argument}={value}"]
        for label, value in labels.items():
            command += ["--label", f"{label}={value}"]
        _run([*command, str(context)])

    def size(self, tag: str) -> str:
        """Size of an image's layers, not compressed, as the builder says it: `662 MB`. Raises BuilderError."""
        return _run([self.name, "images", "--format", "{{.Size}}", tag]).strip()


def find_builder() -> Builder:
    """The first that works. Raises BuilderError, naming what was tried."""
    tried = []
    for name, probe in _PROBES.items():
        if shutil.which(name) is None:
            tried.append(f"{name} is not installed")
            continue
        done = subprocess.run(probe, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return Builder(name)
        complaint = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        tried.append(f"{name} does not work ({complaint[-1]})")
    raise BuilderError(f"no image builder works here: {'; '.join(tried)}")


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuilderError(f"`{' '.join(command[:2])}` failed: {done.stderr.strip()[-2_000:]}")
    return done.stdout
