"""The registry: SAEs by name and revision, loaded, replaced and moved out while requests run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from saekit_core.lm.model import LanguageModel
from saekit_server.errors import DomainError, already_exists, precondition, unavailable
from saekit_server.registry.events import Subscription
from saekit_server.registry.loaded import Entry, LastUse, LoadedSAE, ParkedSAE, SAEInfo
from saekit_server.registry.loading import Loader, RunOnDevice, moved, refusal
from saekit_server.registry.marks import Marks, marked
from saekit_server.registry.memory import Memory, Spill
from saekit_server.registry.restoring import Restorer
from saekit_server.registry.shelf import LoadResult, RegistryStats, Shelf
from saekit_server.registry.sources import Source, resolve_source

RETRY_S: Final = 0.2
"""When to ask again for an SAE that is being brought back."""


class Registry:
    """SAEs on one model.

    `get` takes no lock and never waits. Everything that changes the registry reads and checks
    first, then swaps one reference; whoever got an SAE before keeps it as it was.

    Args:
        model: what the SAEs must fit.
        sae_root: folder below which local specs lie; None: there are none.
        device: where SAEs run; None: where the model is.
        sae_dtype: number type that SAEs run in; None: each in its own.
        memory_budget_bytes: memory for SAEs on the device; None: no limit.
        spill: where the least recently used go when the budget is used up: to the host's memory,
            or out, to be read again from their folder. None: to the host's memory, unless that is
            the device.
        run_on_device: calls a function on the thread that owns the device and returns its result.
        wall: seconds since the epoch.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        sae_root: Path | None = None,
        device: str | torch.device | None = None,
        sae_dtype: str | None = None,
        memory_budget_bytes: int | None = None,
        spill: Spill | None = None,
        run_on_device: RunOnDevice[Any] = lambda call: call(),
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        place = torch.device(device) if device is not None else model.device
        self.sae_root = sae_root
        self._loader = Loader(model, place, sae_dtype, run_on_device)
        spill = spill or ("disk" if place.type == "cpu" else "host")
        self._shelf = Shelf(Memory(memory_budget_bytes, spill, clock))
        self._restorer = Restorer(self._bring_back)
        # Held while an SAE is read and built: of two loads of one name the later reader wins,
        # and no more than one newcomer at a time is beside the budget.
        self._one_load = threading.Lock()
        self._wall = wall
        self._clock = clock

    # asking

    def get(self, name: str) -> LoadedSAE:
        """The SAE of ``sae_id`` or ``sae_id@revision``, ready to run. Takes no lock.

        Raises:
            DomainError: NOT_FOUND, with near names; FAILED_PRECONDITION if other revisions are
                loaded but not this one, or its files have changed since it left memory;
                UNAVAILABLE while it is brought back to memory, which this call begins.
        """
        entry = self._shelf.snapshot.find(name)
        if isinstance(entry, ParkedSAE):
            back = self._restorer.outcome(entry)
            if back is None:
                raise unavailable(
                    f"{entry.info.name} is being brought back to memory", retry_after_s=RETRY_S
                )
            entry = back
        entry.use.at = self._clock()
        entry.use.kept_until = 0.0
        return entry

    def restore(self, name: str) -> Future[LoadedSAE]:
        """As `get`, but waiting: at once where the SAE is in memory, else when it is back.

        From a coroutine: ``await asyncio.wrap_future(registry.restore(name))``.

        Raises:
            DomainError: NOT_FOUND or FAILED_PRECONDITION, as `get`; what fails later is raised by
                the future.
        """
        entry = self._shelf.snapshot.find(name)
        if isinstance(entry, ParkedSAE):
            return self._restorer.begin(entry)
        entry.use.at = self._clock()
        done: Future[LoadedSAE] = Future()
        done.set_result(entry)
        return done

    def describe(self, name: str) -> SAEInfo:
        """What the SAE of that name is, wherever its weights are; raises as `get` of a name."""
        return self._shelf.snapshot.find(name).info

    def list(self, prefix: str = "", hook_name: str = "") -> tuple[SAEInfo, ...]:
        """All revisions, ordered by sae_id, then revision.

        Args:
            prefix: only sae_ids that begin with it.
            hook_name: only SAEs that read there; any alias of the hook point.

        Raises:
            LMError: the model has no such hook point.
        """
        hook = self._loader.model.hook_point(hook_name) if hook_name else None
        return tuple(
            entry.info
            for entry in self._shelf.snapshot
            if entry.info.sae_id.startswith(prefix) and hook in (None, entry.info.hook)
        )

    def stats(self) -> RegistryStats:
        """Figures for metrics."""
        return self._shelf.stats()

    def subscribe(self, prefix: str = "", notify: Callable[[], None] | None = None) -> Subscription:
        """What is loaded now, then every change, for SAEs whose sae_id begins with `prefix`.

        Args:
            prefix: of the sae_id.
            notify: called from another thread whenever `Subscription.drain` has something new.
        """
        return self._shelf.subscribe(prefix, notify)

    # changing

    def load(
        self,
        source: str,
        *,
        sae_id: str | None = None,
        replace: bool = False,
        pin: bool = False,
        expected_revision: str | None = None,
        trusted: bool = False,
        marks: Marks | None = None,
    ) -> LoadResult:
        """Load an SAE; returns when it serves. Call it from a side thread: it reads files.

        The same bytes as those that serve under this name change nothing.

        Args:
            source: ``[NAME=]SPEC``.
            sae_id: its name; default: NAME, or what the spec implies.
            replace: allow that another SAE, or another revision, has this name. It serves until
                the new one does.
            pin: pin this revision; False leaves a pin that it has.
            expected_revision: refuse any other; None or empty: any.
            trusted: whether the operator asks, who may name any folder.
            marks: what to set besides (then `pin` says nothing); None: they stay as they are.

        Raises:
            DomainError: INVALID_ARGUMENT (spec, name, a folder outside the SAE root), NOT_FOUND,
                ALREADY_EXISTS, FAILED_PRECONDITION (broken files, an SAE that does not fit the
                model, another revision than expected), RESOURCE_EXHAUSTED (memory). What served
                before still does.
        """
        try:
            place = resolve_source(source, sae_id=sae_id, root=self.sae_root, trusted=trusted)
        except DomainError as error:
            if trusted:  # what anybody may send over the wire is no news to those who watch
                self._shelf.fail(sae_id or "", source, error)
            raise
        with self._one_load:
            serving = self._shelf.snapshot.current.get(place.sae_id)
            if serving is not None and not replace:
                raise already_exists(
                    f"{place.sae_id} is loaded, revision {serving.info.revision}; replace was not "
                    "asked for",
                    field="sae_id",
                )
            try:
                return self._load(place, serving, pin, expected_revision or None, marks)
            except Exception as error:
                raise self.report_failure(place, error) from error

    def load_all(self, specs: Iterable[str]) -> tuple[LoadResult, ...]:
        """Load the operator's ``[NAME=]SPEC``s, in order; raises at the first that fails."""
        return tuple(self.load(spec, trusted=True) for spec in specs)

    def unload(self, name: str) -> tuple[SAEInfo, ...]:
        """Unload ``sae_id`` (all its revisions) or ``sae_id@revision``, pinned or not.

        Requests that hold it finish on it.

        Returns:
            What was unloaded.

        Raises:
            DomainError: as `get` of a name that is not loaded.
        """
        return self._shelf.remove(name)

    def park(self, name: str) -> None:
        """Move an SAE out of the device's memory until it is asked for."""
        self._shelf.park(name)

    def report_failure(self, place: Source, error: Exception) -> DomainError:
        """Tell the watchers that a load failed; returns what its caller is to be told."""
        problem = refusal(error, place)
        self._shelf.fail(place.sae_id, place.spec, problem)
        return problem

    def close(self) -> None:
        """Stop bringing SAEs back, and end all subscriptions."""
        self._restorer.close()
        self._shelf.close()

    # inside

    def _load(
        self,
        place: Source,
        serving: Entry | None,
        pin: bool,
        expected_revision: str | None,
        marks: Marks | None,
    ) -> LoadResult:
        owned = self._loader.read(place.folder, self._shelf.memory.budget, place.origin)
        if expected_revision is not None and owned.revision != expected_revision:
            raise precondition(
                f"{place.spec} has revision {owned.revision}, expected {expected_revision:.40}",
                field="expected_revision",
            )
        info = self._loader.describe(owned, place, self._wall())
        info = marked(info, self._shelf.snapshot.of(place.sae_id), serving, pin, marks)
        if isinstance(serving, LoadedSAE) and serving.revision == info.revision:
            return self._shelf.remark(serving, info)
        self._shelf.make_room(info, serving)
        bound = self._loader.build(owned, info)
        self._loader.check(bound, owned)
        self._restorer.forget(info.name)
        return self._shelf.serve(LoadedSAE(info, bound, LastUse(self._clock())))

    def _bring_back(self, parked: ParkedSAE) -> LoadedSAE:
        """Runs on the restorer's thread."""
        info = parked.info
        place = Source(info.source, info.sae_id, info.folder, info.origin)
        with self._one_load:
            try:
                return self._restored(parked)
            except Exception as error:
                # The caller named an SAE, not a source.
                raise self.report_failure(place, error).at(None) from error

    def _restored(self, parked: ParkedSAE) -> LoadedSAE:
        info = replace(parked.info, device=str(self._loader.device))
        if parked.weights is not None:
            self._shelf.make_room(info, None)
            bound = self._loader.bind(moved(parked.weights, self._loader.device), info)
        else:
            owned = self._loader.read(info.folder, self._shelf.memory.budget, info.origin)
            if owned.revision != info.revision:
                raise precondition(
                    f"{info.name} left memory, and its folder now holds {owned.revision}; "
                    "load it again"
                )
            self._shelf.make_room(info, None)
            bound = self._loader.build(owned, info)
        return self._shelf.unpark(LoadedSAE(info, bound, self._shelf.memory.just_restored()))
