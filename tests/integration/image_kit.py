"""An image run without an engine: its own root file system, read-only, as its own user, with its own command.

What belongs here: what a container runtime would do, with `unshare` and `chroot`, which need root alone. What does not:
what is tested. Only the network and the devices are the machine's own.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

BASE = "localhost/fraud-base:bookworm"
INSIDE = """
set -e
root="$1" home="$2" user="$3" folder="$4"; shift 4
# every runtime brings names of the network along
cp /etc/hosts "$root/etc/hosts"
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount --bind "$home" "$root/var/lib/fraud"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
exec chroot "$root" /usr/bin/setpriv --reuid "${user%:*}" --regid "${user#*:}" --clear-groups --no-new-privs \
    --bounding-set=-all --inh-caps=-all /usr/bin/env --chdir="$folder" "$@"
"""


def why_not() -> str | None:
    """Why no image can be built and run here; None where one can."""
    if shutil.which("buildah") is None:
        return "buildah is not installed (Debian: apt-get install buildah)"
    if os.geteuid() != 0:
        return "running an image without an engine takes root"
    if subprocess.run(["buildah", "inspect", "--type", "image", BASE], capture_output=True, check=False).returncode:
        return f"there is no base image {BASE}: deploy/image/base.sh makes one"
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


@contextmanager
def running(image: str, root: Path, home: Path, log: Path, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    """The image's own command; everything of it has ended after the block."""
    config = configuration(image)
    user = config["User"]
    os.chown(home, *(int(part) for part in user.split(":")))
    settings = [*config["Env"], *(f"{name}={value}" for name, value in environment.items())]
    command = [*config["Entrypoint"], *config["Cmd"]]
    arguments = [str(root), str(home), user, config["WorkingDir"], "-i", *settings, *command]
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private",
             "sh", "-c", INSIDE, "sh", *arguments],
            stdout=output, stderr=output, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            for inside in psutil.Process(process.pid).children():
                inside.terminate()
        process.wait(30)


def _buildah(*arguments: str) -> str:
    return subprocess.run(["buildah", *arguments], capture_output=True, text=True, check=True).stdout.strip()
