"""What is shipped after a promotion: the champion as a Bento, and that as an image where one can be built.

What belongs here: names, order and what Dagster shows. What does not: packaging (`fraud_platform.packaging`).
"""

import dagster as dg

from assets.daily_table import OWNERS
from assets.model import GROUP, champion_model
from assets.resources import Platform


@dg.asset(
    group_name=GROUP,
    kinds={"bentoml"},
    owners=OWNERS,
    deps=[champion_model],
    description="The release in force as a Bento that serves by itself: code, model and the locked packages.",
)
def champion_bento(platform: dg.ResourceParam[Platform]) -> dg.MaterializeResult[None]:
    """Build it, unless the very same was built before; without a release there is nothing to ship."""
    from fraud_platform.model.bundle import NoReleaseError, current_release
    from fraud_platform.packaging.image import build_bento

    try:
        release = current_release(platform.settings.home).name
    except NoReleaseError as error:
        return dg.MaterializeResult(metadata={"skipped": str(error)})
    bento = build_bento(platform.settings)
    return dg.MaterializeResult(
        metadata={"tag": bento.tag, "folder": dg.MetadataValue.path(str(bento.folder)), "release": release},
        data_version=dg.DataVersion(bento.version),
    )


@dg.asset(
    group_name=GROUP,
    kinds={"docker"},
    owners=OWNERS,
    deps=[champion_bento],
    description="An image of the service with that Bento and a bill of materials, if an image can be built here.",
)
def fraud_image(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> dg.MaterializeResult[None]:
    """Build it with docker, podman or buildah; where none works, say so."""
    from fraud_platform.model.bundle import NoReleaseError, current_release
    from fraud_platform.packaging.builder import BuilderError, find_builder
    from fraud_platform.packaging.image import build_bento, build_service_image

    try:
        current_release(platform.settings.home)
        builder = find_builder()
    except (NoReleaseError, BuilderError) as error:
        context.log.warning(f"no image: {error}")
        return dg.MaterializeResult(metadata={"skipped": str(error)})
    image = build_service_image(platform.settings, build_bento(platform.settings), builder)
    return dg.MaterializeResult(
        metadata={
            "image": image.name,
            "size": image.size,
            "builder": builder.name,
            "bill_of_materials": dg.MetadataValue.path(str(image.bill)),
        },
        data_version=dg.DataVersion(image.name.rpartition(":")[2]),
    )
