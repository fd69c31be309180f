"""An image run without an engine: its own root file system, read-only, as its own user, with its own command.

What belongs here: what a container runtime would do, with `unshare` and `chroot`, which need root alone. What does not:
what is tested. Only the network and the devices are the machine's own.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

BASE, NGINX = "localhost/fraud-base:bookworm", "localhost/fraud-nginx:bookworm"
"""What `make image-base` makes."""
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
INSIDE = f"""
set -e
root="$1" home="$2"; shift 2
# every runtime brings names of the network along
cp /etc/hosts "$root/etc/hosts"
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount --bind "$home" "$root/var/lib/fraud"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
export PATH={PATH}
exec chroot "$root" "$@"
"""


def why_not() -> str | None:
    """Why no image can be built and run here; None where one can."""
    if shutil.which("buildah") is None:
        return "buildah is not installed (Debian: apt-get install buildah)"
    if os.geteuid() != 0:
        return "running an image without an engine takes root"
    for image in (BASE, NGINX):
        if subprocess.run(
            ["buildah", "inspect", "--type", "image", image], capture_output=True, check=False
        ).returncode:
            return f"there is no base image {image}: `make image-base` makes one"
    return None


def configuration(image: str) -> dict[str, Any]:
    """Env, Cmd, Entrypoint, User, WorkingDir, Labels, Healthcheck of an image."""
    told = subprocess.run(["buildah", "inspect", "--type", "image", image], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(told.stdout)["Docker"]["config"]
    return found


@contextmanager
def mounted(image: str) -> Iterator[Path]:
    """The root file system of an image."""
    container = _buildah("from", "--pull-never", image)
    try:
        yield Path(_buildah("mount", container))
    finally:
        _buildah("rm", container)


@dataclass
class Container:
    """A process of an image, and what else is started beside it as `exec` does."""

    process: "subprocess.Popen[bytes]"
    config: dict[str, Any]
    environment: Mapping[str, str]

    def execute(self, *command: str) -> str:
        """What a further command in the same root, with the same rights, says."""
        (first,) = psutil.Process(self.process.pid).children()
        enter = ["nsenter", "--target", str(first.pid), "--mount", "--pid", "--root"]
        wanted = [*enter, *_as_its_user(self.config, self.environment), *command]
        with tempfile.TemporaryFile("w+") as output:
            _own(output.fileno(), self.config)
            subprocess.run(wanted, stdout=output, stderr=output, check=False, env={"PATH": PATH})
            output.seek(0)
            return output.read()


@contextmanager
def running(image: str, root: Path, home: Path, log: Path, **environment: str) -> Iterator[Container]:
    """The image's own command; everything of it has ended after the block."""
    config = configuration(image)
    _own(home, config)
    command = [*_as_its_user(config, environment), *config["Entrypoint"], *config["Cmd"]]
    with log.open("wb") as output:
        _own(output.fileno(), config)
        process = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private",
             "sh", "-c", INSIDE, "sh", str(root), str(home), *command],
            stdout=output, stderr=output, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        yield Container(process, config, environment)
    finally:
        if process.poll() is None:
            for inside in psutil.Process(process.pid).children():
                inside.terminate()
        process.wait(30)


def _own(file: Path | int, config: dict[str, Any]) -> None:
    """Give an image's user a file, as runtimes do also with its standard output, which it may open again."""
    os.chown(file, *(int(part) for part in config["User"].split(":")))


def _as_its_user(config: dict[str, Any], environment: Mapping[str, str]) -> list[str]:
    """What gives up every right of root and takes the image's environment before a command."""
    uid, gid = config["User"].split(":")
    drop = ["setpriv", "--reuid", uid, "--regid", gid, "--clear-groups", "--no-new-privs"]
    drop += ["--bounding-set=-all", "--inh-caps=-all", "env", f"--chdir={config['WorkingDir']}", "-i"]
    return [*drop, *config["Env"], *(f"{name}={value}" for name, value in environment.items())]


def _buildah(*arguments: str) -> str:
    return subprocess.run(["buildah", *arguments], capture_output=True, text=True, check=True).stdout.strip()
