"""`fraud-platform release`: who decides, and changes of it by hand.

What belongs here: the group's commands. What does not: what a change does (`fraud_platform.model.release`).
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from fraud_platform.cli.confirm import WAIT, WAIT_SECONDS, confirm
from fraud_platform.cli.screen import JSON, by_hand, console, now, print_json, print_table, refused, settings_of_home

if TYPE_CHECKING:
    from fraud_platform.decision.workers import WorkerNote
    from fraud_platform.model.bundle import Bundle
    from fraud_platform.model.release import Reason
    from fraud_platform.online.other_views import ViewCost
    from fraud_platform.settings import Settings

app = typer.Typer(
    help="Who decides: champion, challenger and its share of users. Every change is recorded in the ledger.",
    no_args_is_help=True,
)

WHY = Annotated[str, typer.Option("--why", help="The reason, recorded in the ledger.")]


def _reason(why: str) -> "Reason":
    from fraud_platform.model.release import Reason

    return Reason(who=by_hand(), why=why)


@app.command("status")
def release_status(
    at: Annotated[
        datetime | None, typer.Option("--at", formats=["%Y-%m-%dT%H:%M"], help="A point in time, UTC; default: now.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Show who decides now and what a challenger still has to prove; with --at: who decided then."""
    from fraud_platform.lake import open_lake
    from fraud_platform.model.ledger import arms_in_force
    from fraud_platform.model.rollout import look

    current = settings_of_home()
    arms = arms_in_force(current.home, at.replace(tzinfo=UTC) if at else now())
    found = None if at else look(open_lake(current), current, now())
    differs = _what_differs(current, arms["champion"]) if at is None else None
    if as_json:
        names = ("champion", "challenger", "stage", "weight")
        step = found and {"action": found[2].action, "reasons": found[2].reasons}
        views = [msgspec.to_builtins(cost) for cost in ([] if at else _views(current))]
        print_json({**{name: arms[name] for name in names}, "next_step": step, "differs": differs, "views": views})
        return
    print_table(
        None, ["champion", "challenger", "stage", "weight"],
        [[arms["champion"] or "none", arms["challenger"] or "none", arms["stage"], f"{arms['weight']:.0%}"]],
    )  # fmt: skip
    if differs is not None:
        console().print(differs)
    if at is None:
        _show(_views(current))
    if found is not None:
        console().print(f"{found[2].action}: {'; '.join(found[2].reasons)}")


def _what_differs(current: "Settings", champion: str | None) -> str | None:
    """The policy decides; a champion measured at other thresholds proposes its own."""
    from fraud_platform.decision.policy_control import policy_in_force
    from fraud_platform.decision.policy_record import PolicyError
    from fraud_platform.model.bundle import Bundle, BundleError, release_folder

    if champion is None:
        return None
    try:
        policy, bundle = policy_in_force(current, now()), Bundle.load(release_folder(current.home, champion))
    except (BundleError, PolicyError) as error:
        raise refused(str(error)) from error
    own, measured = (policy.threshold, policy.review_threshold), (bundle.threshold, bundle.review_threshold)
    if own == measured:
        return None
    return (
        f"policy {policy.version} decides by thresholds {own[0]:g} and {own[1]:g}; {champion} was measured at "
        f"{measured[0]:g} and {measured[1]:g}, which `fraud-platform policy set --threshold {measured[0]:g} "
        f"--review-threshold {measured[1]:g}` would put into force"
    )


def _views(current: "Settings", *coming: "Bundle") -> list["ViewCost"]:
    """What views of other sets than the platform's own take while these releases, and those that are in force or may
    come back, stand on them; said on stderr where it cannot be known."""
    from fraud_platform.lake import open_lake
    from fraud_platform.model.served_sets import sets_in_force
    from fraud_platform.online.embedded_redis import redis_address
    from fraud_platform.online.other_views import other_views, view_costs
    from fraud_platform.online.shards import REDIS_ERRORS, connect_redis

    sets = [*sets_in_force(current.home), *(bundle.set_of() for bundle in coming)]
    if not other_views(sets):
        return []
    try:
        with connect_redis(redis_address(current)) as client:
            return view_costs(open_lake(current), client, sets)
    except REDIS_ERRORS as error:
        typer.echo(f"what views of other sets of features take is not known, Redis does not answer: {error}", err=True)
        return []


def _show(costs: list["ViewCost"]) -> None:
    """A line per view; nothing where all releases stand on the platform's own set."""
    for cost in costs:
        if cost.snapshot is None:
            takes = "this platform has no snapshot with its features, so that nothing is loaded from here"
        else:
            takes = f"{cost.rows:,} rows, which take some {cost.redis_bytes / 1e6:,.1f} MB more in Redis"
        there = "none is there yet" if cost.in_force is None else f"that of {cost.in_force} is there"
        console().print(f"{cost.view}, for set {cost.set_hash}: {takes}; {there}")


@app.command("retire")
def release_retire(
    release: Annotated[str, typer.Argument(help="A release that is no longer in force, such as fraud-detector-7.")],
    why: WHY,
    as_json: JSON = False,
) -> None:
    """Give up the way back to a release: the next loads delete what is kept in Redis and PostgreSQL for it alone."""
    from fraud_platform.model.bundle import BundleError, NoReleaseError
    from fraud_platform.model.following import FollowingError
    from fraud_platform.model.release import ReleaseError, retire

    try:
        retire(settings_of_home().home, release, _reason(why), now())
    except (BundleError, FollowingError, NoReleaseError, ReleaseError) as error:
        raise refused(str(error)) from error
    if as_json:
        print_json({"retired": release})
        return
    console().print(f"{release} is retired: what is kept for it alone goes with the next loads of the online stores")


