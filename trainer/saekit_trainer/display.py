"""A run as it goes, for people: live figures in a terminal, a line now and then elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Final, Literal, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from saekit_trainer.curves import Curve, sparkline
from saekit_trainer.evaluation import Evaluation
from saekit_trainer.results import RunObserver, RunStatus
from saekit_trainer.trainer import StepMetrics

SECONDS_BETWEEN_LINES: Final = 5.0
_REFRESHES_PER_SECOND: Final = 4
_FIXED_WIDTH: Final = 52
"""Columns of the first line of an SAE without its name and its two sparklines."""

Mode = Literal["auto", "live", "lines", "none"]


class TrainingDisplay(RunObserver):
    """Shows what it observes; a context manager, so that the terminal is left in order."""

    def __init__(self, console: Console, mode: Mode = "auto") -> None:
        """
        Args:
            console: where to show it.
            mode: live figures, lines, nothing; auto: live in a terminal, lines elsewhere.
        """
        self._console = console
        if mode == "auto":
            mode = "live" if console.is_terminal else "lines"
        self._mode = mode
        self._live: Live | None = None
        self._status: RunStatus | None = None
        self._evaluations: dict[str, tuple[int, Evaluation]] = {}
        self._losses: dict[str, Curve] = {}
        self._variances: dict[str, Curve] = {}
        self._next_line = 0.0

    def __enter__(self) -> Self:
        if self._mode == "live":
            self._live = Live(
                console=self._console,
                get_renderable=self.render,
                refresh_per_second=_REFRESHES_PER_SECOND,
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def step_done(self, status: RunStatus) -> None:
        for name, metrics in status.saes.items():
            self._losses.setdefault(name, Curve()).add(metrics.tokens, metrics.loss)
            variance = metrics.explained_variance
            self._variances.setdefault(name, Curve()).add(metrics.tokens, variance)
        self._status = status
        last = status.metrics.step >= status.total_steps
        if self._mode == "lines" and (last or status.seconds >= self._next_line):
            self._next_line = status.seconds + SECONDS_BETWEEN_LINES
            self._print(status)

    def evaluated(self, step: int, evaluations: Mapping[str, Evaluation]) -> None:
        for name, evaluation in evaluations.items():
            self._evaluations[name] = (step, evaluation)
            if self._mode == "lines":
                what = f"step {step}  held out{f', {name}' if name else ''}: "
                self._line(what + held_out(evaluation))

    def render(self) -> RenderableType:
        """What the terminal shows now."""
        status = self._status
        if status is None:
            return Spinner("dots", " preparing model and data", style="bold")
        step, total = status.metrics.step, status.total_steps
        done = step >= total
        head = Table.grid(padding=(0, 2, 0, 0))
        head.add_row(
            Text("training", style="bold"),
            ProgressBar(total=total, completed=step, width=24),
            f"{step / total:.0%}",
            f"step {step:,}/{total:,}",
            "evaluating" if done and not self._all_evaluated(step) else _speed(status),
        )
        lines: list[RenderableType] = [head]
        name_width = max(map(len, status.saes))
        spark = max(min((self._console.width - _FIXED_WIDTH - name_width) // 2, 24), 4)
        for name, metrics in status.saes.items():
            lines += self._of_sae(name, metrics, name_width, spark)
        return Group(*lines)

    def _of_sae(self, name: str, metrics: StepMetrics, name_width: int, spark: int) -> list[Text]:
        first = Text(no_wrap=True, overflow="ellipsis")
        first.append(f"  {name:<{name_width}}  " if name_width else "  ", style="bold")
        first.append(f"L0 {metrics.l0:<6.1f}  EV {metrics.explained_variance:.3f} ")
        first.append(f"{sparkline(self._variances[name].ys, spark):<{spark}}", style="green")
        first.append(f"  loss {metrics.loss:<9.4g} ")
        first.append(f"{sparkline(self._losses[name].ys, spark):<{spark}}", style="cyan")
        first.append(f"  dead {metrics.dead_features}")
        indent = " " * (name_width + 4 if name_width else 2)
        second = Text(f"{indent}{_terms(metrics)}", style="dim")
        if name not in self._evaluations:
            return [first, second]
        step, evaluation = self._evaluations[name]
        third = Text(f"{indent}held out, step {step:,}: {held_out(evaluation)}")
        return [first, second, third]

    def _all_evaluated(self, step: int) -> bool:
        assert self._status is not None
        seen = (self._evaluations.get(name) for name in self._status.saes)
        return all(found is not None and found[0] == step for found in seen)

    def _print(self, status: RunStatus) -> None:
        head = f"step {status.metrics.step}/{status.total_steps}  {_speed(status)}"
        if len(status.saes) == 1:
            self._line(f"{head}  {figures(status.metrics)}")
            return
        self._line(head)
        for name, metrics in status.saes.items():
            self._line(f"  {name}  {figures(metrics)}")

    def _line(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def figures(metrics: StepMetrics) -> str:
    """Everything that a person watches of an SAE, in one line."""
    return (
        f"L0 {metrics.l0:.1f}  EV {metrics.explained_variance:.3f}  loss {metrics.loss:.4g}  "
        f"{_terms(metrics)}  dead {metrics.dead_features}"
    )


def held_out(evaluation: Evaluation) -> str:
    """What an evaluation has found, in one line."""
    return (
        f"CE loss score {evaluation.ce_loss_score:.4f}  KL {evaluation.kl_sae:.4f} "
        f"(score {evaluation.kl_score:.4f})  L0 {evaluation.l0:.1f}  "
        f"EV {evaluation.explained_variance:.4f}"
    )


def duration(seconds: float) -> str:
    """Seconds as people say them: 12 s, 3:07, 2:15:00."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _terms(metrics: StepMetrics) -> str:
    return "  ".join(f"{term} {value:.4g}" for term, value in metrics.losses.items())


def _speed(status: RunStatus) -> str:
    return f"{status.tokens_per_second / 1000:.1f}k tok/s  {duration(status.seconds_left)} left"
