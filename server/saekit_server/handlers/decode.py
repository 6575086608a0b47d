"""Decode and DecodeStream."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np
import torch

from saekit.codec import CSR, float_dtype_name, numpy_to_tensor, rows_to_csr, tensor_to_numpy
from saekit.v1 import sae_service_pb2 as pb
from saekit.v1 import tensor_pb2
from saekit_core.sae.config import CONSTANT_SCALAR
from saekit_core.sae.normalization import STATE_OF_NORMALIZATION, EncodeState
from saekit_server.engine.call import Call
from saekit_server.engine.work import STATE_PARTS, DecodeWork
from saekit_server.errors import at_field, invalid
from saekit_server.handlers.context import Context, check_count, check_size
from saekit_server.handlers.streams import stream_items
from saekit_server.registry import LoadedSAE
from saekit_server.scheduler import Priority
from saekit_server.wire.priority import priority


@dataclass(frozen=True)
class DecodePlan:
    """The options of a call, read once for all its items."""

    dtype: "tensor_pb2.DataType"
    priority: Priority


class DecodeHandler:
    """Activations from feature activations."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def decode(self, request: pb.DecodeRequest, call: Call) -> pb.DecodeResponse:
        """Answers Decode."""
        with at_field("options"):
            plan = self._plan(request.options, Priority.INTERACTIVE)
        check_count("items", len(request.items))
        engine = self._context.engine
        with engine.room(call, len(request.items)) as room:
            works = []
            for i, item in enumerate(request.items):
                with at_field(f"items[{i}]"):
                    works.append(self._work(item))
            names = [f"items[{i}]" for i in range(len(works))]
            answers = await engine.run(works, call, plan.priority, names, room=room)
        response = pb.DecodeResponse(served_by=self._context.served_by)
        for i, (item, work, answer) in enumerate(zip(request.items, works, answers, strict=True)):
            response.results.append(_result(item, work, answer, plan, i))
        check_size(response, "DecodeStream")
        return response

    async def decode_stream(
        self, requests: AsyncIterator[pb.DecodeStreamRequest], call: Call
    ) -> AsyncIterator[pb.DecodeStreamResponse]:
        """Answers DecodeStream."""
        first = await anext(requests, None)
        if first is None or first.WhichOneof("message") != "options":
            raise invalid("options", "the first message must carry the options")
        with at_field("options"):
            plan = self._plan(first.options, Priority.BATCH)

        async def items() -> AsyncIterator[tuple[str, pb.DecodeItem]]:
            async for message in requests:
                if message.WhichOneof("message") != "item":
                    raise invalid("message", "every message but the first must carry an item")
                yield message.item.id, message.item

        async def answer(item: pb.DecodeItem, seq: int) -> list[pb.DecodeResult]:
            work = self._work(item)
            (made,) = await self._context.engine.run_patiently((work,), call, plan.priority)
            return [_result(item, work, made, plan, seq)]

        served_by = self._context.served_by
        async for frame in stream_items(items(), answer):
            yield pb.DecodeStreamResponse(
                id=frame.id,
                seq=frame.seq,
                last=frame.last,
                header=frame.header,
                part=frame.part,
                status=frame.status,
                served_by=served_by if frame.first else None,
            )

    def _plan(self, options: pb.DecodeOptions, default: Priority) -> DecodePlan:
        self._context.check_model(options.model)
        dtype = options.dtype or tensor_pb2.DATA_TYPE_F32
        with at_field("dtype"):
            float_dtype_name(dtype, field="")
        return DecodePlan(dtype, priority(options.priority, default))

    def _work(self, item: pb.DecodeItem) -> DecodeWork:
        loaded = self._context.sae(item.sae)
        match item.WhichOneof("features"):
            case "sparse":
                with at_field("sparse"):
                    acts = rows_to_csr(item.sparse)
            case "dense":
                with at_field("dense"):
                    acts = _dense_to_csr(tensor_to_numpy(item.dense, floating=True))
            case _:
                raise invalid("features", "expected sparse or dense")
        source = str(item.WhichOneof("features"))
        rows, width = acts.shape
        if width != loaded.sae.cfg.d_sae or not rows:
            raise invalid(
                f"{source}.shape",
                f"expected [rows, {loaded.sae.cfg.d_sae}] with rows >= 1, got {[rows, width]}",
            )
        if not np.isfinite(acts.data).all():
            values = f"{source}.{'values' if source == 'sparse' else 'data'}"
            raise invalid(values, "NaN or infinite feature activations")
        with at_field("state"):
            return DecodeWork(loaded, acts, _state(item, loaded, rows))


def _dense_to_csr(dense: "np.typing.NDArray[np.floating]") -> CSR:
    if dense.ndim != 2:
        raise invalid("shape", f"expected [rows, d_sae], got {list(dense.shape)}")
    rows, columns = np.nonzero(dense)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=dense.shape[0]))])
    return CSR(
        indptr.astype(np.uint32),
        columns.astype(np.uint32),
        dense[rows, columns],
        (dense.shape[0], dense.shape[1]),
    )


def _state(item: pb.DecodeItem, loaded: LoadedSAE, rows: int) -> EncodeState | None:
    """The state of an item, which must be there exactly as far as the SAE needs it."""
    cfg, architecture = loaded.sae.cfg, loaded.sae.architecture
    needed = STATE_OF_NORMALIZATION.get(cfg.normalize_activations, ())
    if architecture.transcodes:
        needed = ()  # what it reconstructs was not normalised
    optional = {
        "x": architecture.skips,
        "predicted": architecture.sequential,
        "scale": cfg.normalize_activations == CONSTANT_SCALAR,
    }
    parts = {}
    for name in STATE_PARTS:
        present = item.HasField("state") and item.state.HasField(name)
        if present != (name in needed) and not optional.get(name):
            verb = "needs" if name in needed else "takes no"
            raise invalid(
                name,
                f"{loaded.sae_id} ({cfg.architecture}, {cfg.normalize_activations}) {verb} {name} "
                "to decode",
            )
        if present:
            with at_field(name):
                array = tensor_to_numpy(getattr(item.state, name), floating=True)
                expected = [rows, cfg.d_in if name in ("x", "predicted") else 1]
                if list(array.shape) != expected:
                    raise invalid("shape", f"expected {expected}, got {list(array.shape)}")
                if not np.isfinite(array).all() or (name == "scale" and (array <= 0).any()):
                    raise invalid("data", "must be finite, and a scale positive")
                parts[name] = torch.from_numpy(array.astype(np.float32))
    head_shape = _head_shape(tuple(item.state.head_shape), loaded)
    if not parts and head_shape is None:
        return None
    return EncodeState(**parts, head_shape=head_shape)


def _head_shape(given: tuple[int, ...], loaded: LoadedSAE) -> tuple[int, int] | None:
    if not given:
        return None
    shape = loaded.bound.hook.shape
    if loaded.sae.cfg.reshape_activations != "hook_z" or given != tuple(shape):
        raise invalid("head_shape", f"expected none or {list(shape)}, got {list(given)}")
    return (given[0], given[1])


def _result(
    item: pb.DecodeItem,
    work: DecodeWork,
    answer: "np.typing.NDArray[np.float32]",
    plan: DecodePlan,
    index: int,
) -> pb.DecodeResult:
    return pb.DecodeResult(
        id=item.id,
        item_index=index,
        sae_id=work.loaded.sae_id,
        sae_revision=work.loaded.revision,
        activations=numpy_to_tensor(answer, plan.dtype),
    )
