"""From a Bento to an image of the decision service, and from the checkout to an image of the platform around it.

What belongs here: the folder that a builder is given, and the call of the builder. What does not: which builder
(`builder`), which packages (`requirements`), the Bento (`bento.build`).
"""

import compileall
import hashlib
import json
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from fraud_platform.homes import begin_home
from fraud_platform.model.bundle import Bundle, exclusive
from fraud_platform.packaging.builder import Builder
from fraud_platform.packaging.packed import packed_release
from fraud_platform.packaging.requirements import platform_requirements, serving_requirements
from fraud_platform.packaging.sbom import bill_of_materials, installed, licence_list
from fraud_platform.run.home import PROJECT
from fraud_platform.settings import Settings

DOCKERFILE = PROJECT / "deploy" / "image" / "Dockerfile"
PLATFORM_CODE = ("fraud_platform", "assets", "bento", "feature_repo")
PLATFORM_FILES = ("workspace.yaml", "deploy/gateway/nginx.conf.template")
BILL, LICENCES = "sbom.cdx.json", "licences.txt"
_TRIMMED = ("tests", "include")
"""Folders of packages that no server opens: their own tests, headers for compilers."""
_SCRIPTS = "bin"
"""Commands name the Python that installed them, which is not the image's; `python3 -m` does without."""
_OCI = "org.opencontainers.image"
_PYTHON = "3.11"
_LINUX = "x86_64-manylinux_2_28"


class PackagingError(RuntimeError):
    """A Bento or its packages could not be made; the message says why."""


@dataclass(frozen=True)
class Bento:
    """A Bento on disk."""

    tag: str
    """`fraud_detector:7-0123456789ab`."""
    folder: Path

    @property
    def version(self) -> str:
        """What follows the name."""
        return self.tag.rpartition(":")[2]


@dataclass(frozen=True)
class Image:
    """An image that was built."""

    name: str
    """With its tag."""
    base: str
    """The image that it is built upon."""
    size: str
    bill: Path
    """The bill of materials; the list of licences lies beside it."""