@app.command("rollback")
def release_rollback(why: WHY, wait: WAIT = WAIT_SECONDS, as_json: JSON = False) -> None:
    """Take the challenger out, or else return to the previous champion; wait until every worker follows."""
    from fraud_platform.model.bundle import BundleError, NoReleaseError
    from fraud_platform.model.following import FollowingError
    from fraud_platform.model.registry import show_who_decides
    from fraud_platform.model.release import ReleaseError, champion_before, return_to, roll_back
    from fraud_platform.model.routing import read_routing

    current = settings_of_home()
    home = current.home
    try:
        routing = read_routing(home)
        if routing.challenger is not None:
            roll_back(home, routing.challenger, _reason(why), now())
        else:
            return_to(home, champion_before(home), _reason(why), now())
    except (BundleError, FollowingError, NoReleaseError, ReleaseError) as error:
        raise refused(str(error)) from error
    try:
        _confirm(home, wait, as_json)
    finally:
        # last: MLflow takes seconds to import, and whoever is in a hurry reads the line above meanwhile
        show_who_decides(current)


@app.command("promote")
def release_promote(why: WHY, wait: WAIT = WAIT_SECONDS, as_json: JSON = False) -> None:
    """Make the challenger the champion now, whatever is not proven yet; wait until every worker follows."""
    from fraud_platform.model.bundle import BundleError, NoReleaseError
    from fraud_platform.model.following import FollowingError
    from fraud_platform.model.registry import promote
    from fraud_platform.model.routing import read_routing

    current = settings_of_home()
    try:
        challenger = read_routing(current.home).challenger
        if challenger is None:
            raise refused("there is no challenger to promote")
        version = int(challenger.rpartition("-")[2])
        promote(current, version, who=_reason(why).who, why=why, now=now())
    except (BundleError, FollowingError, NoReleaseError) as error:
        raise refused(str(error)) from error
    _confirm(current.home, wait, as_json)


@app.command("rebuild-registry")
def release_rebuild_registry(as_json: JSON = False) -> None:
    """Register every release in an empty MLflow under its own number, after a registry was lost without a backup."""
    from fraud_platform.model.bundle import BundleError, NoReleaseError
    from fraud_platform.model.registry_rebuild import rebuild_registry

    try:
        numbers = rebuild_registry(settings_of_home())
    except (BundleError, NoReleaseError) as error:
        raise refused(str(error)) from error
    if as_json:
        print_json({"registered": numbers})
        return
    console().print(
        f"Registered: {', '.join(map(str, numbers))}." if numbers else "Nothing to do: the registry has a champion."
    )


@app.command("seal")
def release_seal(as_json: JSON = False) -> None:
    """Write SHA256SUMS for releases of this home that have none yet."""
    from fraud_platform.decision.serving_model import kept_releases
    from fraud_platform.model.bundle import BundleError, seal

    sealed = {}
    for folder in kept_releases(settings_of_home().home):
        try:
            sealed[folder.name] = seal(folder)
        except BundleError as error:
            raise refused(str(error)) from error
        if not as_json:
            console().print(f"{folder.name}: {'sealed' if sealed[folder.name] else 'was sealed already'}")
    if as_json:
        print_json([{"release": release, "sealed_now": here} for release, here in sealed.items()])


@app.command("challenge")
def release_challenge(
    version: Annotated[int, typer.Argument(help="A registered version; it may have been rolled back before.")],
    why: WHY,
    wait: WAIT = WAIT_SECONDS,
    as_json: JSON = False,
) -> None:
    """Put a registered version into shadow beside the champion, replacing any other challenger. What views of another
    set of features take in Redis is shown before."""
    from fraud_platform.model.bundle import BundleError, NoReleaseError
    from fraud_platform.model.following import FollowingError
    from fraud_platform.model.registry import bundle_of, challenge
    from fraud_platform.model.release import ReleaseError

    current = settings_of_home()
    try:
        costs = _views(current, bundle_of(current, version))
        if not as_json:
            _show(costs)
        challenge(current, version, _reason(why), now(), again=True)
    except (BundleError, FollowingError, NoReleaseError, ReleaseError) as error:
        raise refused(str(error)) from error
    _confirm(current.home, wait, as_json, costs)


def _confirm(home: Path, wait: float, as_json: bool, costs: Sequence["ViewCost"] = ()) -> None:
    """Wait until every worker has loaded who decides and who is tried beside it. costs: of a change that brought views
    of another set."""
    from fraud_platform.model.routing import read_routing

    routing = read_routing(home)

    def follows(worker: "WorkerNote") -> bool:
        release = (worker.model_version or "").replace("/", "-")
        return (release, worker.challenger) == (routing.release, routing.challenger)

    beside = f" with {routing.challenger} in {routing.stage}" if routing.challenger else ""
    told: dict[str, Any] = {"champion": routing.release, "challenger": routing.challenger, "stage": routing.stage}
    if costs:
        told["views"] = [msgspec.to_builtins(cost) for cost in costs]
    confirm(home, f"{routing.release} as champion{beside}", follows, wait, told=told if as_json else None)
