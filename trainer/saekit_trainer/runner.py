"""`SAETrainingRunner`: a training run from configuration to finished SAE."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from saekit_core.lm.boot import boot_model
from saekit_core.lm.model import LanguageModel
from saekit_core.sae.sae import SAE
from saekit_trainer.activations_store import ActivationsStore
from saekit_trainer.config import LanguageModelSAERunnerConfig
from saekit_trainer.distributed.checks import check_ranks, check_width
from saekit_trainer.distributed.joining import join_ranks
from saekit_trainer.logs import check_logs, open_logs
from saekit_trainer.multi_config import MultiSAETrainingRunnerConfig
from saekit_trainer.plan import SAEPlan, plan_sae
from saekit_trainer.report import ReportWriter
from saekit_trainer.results import Reporter, RunObserver, RunStatus, TrainingResult
from saekit_trainer.resuming import ResumePoint, find_resume_point
from saekit_trainer.run_config import RunConfig
from saekit_trainer.run_folders import RunFolders
from saekit_trainer.run_lock import alone_in
from saekit_trainer.training_run import TrainingRun


class SAETrainingRunner:
    """Trains one SAE.

    Attributes:
        cfg: what was asked for.
        model: the language model.
        plan: what that comes to on this model.
        store: the activations.
        resume: what the run goes on from; None where it begins anew.
        result: everything about the finished run; None before.
    """

    def __init__(
        self,
        cfg: LanguageModelSAERunnerConfig,
        override_dataset: Any = None,
        override_model: LanguageModel | None = None,
        *,
        report: Reporter | None = None,
        observers: Sequence[RunObserver] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            cfg: the run.
            override_dataset: a data set (see `contexts.open_contexts`), instead of cfg's.
            override_model: a booted model, instead of the one that `cfg` names.
            report: is called after each step.
            observers: are told of whatever else happens, too.
            clock: seconds since some moment; `max_seconds` is measured by it.

        Raises:
            CheckpointError: there is no state to go on from where `cfg` says.
            ConfigError: `cfg` does not fit the model, or the state to go on from, or what a log
                needs is not there.
            DatasetError: the data set cannot be opened.
            LMError: the model cannot be booted, or not on that device.
        """
        self.cfg = cfg
        self._run, self.model, self.store, self.resume = _prepare(
            cfg,
            {"": cfg},
            dataset=override_dataset,
            model=override_model,
            report=report,
            observers=observers,
            clock=clock,
        )
        self.plan: SAEPlan = self._run.plans[""]
        self.result: TrainingResult | None = None

    def run(self) -> SAE:
        """Train, evaluate, write the folders if there are to be any, and return the SAE.

        In the main thread, SIGINT and SIGTERM let the step come to its end, write a state to go on
        from, and end the run; a second SIGINT ends it at once.

        Raises:
            CheckpointError: a folder cannot be written.
            DatasetError: the data set turns out to be broken or too small.
            DivergedError: the loss is not finite.
            TrainingInterrupted: SIGINT or SIGTERM came; it is a KeyboardInterrupt.
        """
        self.result = self._run.run()[""]
        return self.result.sae


class MultiSAETrainingRunner:
    """Trains several SAEs, on one hook point or on several, behind one run of the model.

    Each is trained exactly as it would be alone on the same batches.

    Attributes:
        cfg: what was asked for.
        model: the language model.
        plans: what that comes to on this model, by the name of the SAE.
        store: the activations of all hook points, side by side.
        resume: what the run goes on from; None where it begins anew.
        results: everything about the finished run, by the name of the SAE; empty before.
    """

    def __init__(
        self,
        cfg: MultiSAETrainingRunnerConfig,
        override_dataset: Any = None,
        override_model: LanguageModel | None = None,
        *,
        report: Reporter | None = None,
        observers: Sequence[RunObserver] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Arguments and errors as `SAETrainingRunner`."""
        self.cfg = cfg
        self._run, self.model, self.store, self.resume = _prepare(
            cfg,
            cfg.members(),
            dataset=override_dataset,
            model=override_model,
            report=report,
            observers=observers,
            clock=clock,
        )
        self.plans: Mapping[str, SAEPlan] = self._run.plans
        self.results: dict[str, TrainingResult] = {}

    def run(self) -> dict[str, SAE]:
        """Train, evaluate, write the folders if there are to be any, and return the SAEs by name.

        Errors as `SAETrainingRunner.run`.
        """
        self.results = self._run.run()
        return {name: result.sae for name, result in self.results.items()}


class _Calling(RunObserver):
    """The function that a caller gave as `report`."""

    def __init__(self, report: Reporter) -> None:
        self._report = report

    def step_done(self, status: RunStatus) -> None:
        self._report(status)


def _prepare(
    cfg: RunConfig,
    members: Mapping[str, LanguageModelSAERunnerConfig],
    *,
    dataset: Any,
    model: LanguageModel | None,
    report: Reporter | None,
    observers: Sequence[RunObserver],
    clock: Callable[[], float],
) -> tuple[TrainingRun, LanguageModel, ActivationsStore, ResumePoint | None]:
    ranks = join_ranks(cfg.device)
    given = dataset is not None or cfg.dataset_path is not None or cfg.use_cached_activations
    check_ranks(cfg, ranks, writes_text=not given)
    if ranks.is_main:
        check_logs(cfg)
    model = model or boot_model(cfg.model_name, device=ranks.device_for(cfg.device))
    plans = {name: plan_sae(member, model) for name, member in members.items()}
    folders = RunFolders(cfg, plans)
    begun = folders.checkpoints if ranks.is_main else None
    # What an earlier attempt left is looked through and tidied up: it must have ended.
    with alone_in(begun if begun is not None and begun.exists() else None):
        resume = find_resume_point(cfg, plans, folders.checkpoints, model.revision)
        ranks.total(0)  # all have looked before the main one tidies up
        hooks = {hook: None for plan in plans.values() for hook in (plan.hook, plan.hook_out)}
        for plan in plans.values():
            check_width(plan.sae.d_sae, cfg, ranks)
        store = ActivationsStore.from_config(model, cfg, tuple(hooks), dataset, ranks)
        following = [*observers] if ranks.is_main else []
        if report is not None and ranks.is_main:
            following.append(_Calling(report))
        if ranks.is_main:
            following.extend(open_logs(cfg, plans, folders.home, resume))
            if folders.report is not None:
                following.append(ReportWriter(folders.report, plans))
        if cfg.max_seconds is not None:
            clock = ranks.main_clock(clock)  # it decides how many steps there are
        run = TrainingRun(
            cfg,
            plans,
            model,
            store,
            folders=folders,
            resume=resume,
            ranks=ranks,
            observers=following,
            clock=clock,
        )
        return run, model, store, resume
