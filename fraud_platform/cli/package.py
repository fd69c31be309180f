"""`fraud-platform package`: the champion as a Bento and an image.

What belongs here: the command. What does not: packaging (`fraud_platform.packaging`).
"""

from typing import Annotated

import typer

from fraud_platform.cli.screen import console, refused, settings_of_environment

app = typer.Typer()


@app.command()
def package(
    bento_only: Annotated[bool, typer.Option("--bento-only", help="Build the Bento and no image.")] = False,
    platform: Annotated[
        bool, typer.Option("--platform", help="Also an image of Dagster, MLflow and training, and one of the gateway.")
    ] = False,
) -> None:
    """Build the champion as a Bento, and that as an image, with docker, podman or buildah."""
    from fraud_platform.model.bundle import BundleError
    from fraud_platform.packaging.builder import BuilderError, find_builder
    from fraud_platform.packaging.image import PackagingError, build_bento, build_platform_images, build_service_image
    from fraud_platform.packaging.requirements import LockError

    current, screen = settings_of_environment(), console()
    try:
        bento = build_bento(current)
        screen.print(f"Bento  {bento.tag}\n       {bento.folder}")
        if bento_only:
            return
        builder = find_builder()
        images = [build_service_image(current, bento, builder)]
        if platform:
            images += build_platform_images(current, builder)
    except (PackagingError, BuilderError, LockError, BundleError) as error:
        raise refused(str(error)) from error
    for image in images:
        screen.print(f"Image  {image.name}, {image.size}, built by {builder.name} on {image.base}")
        screen.print(f"       packages: {image.bill}")
