"""A run as people see it: live figures in a terminal, lines elsewhere, a summary at the end."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rich.console import Console

from saekit_trainer.curves import Curve, sparkline
from saekit_trainer.display import TrainingDisplay, duration
from saekit_trainer.evaluation import Evaluation
from saekit_trainer.results import RunStatus
from saekit_trainer.summary import print_summaries
from saekit_trainer.trainer import StepMetrics


def metrics(step: int, *, l0: float = 32.0) -> StepMetrics:
    """The loss falls, the explained variance rises."""
    losses = {"mse_loss": 90.0 / step, "aux_k_loss": 0.125}
    return StepMetrics(step, 100 * step, sum(losses.values()), losses, l0, 1 - 0.5 / step, 7, 1e-3)


def status(step: int, *names: str) -> RunStatus:
    return RunStatus(
        {name: metrics(step) for name in names or ("",)}, 20, float(step), 12_300.0, 200.0 - step
    )


def evaluation(score: float) -> Evaluation:
    names = ("l1", "mse", "cosine_similarity", "shrinkage", "l2_ratio", "fraction_alive")
    nothing = dict.fromkeys((*names, "relative_reconstruction_bias"), 0.0)
    return Evaluation(
        tokens=100,
        l0=31.5,
        explained_variance=0.875,
        dead_features=3,
        density=torch.zeros(4),
        active_per_token=torch.zeros(100),
        ce_loss_clean=2.0,
        ce_loss_sae=6.0 - 4.0 * score,
        ce_loss_zero=6.0,
        kl_sae=0.25,
        kl_zero=1.0,
        **nothing,
    )


def shown(width: int, show: Callable[[TrainingDisplay], None]) -> str:
    """What a terminal of that width holds at the end."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    with TrainingDisplay(console) as display:
        show(display)
        with console.capture() as capture:
            console.print(display.render())
    return capture.get()


def test_a_terminal_shows_every_figure_and_its_course() -> None:
    def run(display: TrainingDisplay) -> None:
        for step in range(1, 11):
            display.step_done(status(step))
        display.evaluated(10, {"": evaluation(0.75)})

    text = shown(100, run)
    for figure in ("50%", "step 10/20", "12.3k tok/s", "3:10 left", "L0 32.0", "EV 0.950"):
        assert figure in text
    for figure in ("loss 9.125", "mse_loss 9", "aux_k_loss 0.125", "dead 7"):
        assert figure in text
    assert "held out, step 10: CE loss score 0.7500  KL 0.2500 (score 0.7500)  L0 31.5" in text
    (line,) = [line for line in text.splitlines() if "dead 7" in line]
    rising, falling = (word for word in line.split() if set(word) <= set("▁▂▃▄▅▆▇█"))
    assert (rising[0], rising[-1]) == ("▁", "█")
    assert (falling[0], falling[-1]) == ("█", "▁")
    assert all(len(line) <= 100 for line in text.splitlines())


def test_before_the_first_step_a_terminal_shows_that_something_happens() -> None:
    assert "preparing model and data" in shown(80, lambda _: None)


def test_several_saes_have_their_own_figures_in_80_columns() -> None:
    def run(display: TrainingDisplay) -> None:
        for step in range(1, 21):
            display.step_done(status(step, "early", "late"))
        display.evaluated(20, {"late": evaluation(0.5)})

    text = shown(80, run)
    assert text.count("dead 7") == text.count("mse_loss 4.5") == 2
    late = text[text.index("late") :]
    assert "CE loss score 0.5000" in late
    assert "evaluating" in text  # the one that is still to come
    assert all(len(line) <= 80 for line in text.splitlines())


def test_elsewhere_there_is_a_line_every_few_seconds() -> None:
    out = io.StringIO()
    with TrainingDisplay(Console(file=out, width=40)) as display:
        for step in range(1, 21):
            display.step_done(status(step))
        display.evaluated(20, {"": evaluation(0.75)})
    lines = out.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/20", "6/20", "11/20", "16/20", "20/20", "20"]
    assert lines[0] == (
        "step 1/20  12.3k tok/s  3:19 left  L0 32.0  EV 0.500  loss 90.12  mse_loss 90  "
        "aux_k_loss 0.125  dead 7"
    )
    assert lines[-1].startswith("step 20  held out: CE loss score 0.7500")


def test_none_shows_nothing_and_lines_can_be_asked_for_in_a_terminal() -> None:
    for mode, expected in (("none", 0), ("lines", 1)):
        out = io.StringIO()
        console = Console(file=out, force_terminal=True, width=200)
        with TrainingDisplay(console, mode) as display:  # type: ignore[arg-type]
            display.step_done(status(1, ""))
        assert len(out.getvalue().splitlines()) == expected


def test_a_curve_of_any_length_keeps_its_shape_in_few_points() -> None:
    curve = Curve(limit=16)
    for i in range(1000):
        curve.add(i, math.sin(i / 1000 * math.pi))
    assert 8 <= len(curve.xs) < 16
    step = curve.xs[1] - curve.xs[0]
    for x, y in zip(curve.xs, curve.ys, strict=True):
        middle = (x - (step - 1) / 2) / 1000 * math.pi
        assert y == pytest.approx(math.sin(middle), abs=0.01)
    curve.add(2000, math.nan)
    assert curve.xs[-1] < 1000


def test_a_sparkline_goes_from_the_smallest_to_the_largest() -> None:
    assert sparkline([], 8) == ""
    assert sparkline([3.0], 8) == "▁"
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, 0, 7, 7, 3.5, 3.5], 3) == "▁█▅"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99.4, "99 s"), (187, "3:07"), (8100, "2:15:00")]
)
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_summary_says_how_good_it_is_where_it_lies_and_how_to_serve_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    serve = f"saekit serve --sae-dir {'/long' * 30} --sae '[out]'"
    summary: dict[str, Any] = {
        "architecture": "topk",
        "d_sae": 64,
        "hook_name": "blocks.1.hook_resid_pre",
        "training_tokens": 2048,
        "seconds": 4.0,
        "tokens_per_second": 512.0,
        "loss": 1.5,
        "evaluation": evaluation(0.75).to_dict(),
        "skipped_samples": 2,
        "folder": "/x/[out]",
        "report": "/x/report.html",
        "serve": serve,
    }
    console = Console(width=120)
    print_summaries({"one": summary, "two": summary | {"skipped_samples": 0}}, console)
    text = capsys.readouterr().out
    for figure in ("0.8750", "31.5", "0.7500", "512 a second", "3 of 64", "2 broken samples"):
        assert figure in text
    assert "/x/[out]" in text
    lines = [line.split(maxsplit=2) for line in text.splitlines()]
    assert lines.count(["serve", "it", serve]) == 1
    assert text.count("/x/report.html") == 1
