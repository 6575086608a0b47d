"""The demo from beginning to end."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from saekit_client.channel import Timeouts
from saekit_client.demo import steps
from saekit_client.demo.report import DemoError, Report
from saekit_client.demo.server import ServerProcess
from saekit_client.errors import SAEKitError
from saekit_client.sync.client import Client

_START_S = 120.0
# For what training takes besides: reading text, statistics, publishing, the hot-load.
_PUBLISH_S = 300.0
_STEPS = 8


def run_demo(console: Console, train_seconds: float) -> Report:
    """Makes every step; stops the server and removes its files whatever happens."""
    report = Report(console, _STEPS)
    try:
        with TemporaryDirectory(prefix="saekit-demo-") as scratch:
            saes = Path(scratch) / "saes"
            saes.mkdir()
            serve = ["serve", "--listen", "127.0.0.1:0", "--sae-dir", str(saes), "--watch"]
            with ServerProcess(serve, Path(scratch) / "server.log") as server:
                _with_server(report, server, saes, train_seconds)
    except (DemoError, SAEKitError) as error:
        console.print(f"[bold red]✗[/bold red] {error}", highlight=False)
    verdict = "[green]all of it works[/green]" if report.passed else "[red]not all is well[/red]"
    console.print(f"{verdict}, {report.seconds:.0f} s")
    return report


def _with_server(report: Report, server: ServerProcess, saes: Path, train_seconds: float) -> None:
    with report.step("Start a server on the embedded model"):
        with report.console.status("loading the model"):
            address = server.wait_until_it_listens(_START_S)
            client = Client(address, timeouts=Timeouts(connect=_START_S))
            _wait_until_healthy(client)
        stage = steps.Stage(client, report)
        steps.look_around(stage)
    with client:
        with report.step("Encode a story: each token and its strongest features"):
            encoded = steps.encode_story(stage)
        with report.step("Decode it back"):
            steps.decode_story(stage, encoded)
        with report.step("Run the model with the SAE spliced in"):
            steps.run_spliced(stage)
        with report.step("Steer a continuation"):
            steps.steer_story(stage)
        with steps.watching(client, train_seconds + _PUBLISH_S) as events:
            with report.step("Train a fresh SAE and publish it"):
                steps.train_fresh(stage, saes, train_seconds)
            with report.step("Encode with it: the server has loaded it meanwhile"):
                steps.use_fresh(stage, events)
    with report.step("Stop the server"):
        report.check("it drains and exits with 0", server.stop() == 0)


def _wait_until_healthy(client: Client) -> None:
    deadline = time.monotonic() + _START_S
    while client.health() != "serving":
        if time.monotonic() > deadline:
            raise DemoError(f"the server is not healthy after {_START_S:.0f} s")
        time.sleep(0.1)
