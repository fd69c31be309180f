"""`fraud-platform package`: the champion as a Bento and an image; `compose-secrets`: the passwords of its containers.

What belongs here: the commands. What does not: packaging (`fraud_platform.packaging`).
"""

from pathlib import Path
from typing import Annotated

import typer

from fraud_platform.cli.screen import JSON, console, print_json, refused, settings_of_home

app = typer.Typer()


@app.command()
def package(
    bento_only: Annotated[bool, typer.Option("--bento-only", help="Build only the Bento, no image.")] = False,
    platform: Annotated[
        bool,
        typer.Option("--platform", help="Also build an image of Dagster, MLflow and training, and one of the gateway."),
    ] = False,
    as_json: JSON = False,
) -> None:
    """Build a Bento of the champion, and an image of that, with docker, podman or buildah."""
    from fraud_platform.model.bundle import BundleError
    from fraud_platform.packaging.builder import BuilderError, find_builder
    from fraud_platform.packaging.image import PackagingError, build_bento, build_platform_images, build_service_image

    current, screen = settings_of_home(), console()
    try:
        bento = build_bento(current)
        if not as_json:
            screen.print(f"Bento  {bento.tag}\n       {bento.folder}")
        images = []
        if not bento_only:
            builder = find_builder()
            images = [build_service_image(current, bento, builder)]
            if platform:
                images += build_platform_images(current, builder)
    except (PackagingError, BuilderError, BundleError) as error:
        raise refused(str(error)) from error
    if as_json:
        print_json({"bento": bento, "images": [{**vars(image), "builder": builder.name} for image in images]})
        return
    for image in images:
        screen.print(f"Image  {image.name}, {image.size}, built by {builder.name} on {image.base}")
        screen.print(f"       packages: {image.bill}")


@app.command("compose-secrets")
def compose_secrets(
    folder: Annotated[Path, typer.Argument(help="deploy/secrets: beside compose.yaml.")],
) -> None:
    """Create missing passwords for the containers of deploy/compose.yaml; none is shown."""
    from fraud_platform.packaging.compose_secrets import SecretsError, make_secrets

    try:
        made = make_secrets(folder)
    except (OSError, SecretsError) as error:
        raise refused(str(error)) from error
    typer.echo(f"Made in {folder}: {', '.join(made)}." if made else f"{folder} has all of them.")
