"""`fraud-platform scenario`: days of traffic in minutes, and what the loop makes of them.

What belongs here: the command. What does not: playing (`fraud_platform.scenario`).
"""

import shlex
import socket
from pathlib import Path
from typing import Annotated

import typer

from fraud_platform.cli.screen import JSON, console, print_json, print_table, refused, settings_of_environment

app = typer.Typer()


@app.command()
def scenario(
    name: Annotated[
        str | None,
        typer.Argument(help="A scenario that comes with the platform, or a YAML file; leave it out to list them."),
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option("--home", help="Folder to play it in, from scratch; default: <home>/scenarios/<name>."),
    ] = None,
    as_json: JSON = False,
) -> None:
    """Play days of traffic through the real service in minutes and let the loop react; the exit code is 0 when all that
    the scenario expects came true.

    Afterwards `(set -a; . <its home>/settings.env; make dagster)` shows its assets, runs and reports.
    """
    from pydantic import ValidationError

    from fraud_platform.run.servers import FACES
    from fraud_platform.scenario.bank import NotAScenarioError, begin, scenario_settings
    from fraud_platform.scenario.picture import draw, table
    from fraud_platform.scenario.play import play
    from fraud_platform.scenario.stage import StageError
    from fraud_platform.scenario.story import StoryError, read_story, shipped

    known = shipped()
    if name is None:
        if as_json:
            print_json([{"scenario": each, "title": read_story(path).title} for each, path in known.items()])
            return
        rows = [[each, read_story(path).title] for each, path in known.items()]
        print_table(None, ["scenario", "what happens"], rows)
        return
    path = known.get(name, Path(name))
    if not path.exists():
        raise refused(f"there is no scenario {name}; choose {', '.join(known)}, or name a YAML file")
    screen = console()
    try:
        story = read_story(path)
        folder = home or settings_of_environment().home / "scenarios" / path.stem
        ports = {setting: _free_port() for _, setting, _ in FACES.values()}
        settings = scenario_settings(story, folder, ports)

        def say(line: str) -> None:
            if as_json:
                typer.echo(line, err=True)
            else:
                screen.print(line, highlight=False)

        begin(story, folder, settings_of_environment().home / "scenarios", ports, say)
        # Dagster's definitions need the settings that the bank was built by, and the clock that it stands at
        variables = [f"{name}={shlex.quote(value)}" for name, value in settings.environment().items()]
        (folder / "settings.env").write_text("\n".join(variables) + "\n")
        outcome = play(story, settings, say)
    except (StoryError, NotAScenarioError, StageError, ValidationError) as error:
        raise refused(str(error)) from error
    picture = folder / "scenario.png"
    picture.write_bytes(draw(story.title, outcome.facts))
    if as_json:
        expected = [{"sentence": each, "failed": outcome.failed.get(each)} for each in story.expect]
        told = {"scenario": path.stem, "home": folder, "expected": expected, "facts": outcome.facts}
        print_json({**told, "seconds": outcome.seconds, "picture": picture})
        raise typer.Exit(int(bool(outcome.failed)))
    screen.print(table(outcome.facts))
    for sentence in story.expect:
        wrong = outcome.failed.get(sentence)
        screen.print(f"{'✗' if wrong else '✓'} {sentence}" + (f": {wrong}" if wrong else ""), highlight=False)
    screen.print(f"{outcome.seconds:.0f} s; picture: {picture}", highlight=False)
    screen.print(f"Look at it: (set -a; . {folder}/settings.env; make dagster)", highlight=False)
    raise typer.Exit(int(bool(outcome.failed)))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
