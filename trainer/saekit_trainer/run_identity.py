"""What determines a run's weights: its name on disk, and which other run may go on with a state."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from typing import Any, Final

import torch

from saekit_trainer.plan import SAEPlan, optimization_config, total_steps
from saekit_trainer.schedules import warm_up
from saekit_trainer.store_config import StoreConfig

Fields = dict[str, dict[str, Any]]
"""Name of the SAE → field → JSON value."""

_NOT_OF_THE_RESULT: Final = frozenset(
    [
        "output_path",
        "checkpoint_path",
        "n_checkpoints",
        "run_name",
        "eval_every_n_wandb_logs",
        # How processes share the work.
        "shard_features",
        "eval_every_n_steps",
        "log_to_jsonl",
        "log_to_tensorboard",
        "html_report",
        "prometheus_port",
        "prometheus_host",
        "resume_from_checkpoint",
        "resume_changes",
        "resume_state_minutes",
        "n_resume_states",
    ]
)
_NOT_OF_STEPS_DONE: Final = frozenset(
    [
        # The same batches, the same weights.
        "prefetch_llm_batches",
        "feature_stats_tokens",
        # It ended the run, or it did nothing so far.
        "on_broken_sample",
        # The same numbers but for rounding: a run may move to another machine.
        "device",
        "compile",
        "compile_sae",
        "compile_llm",
        "compilation_mode",
        # The model's revision says more than its name.
        "model_name",
    ]
)


def run_fields(plans: Mapping[str, SAEPlan]) -> Fields:
    """All that was asked for but for names, places and logs, as it comes back from JSON."""
    values = {
        name: {
            key: value
            for key, value in asdict(plan.cfg).items()
            if key not in _NOT_OF_THE_RESULT and "wandb" not in key
        }
        for name, plan in plans.items()
    }
    fields: Fields = json.loads(json.dumps(values))
    return fields


def run_name(plans: Mapping[str, SAEPlan]) -> str:
    """The SAE's label with a digest of `run_fields`: the same run always has the same name, and two
    different ones never do."""
    digest = hashlib.sha256(json.dumps(run_fields(plans), sort_keys=True).encode()).hexdigest()[:8]
    first = next(iter(plans.values())).label
    return f"{first}-{digest}" if len(plans) == 1 else f"{len(plans)}-saes-{digest}"


def differences(
    before: Fields, plans: Mapping[str, SAEPlan], step: int, allowed: Collection[str]
) -> list[tuple[str, str]]:
    """Why the steps done under `before` are not those of a run of `plans`.

    Args:
        before: `run_fields` of the run that did them.
        step: how many there are.
        allowed: fields that may differ.

    Returns:
        Fields, each with ``FIELD: what is asked for, and what it was``.
    """
    now = run_fields(plans)
    if before.keys() != now.keys():
        return [("saes", f"saes: {', '.join(now)}, but {', '.join(before)} when the run began")]
    found: dict[str, str] = {}
    for name, plan in plans.items():
        for field in sorted(now[name].keys() | before[name].keys()):
            old, new = before[name].get(field), now[name].get(field)
            if old == new or field in _NOT_OF_STEPS_DONE or field in allowed:
                continue
            if field == "training_tokens":
                differing = _first_other_step(plan, int(before[name][field]), step)
                if differing is None:
                    continue
                found[field] = (
                    f"training_tokens: {new}, but {old} when the run began, which schedules and "
                    f"data were fitted to: step {differing} would have been another"
                )
                continue
            found[field] = f"{field}: {json.dumps(new)}, but {json.dumps(old)} when the run began"
    return list(found.items())


def _first_other_step(plan: SAEPlan, training_tokens: int, step: int) -> int | None:
    """The first of `step` steps that a run of another length would have done otherwise."""
    cfgs = (replace(plan.cfg, training_tokens=training_tokens), plan.cfg)
    runs = [(total_steps(cfg), optimization_config(cfg, plan.sae)) for cfg in cfgs]
    held = StoreConfig.of_run(plan.cfg, torch.device("cpu")).buffer_rows(plan.cfg.context_size)
    for i in range(step):
        rates = {run.schedule.at(i, total) for total, run in runs}
        factors = {warm_up(i, run.sparsity_warm_up_steps) for _, run in runs}
        # The last rows of the buffer are drawn otherwise, without new ones.
        drawn = {min((total - i) * plan.cfg.train_batch_size_tokens, held) for total, _ in runs}
        if (
            len(rates) > 1
            or len(factors) > 1
            or (len(drawn) > 1 and not plan.cfg.use_cached_activations)
        ):
            return i
    return None if step <= runs[1][0] else runs[1][0]