def build_bento(settings: Settings) -> Bento:
    """The champion of the home as a Bento in BentoML's store, built by BentoML in a process of its own, which imports
    it. Raises PackagingError."""
    done = subprocess.run(
        [sys.executable, "-m", "bento.build"],
        cwd=PROJECT,
        env={**os.environ, "FRAUD_HOME": str(settings.home.absolute()), "BENTOML_DO_NOT_TRACK": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise PackagingError(f"no Bento could be built: {done.stderr.strip()[-2_000:]}")
    # BentoML greets on the same stream
    built = json.loads(done.stdout.strip().splitlines()[-1])
    return Bento(built["tag"], Path(built["folder"]))


def build_service_image(settings: Settings, bento: Bento, builder: Builder) -> Image:
    """An image of the service with this Bento. Raises PackagingError, BuilderError, BundleError."""
    release = packed_release(bento.folder / "src")
    if release is None:
        raise PackagingError(f"{bento.folder} carries no release: build it with `bentoml build` of this project")
    bundle = Bundle.load(release)
    with _context(settings, serving_requirements(PROJECT)) as context:
        shutil.copytree(bento.folder, context / "bento", ignore=shutil.ignore_patterns("__pycache__"))
        _compile(context / "bento")
        recipe = _Recipe(
            target="service",
            name=settings.image_name,
            version=bento.version,
            at=datetime.fromisoformat(bundle.trained_at),
            images={"BASE": settings.image_base},
            labels={
                f"{_OCI}.title": "fraud-detector",
                "fraud.model": bundle.name,
                "fraud.model.sha256": bundle.model_sha256,
                "fraud.catalogue": bundle.catalogue_hash,
            },
            model=(bundle.name, bundle.model_sha256),
        )
        return _build(settings, builder, context, recipe)


def build_platform_images(settings: Settings, builder: Builder) -> tuple[Image, Image]:
    """An image of everything around the service: Dagster, MLflow, training; and, on that, one of the gateway. Raises
    PackagingError, BuilderError."""
    requirements = platform_requirements(PROJECT)
    with _context(settings, requirements) as context:
        code = context / "code"
        for room in PLATFORM_CODE:
            shutil.copytree(PROJECT / room, code / room, ignore=shutil.ignore_patterns("__pycache__"))
        for file in PLATFORM_FILES:
            (code / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / file, code / file)
        version = _digest(requirements, code)
        _compile(code)
        recipe = _Recipe(
            target="platform",
            name=f"{settings.image_name}-platform",
            version=version,
            at=datetime.fromtimestamp(0, UTC),
            images={"BASE": settings.image_base},
            labels={f"{_OCI}.title": "fraud-platform"},
        )
        platform = _build(settings, builder, context, recipe)
        gateway = replace(
            recipe,
            target="gateway",
            name=f"{settings.image_name}-gateway",
            images={"PLATFORM": platform.name, "NGINX": settings.image_nginx},
            labels={f"{_OCI}.title": "fraud-gateway"},
        )
        return platform, _build(settings, builder, context, gateway)


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    """What an image is made of, beside its context."""

    target: str
    name: str
    version: str
    at: datetime
    images: Mapping[str, str]
    """By the Dockerfile's names; the first is built upon."""
    labels: Mapping[str, str]
    model: tuple[str, str] | None = None


def _build(settings: Settings, builder: Builder, context: Path, recipe: _Recipe) -> Image:
    components, images = installed(context / "packages"), list(recipe.images.values())
    bill = bill_of_materials(
        components, name=recipe.name, version=recipe.version, at=recipe.at, images=images, model=recipe.model
    )
    (context / BILL).write_text(bill)
    (context / LICENCES).write_text(licence_list(components))
    tag = f"{recipe.name}:{recipe.version}"
    builder.build(
        context,
        DOCKERFILE,
        tag,
        target=recipe.target,
        arguments=recipe.images,
        labels={**recipe.labels, f"{_OCI}.version": recipe.version, f"{_OCI}.base.name": images[0]},
        at=int(recipe.at.timestamp()),
    )
    kept = _workshop(settings) / f"{recipe.target}-{recipe.version}"
    kept.mkdir(exist_ok=True)
    for written in (BILL, LICENCES):
        shutil.copyfile(context / written, kept / written)
    return Image(tag, images[0], builder.size(tag), kept / BILL)


@contextmanager
def _context(settings: Settings, requirements: str) -> Iterator[Path]:
    """A folder for a builder, with packages and an empty home; it goes with the block."""
    packages = _packages(settings, requirements)
    with tempfile.TemporaryDirectory(prefix="context-", dir=_workshop(settings)) as temporary:
        context = Path(temporary)
        begin_home(context / "home")
        # hard links: hundreds of megabytes need not be written twice
        shutil.copytree(packages, context / "packages", copy_function=os.link)
        yield context


def _packages(settings: Settings, requirements: str) -> Path:
    """These packages installed and compiled, kept for the next image with the same ones. Raises PackagingError."""
    folder = _workshop(settings) / f"packages-{hashlib.sha256(requirements.encode()).hexdigest()[:12]}"
    with exclusive(folder.with_suffix(".lock")):
        if not folder.exists():
            with tempfile.TemporaryDirectory(prefix="packages-", dir=folder.parent) as temporary:
                wanted, target = Path(temporary) / "requirements.txt", Path(temporary) / "packages"
                wanted.write_text(requirements)
                _install(wanted, target)
                for left_out in [path for name in _TRIMMED for path in target.glob(f"*/**/{name}") if path.is_dir()]:
                    shutil.rmtree(left_out, ignore_errors=True)
                shutil.rmtree(target / _SCRIPTS, ignore_errors=True)
                _compile(target)
                target.rename(folder)
    return folder


def _install(requirements: Path, target: Path) -> None:
    command = [_uv(), "pip", "install", "--quiet", "--target", str(target), "--requirement", str(requirements)]
    # wheels alone: what is built here would not be what the lock's hashes stand for
    command += ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--link-mode", "copy"]
    command += ["--python-version", _PYTHON, "--python-platform", _LINUX]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PackagingError(f"the packages could not be installed: {done.stderr.strip()[-2_000:]}")


def _uv() -> str:
    """The project's own uv, else the one on PATH."""
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise PackagingError("uv was not found: it comes with `make setup`")
    return found


def _compile(folder: Path) -> None:
    """Byte code that is the same each time and asks for no file's date, since a server's file system is read-only."""
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(folder, quiet=2, invalidation_mode=mode, stripdir=str(folder), prependdir="/app", workers=2)


def _digest(requirements: str, code: Path) -> str:
    digest = hashlib.sha256(requirements.encode())
    for path in sorted(path for path in code.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(code)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _workshop(settings: Settings) -> Path:
    """`<home>/packaging`: packages to be used again, bills of materials."""
    folder = settings.home.absolute() / "packaging"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
