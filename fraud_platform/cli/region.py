"""`fraud-platform region`: several regions on one lake; the first says who decides, the others follow.

What belongs here: the group's commands, and how often they look. What does not: what is said and taken over
(`fraud_platform.regions`).
"""

from typing import TYPE_CHECKING, Annotated

import typer

from fraud_platform.cli.screen import (
    JSON,
    now,
    print_json,
    print_table,
    refused,
    say_home,
    settings_of_environment,
    settings_of_home,
)

if TYPE_CHECKING:
    from collections.abc import Callable

app = typer.Typer(
    help="Several regions on one lake: the first releases models and policy, the others follow.", no_args_is_help=True
)

LOOK_SECONDS = 1.0
"""How often who decides is looked at."""
STORE_LOOKS = 10
"""Every so many looks, the snapshot in force and velocity too."""

ONCE = Annotated[bool, typer.Option("--once", help="Look once and end; the exit code is 1 if something failed.")]


@app.command("publish")
def region_publish(once: ONCE = False) -> None:
    """Publish releases and policy to the lake whenever they change, until Ctrl-C; for the first region only."""
    from fraud_platform.lake import open_lake
    from fraud_platform.model.following import FollowingError
    from fraud_platform.regions.publish import Publisher

    current = settings_of_home()
    try:
        publisher = Publisher(current, open_lake(current))
    except FollowingError as error:
        raise refused(str(error)) from error

    def look(_: int) -> list[Exception]:
        try:
            said = publisher.step(now())
        except Exception as error:  # noqa: BLE001 - nothing waits for it; it is told, and tried again
            return [error]
        if said is not None:
            release = said.routing.release if said.routing else "no release"
            policy = f"policy {said.policy.version}" if said.policy else "no policy"
            _say(f"publication {said.number}: {release}, {policy}")
        return []

    _again_and_again(look, once)


@app.command("follow")
def region_follow(once: ONCE = False) -> None:
    """Follow the first region's releases, policy and snapshots, until Ctrl-C."""
    from fraud_platform.clock import clock_of
    from fraud_platform.lake import open_lake
    from fraud_platform.model.following import FollowingError
    from fraud_platform.regions.follow import Follower
    from fraud_platform.run.current import was_built

    current = say_home(settings_of_environment())
    if was_built(current):
        raise refused(f"{current.home} belongs to the first region: set FRAUD_HOME to another folder for this one")
    try:
        follower = Follower(current, open_lake(current), clock_of(current), _say)
    except FollowingError as error:
        raise refused(str(error)) from error

    def look(number: int) -> list[Exception]:
        return follower.step(store=number % STORE_LOOKS == 0)

    _again_and_again(look, once)


@app.command("status")
def region_status(as_json: JSON = False) -> None:
    """Show which region this is, what the first region published last, and how far it is in force here."""
    from fraud_platform.lake import open_lake
    from fraud_platform.model.following import read_followed
    from fraud_platform.regions.publication import read_publication

    current = settings_of_home()
    publication, followed = read_publication(open_lake(current)), read_followed(current.home)
    if as_json:
        said = publication and {"number": publication.number, "published_at": publication.published_at}
        names = ("number", "looked_at", "problem")
        here = followed and {name: getattr(followed, name) for name in names}
        print_json({"region": current.region, "published": said, "followed": here})
        return
    rows = [["region", current.region or "the first"]]
    if publication is not None:
        rows.append(["published", f"{publication.number}, at {publication.published_at:%Y-%m-%d %H:%M:%S} UTC"])
    if followed is not None:
        rows.append(["followed", f"{followed.number}, looked at {followed.looked_at:%Y-%m-%d %H:%M:%S} UTC"])
        rows.append(["problem", followed.problem or "none"])
    print_table(None, ["what", "value"], rows)


def _again_and_again(look: "Callable[[int], list[Exception]]", once: bool) -> None:
    """Look until the end is asked for; what fails is said when it begins to. Raises Exit."""
    from fraud_platform.run.signals import stop_event

    said: list[str] = []
    number = 0
    with stop_event() as stop:
        while not stop.is_set():
            failures = [f"{type(error).__name__}: {error}" for error in look(number)]
            for failure in failures:
                if failure not in said:
                    _say(f"not done: {failure}", err=True)
            said = failures
            if once:
                raise typer.Exit(int(bool(failures)))
            number += 1
            stop.wait(LOOK_SECONDS)


def _say(what: str, *, err: bool = False) -> None:
    typer.secho(f"{now():%Y-%m-%d %H:%M:%S} {what}", fg=typer.colors.RED if err else None, err=err)
