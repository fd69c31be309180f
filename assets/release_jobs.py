"""Releases by hand, from Dagster's launchpad: the same changes as `fraud-platform release`, each with its reason.

What belongs here: jobs and their configuration. What does not: what a change does (`fraud_platform.model.release`).
"""

import dagster as dg

from assets.resources import Platform
from fraud_platform.model.release import Reason, champion_before, return_to, roll_back
from fraud_platform.model.routing import read_routing


class Why(dg.Config):
    """What the ledger keeps of a change by hand."""

    who: str
    why: str


def _reason(config: Why) -> Reason:
    return Reason(who=config.who, why=config.why)


@dg.op(name="take_the_challenger_out")
def _roll_back(context: dg.OpExecutionContext, config: Why, platform: dg.ResourceParam[Platform]) -> None:
    from fraud_platform.model.registry import show_who_decides

    home = platform.settings.home
    challenger = read_routing(home).challenger
    if challenger is None:
        raise dg.Failure("there is no challenger to take out", allow_retries=False)
    roll_back(home, challenger, _reason(config), platform.now)
    show_who_decides(platform.settings)
    context.log.info(f"{challenger} decides nothing any more")


@dg.op(name="promote_the_challenger")
def _promote(context: dg.OpExecutionContext, config: Why, platform: dg.ResourceParam[Platform]) -> None:
    from fraud_platform.model.registry import promote

    challenger = read_routing(platform.settings.home).challenger
    if challenger is None:
        raise dg.Failure("there is no challenger to promote", allow_retries=False)
    version = int(challenger.rpartition("-")[2])
    promote(platform.settings, version, who=config.who, why=config.why, now=platform.now)
    context.log.info(f"{challenger} is the champion")


@dg.op(name="return_to_the_champion_before")
def _return(context: dg.OpExecutionContext, config: Why, platform: dg.ResourceParam[Platform]) -> None:
    from fraud_platform.model.registry import show_who_decides

    home = platform.settings.home
    before = champion_before(home)
    return_to(home, before, _reason(config), platform.now)
    show_who_decides(platform.settings)
    context.log.info(f"{before} decides again")


@dg.job(name="roll_back_challenger", description="Take the challenger out at once; it does not come back by itself.")
def roll_back_challenger() -> None:
    """`_roll_back` as a job."""
    _roll_back()


@dg.job(name="promote_challenger", description="Make the challenger the champion now, whatever is not proven yet.")
def promote_challenger() -> None:
    """`_promote` as a job."""
    _promote()


@dg.job(name="return_to_champion_before", description="Put the previous release into force again.")
def return_to_champion_before() -> None:
    """`_return` as a job."""
    _return()


RELEASE_JOBS = (roll_back_challenger, promote_challenger, return_to_champion_before)
