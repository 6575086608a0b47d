"""Collects what a report shows while a run lasts, and writes it at the end."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path

from saekit_trainer.evaluation import Evaluation
from saekit_trainer.logs.jsonl_log import read_records
from saekit_trainer.logs.metrics_log import evaluation_figures, step_figures
from saekit_trainer.plan import SAEPlan
from saekit_trainer.report.history import RunHistory
from saekit_trainer.report.page import report_page
from saekit_trainer.results import RunObserver, RunStatus, TrainingResult


class ReportWriter(RunObserver):
    """Writes the report of a run, aside and renamed.

    A run that goes on from a checkpoint takes the course before it from the ``metrics.jsonl`` that
    lies where the report will.
    """

    def __init__(self, path: Path, plans: Mapping[str, SAEPlan]) -> None:
        self._path = path
        self._plans = plans
        self._history = RunHistory(plans)
        self._tokens = 0

    def began(self, step: int, tokens: int) -> None:
        self._tokens = tokens
        if step:
            records = read_records(self._path.with_name("metrics.jsonl"))
            self._history.add_records(r for r in records if r["step"] <= step)

    def step_done(self, status: RunStatus) -> None:
        self._tokens = status.metrics.tokens
        self._history.speed.add(self._tokens, status.tokens_per_second)
        for name, metrics in status.saes.items():
            self._history.add(name, self._tokens, step_figures(metrics))

    def evaluated(self, step: int, evaluations: Mapping[str, Evaluation]) -> None:  # noqa: ARG002
        for name, evaluation in evaluations.items():
            self._history.add(name, self._tokens, evaluation_figures(evaluation))

    def finished(self, results: Mapping[str, TrainingResult]) -> None:
        page = report_page(self._plans, results, self._history)
        aside = self._path.with_name(f".{self._path.name}.new")
        try:
            aside.write_text(page, encoding="utf-8")
            os.replace(aside, self._path)
        except OSError as error:  # the SAEs are safe, and worth more than the page
            warnings.warn(f"{self._path}: not written ({error})", stacklevel=2)
