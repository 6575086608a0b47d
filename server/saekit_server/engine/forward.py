"""One forward batch: rows of many callers through the model, features read on the way."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saekit.codec import CSR
from saekit_core.lm.hook_points import HookPoint, Tap
from saekit_core.lm.intervention_rows import InterventionRow, idle_row
from saekit_core.lm.model import LanguageModel
from saekit_core.lm.splicing import BatchedInterventions
from saekit_core.sae.normalization import EncodeState
from saekit_core.sae.sparse import SparseActs, encode_sparse
from saekit_server.engine.logits import run_output
from saekit_server.engine.work import (
    Encoding,
    ForwardResult,
    ForwardWork,
    Read,
    RunOutput,
    RunSpec,
    encode_state_arrays,
)
from saekit_server.registry import LoadedSAE


@dataclass(frozen=True)
class Twins:
    """Rows of the batch that belong to one work."""

    main: int
    clean: int | None = None
    ablated: int | None = None


class ForwardBatch:
    """The works of a batch laid out as rows, [R, P], right-padded."""

    def __init__(self, model: LanguageModel, works: Sequence[ForwardWork]) -> None:
        self._model = model
        self._works = works
        self._twins: list[Twins] = []
        rows: list[npt.NDArray[np.int64]] = []
        self._interventions: list[InterventionRow] = []
        # Whoever only reads the same tokens reads them from one row.
        read_only: dict[bytes, Twins] = {}
        for work in works:
            key = work.tokenized.ids.tobytes()
            shared = read_only.get(key) if work.run is None else None
            if shared is not None:
                self._twins.append(shared)
                continue
            run = work.run or RunSpec()
            self._twins.append(
                Twins(
                    len(rows),
                    len(rows) + 1 if run.compare else None,
                    len(rows) + 2 if run.rows == 3 else None,
                )
            )
            if work.run is None:
                read_only[key] = self._twins[-1]
            rows += [work.tokenized.ids] * run.rows
            self._interventions.append(work.interventions)
            self._interventions += [idle_row()] * (run.rows - 1)
        self._lengths = [len(row) for row in rows]
        self.width = max(self._lengths)
        tokens = np.zeros((len(rows), self.width), dtype=np.int64)
        for row, ids in zip(tokens, rows, strict=True):
            row[: len(ids)] = ids
        self._tokens = torch.from_numpy(tokens).to(model.device)
        self._encodings: dict[tuple[int, int], Encoding] = {}
        self._captured: dict[tuple[int, HookPoint], Tensor] = {}

    @property
    def rows(self) -> int:
        """Rows that run; fewer than works where some read the same tokens."""
        return len(self._lengths)

    @property
    def padding(self) -> int:
        """Positions that hold no token."""
        return len(self._lengths) * self.width - sum(self._lengths)

    def run(self) -> list[ForwardResult]:
        """Runs the batch; one result a work."""
        logits_at, spans = self._logits_at()
        logits = self._model.forward(self._tokens, taps=self._taps(), logits_at=logits_at)
        results = []
        for i, work in enumerate(self._works):
            encodings = [self._encodings[i, j] for j in range(len(work.reads))]
            output = None
            if work.run is not None:
                output = self._run_output(work, work.run, self._twins[i], logits, spans)
            results.append(ForwardResult(encodings, output))
        return results

    def _taps(self) -> dict[HookPoint, Tap]:
        reads = self._reads_by_hook()
        splices: dict[HookPoint, Tap] = {}
        if not all(row.idle for row in self._interventions):
            batched = BatchedInterventions(self._interventions, self._model.device)
            starts = [0] * len(self._lengths)
            splices = batched.taps(starts, self._lengths, self.width)
        ablated: dict[HookPoint, list[int]] = defaultdict(list)
        captured: dict[HookPoint, list[int]] = defaultdict(list)
        for work, twins in zip(self._works, self._twins, strict=True):
            if work.run is None:
                continue
            for hook in work.run.activations:
                captured[hook].append(twins.main)
            if twins.ablated is not None:
                for hook in work.run.ablated_hooks:
                    ablated[hook].append(twins.ablated)

        def tap(hook: HookPoint) -> Tap:
            def run(h: Tensor) -> Tensor | None:
                for loaded, places in reads.get(hook, {}).items():
                    self._encode(loaded, places, h, hook)
                changed = splices[hook](h) if hook in splices else None
                if hook in ablated:
                    changed = (h if changed is None else changed).clone()
                    changed[ablated[hook]] = 0
                for row in captured.get(hook, ()):
                    kept = (h if changed is None else changed)[row, : self._lengths[row]]
                    self._captured[row, hook] = kept.detach().to("cpu", copy=True)
                return changed

            return run

        hooks = {*reads, *splices, *ablated, *captured}
        return {hook: tap(hook) for hook in hooks}

    def _reads_by_hook(
        self,
    ) -> dict[HookPoint, dict[LoadedSAE, list[tuple[int, int, Read]]]]:
        reads: dict[HookPoint, dict[LoadedSAE, list[tuple[int, int, Read]]]] = {}
        for i, work in enumerate(self._works):
            for j, read in enumerate(work.reads):
                hook = read.loaded.bound.hook
                reads.setdefault(hook, {}).setdefault(read.loaded, []).append((i, j, read))
        return reads

    def _encode(
        self,
        loaded: LoadedSAE,
        places: Sequence[tuple[int, int, Read]],
        h: Tensor,
        hook: HookPoint,
    ) -> None:
        """Encodes every place that one SAE is read at, in one go."""
        if loaded.sae.architecture.sequential:
            self._encode_sequences(loaded, places, h)
            return
        index = np.concatenate(
            [self._twins[i].main * self.width + read.positions for i, _, read in places]
        )
        flat = h.reshape(h.shape[0] * h.shape[1], -1)
        x = loaded.bound.x_of(flat, torch.from_numpy(index).to(h.device))
        acts, state = encode_sparse(loaded.sae, x)
        if loaded.sae.cfg.reshape_activations == "hook_z" and len(hook.shape) == 2:
            state = replace(state, head_shape=(hook.shape[0], hook.shape[1]))
        pieces = split_encoding(
            acts,
            state,
            [read.positions for _, _, read in places],
            return_state=any(read.return_state for _, _, read in places),
        )
        for (i, j, read), encoding in zip(places, pieces, strict=True):
            every = len(read.positions) == len(self._works[i].tokenized.ids)
            self._encodings[i, j] = replace(encoding, every_position=every)

    def _encode_sequences(
        self, loaded: LoadedSAE, places: Sequence[tuple[int, int, Read]], h: Tensor
    ) -> None:
        """Encodes whole rows, for an SAE whose features depend on the context."""
        for i, j, read in places:
            row = self._twins[i].main
            x = loaded.bound.x_of(h[row, : self._lengths[row]].flatten(1))
            acts, state = encode_sparse(loaded.sae, x)
            (whole,) = split_encoding(
                acts, state, [np.arange(len(x))], return_state=read.return_state
            )
            self._encodings[i, j] = replace(whole, every_position=True).at(read.positions)

    def _logits_at(self) -> tuple[Tensor | None, dict[int, slice]]:
        """Flat indices of the wanted logits, and the span of each row in them."""
        index: list[npt.NDArray[np.int64]] = []
        spans: dict[int, slice] = {}
        size = 0
        for work, twins in zip(self._works, self._twins, strict=True):
            if work.run is None or not work.run.any_logit:
                continue
            for row in (twins.main, twins.clean, twins.ablated):
                if row is None:
                    continue
                n = self._lengths[row]
                positions = np.arange(n) if work.run.every_logit else np.array([n - 1])
                index.append(row * self.width + positions)
                spans[row] = slice(size, size + len(positions))
                size += len(positions)
        if not index:
            return None, spans
        return torch.from_numpy(np.concatenate(index)).to(self._model.device), spans

    def _run_output(
        self,
        work: ForwardWork,
        spec: RunSpec,
        twins: Twins,
        logits: Tensor | None,
        spans: dict[int, slice],
    ) -> RunOutput:
        output = RunOutput()
        if logits is not None and spec.any_logit:
            twin_logits = [
                None if row is None else logits[spans[row]] for row in (twins.clean, twins.ablated)
            ]
            mine = logits[spans[twins.main]]
            output = run_output(spec, work.tokenized.ids, mine, *twin_logits)
        output.activations = [self._captured[twins.main, hook] for hook in spec.activations]
        return output


def split_encoding(
    acts: SparseActs,
    state: EncodeState,
    positions: Sequence[npt.NDArray[np.int64]],
    *,
    return_state: bool,
) -> list[Encoding]:
    """Consecutive rows of one encode, cut into the reads that they belong to."""
    arrays = encode_state_arrays(state) if return_state else {}
    values = acts.values.float().numpy()
    encodings = []
    start = 0
    for rows in positions:
        stop = start + len(rows)
        low, high = int(acts.indptr[start]), int(acts.indptr[stop])
        csr = CSR(
            acts.indptr[start : stop + 1] - acts.indptr[start],
            acts.indices[low:high],
            values[low:high],
            (len(rows), acts.d_sae),
        )
        encodings.append(
            Encoding(
                csr,
                rows,
                every_position=False,
                state={name: array[start:stop] for name, array in arrays.items()},
                head_shape=state.head_shape or (),
            )
        )
        start = stop
    return encodings
