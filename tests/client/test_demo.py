"""The demo's judgement; `make demo` is the test of the whole."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from saekit_client.demo.report import DemoError, Report
from saekit_client.demo.server import ServerProcess


def new_report(steps: int) -> Report:
    return Report(Console(file=io.StringIO()), steps)


def test_the_demo_passes_only_if_every_claim_of_every_step_holds() -> None:
    report = new_report(2)
    with report.step("one"):
        report.check("a", holds=True)
    assert not report.passed, "a step is missing"
    with report.step("two"):
        report.check("b", holds=True)
    assert report.passed
    report.check("c", holds=False)
    assert not report.passed


def test_a_step_without_a_claim_has_shown_nothing() -> None:
    report = new_report(1)
    with report.step("one"):
        pass
    assert not report.passed


def test_a_step_that_breaks_off_counts_as_failed() -> None:
    report = new_report(2)
    with pytest.raises(DemoError), report.step("one"):
        raise DemoError("no")
    with report.step("two"):
        report.check("b", holds=True)
    assert not report.passed


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        ServerProcess(["no-such-command"], tmp_path / "server.log") as server,
        pytest.raises(DemoError, match=r"ended with exit code 2\n(?s:.)*no-such-command"),
    ):
        server.wait_until_it_listens(60)
