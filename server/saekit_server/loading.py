"""What a server loads before it serves: the model, slots, and SAEs."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from saekit_core.assets import default_sae_root
from saekit_core.lm.boot import boot_model
from saekit_core.lm.model import LanguageModel
from saekit_core.lm.stepper import Stepper
from saekit_server.config import ServeConfig
from saekit_server.engine.engine import Engine
from saekit_server.engine.runner import Runner
from saekit_server.engine_metrics import EngineCollector
from saekit_server.handlers.context import Limits
from saekit_server.memory_plan import MemoryPlan, plan_memory
from saekit_server.metrics import Metrics
from saekit_server.registry import FolderWatcher, Manifest, Registry
from saekit_server.registry.polling import Poller
from saekit_server.registry_metrics import RegistryCollector
from saekit_server.scheduler import Limits as SchedulerLimits
from saekit_server.scheduler import Scheduler

clock: Callable[[], float] = time.monotonic
# A comparison runs three rows of an input.
_MOST_ROWS = 3
_DEFAULT_LENGTH = 4096


@dataclass(frozen=True)
class Parts:
    """The parts of a server that answer."""

    model: LanguageModel
    registry: Registry
    engine: Engine
    limits: Limits
    memory: MemoryPlan


def load_parts(config: ServeConfig, metrics: Metrics) -> Parts:
    """Boots the model and lays out the device's memory.

    Raises:
        DomainError: the plan does not fit the memory.
        LMError: the model cannot be loaded.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    model = boot_model(
        config.model, revision=config.revision, device=config.device, dtype=config.dtype
    )
    length = min(config.max_length or _DEFAULT_LENGTH, model.max_context)
    memory = plan_memory(
        model, slots=config.slots, max_length=length, fraction=config.memory_fraction
    )
    batch_tokens = max(config.max_batch_tokens, _MOST_ROWS * length)
    scheduler = Scheduler(
        SchedulerLimits(
            n_slots=config.slots,
            max_batch_tokens=batch_tokens,
            mixed_batch_tokens=max(512, 2 * config.slots),
            max_batch_bytes=memory.workspace,
            max_sae_rows=1 << 16,
            max_queued_jobs=config.max_queued_requests,
            max_queued_tokens=config.max_queued_tokens,
            max_caller_jobs=config.max_queued_requests,
            max_caller_tokens=config.max_queued_tokens,
        ),
        clock,
    )
    stepper = Stepper(model, model.new_slots(config.slots, length))
    engine = Engine(model, scheduler, Runner(model, stepper, metrics), metrics, clock)
    registry = Registry(
        model,
        sae_root=config.sae_dir,
        sae_dtype=config.sae_dtype,
        memory_budget_bytes=memory.saes,
        run_on_device=engine.run_on_device,
    )
    limits = Limits(
        max_input_tokens=length,
        max_slot_tokens=length,
        slots=config.slots,
        max_queued_requests=config.max_queued_requests,
        max_queued_tokens=config.max_queued_tokens,
    )
    metrics.registry.register(RegistryCollector(registry))
    metrics.registry.register(EngineCollector(engine, model.device))
    metrics.build.info(
        {"model": model.name, "revision": model.revision, "device": str(model.device)}
    )
    return Parts(model, registry, engine, limits, memory)


def load_saes(config: ServeConfig, registry: Registry) -> list[Poller]:
    """Loads what the command line names; what it asks to be followed comes back, not yet started.

    The embedded model brings its SAEs. A folder below `sae_dir` that cannot be loaded is logged and
    left out; one that was named with `--sae` ends the start.

    Raises:
        DomainError: a named SAE, or the manifest, cannot be loaded.
    """
    if config.model is None:
        root = default_sae_root()
        folders = sorted(path.parent for path in root.rglob("cfg.json"))
        for folder in folders:
            name = folder.relative_to(root).as_posix()
            registry.load(f"{name}=file:{folder}", trusted=True)
    registry.load_all(config.saes)
    followers = []
    if config.sae_dir is not None:
        watcher = FolderWatcher(registry)
        watcher.poll_once()
        if config.watch:
            followers.append(
                Poller(watcher.poll_once, config.watch_interval_s, name="saekit-watch")
            )
    if config.manifest is not None:
        manifest = Manifest(registry, config.manifest)
        report = manifest.poll_once()
        if (error := report.failed.get(config.manifest.name)) is not None:
            raise error
        followers.append(Poller(manifest.poll_once, config.watch_interval_s, name="manifest"))
    return followers
