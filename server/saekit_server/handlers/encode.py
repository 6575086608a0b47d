"""Encode and EncodeStream."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saekit.codec import tensor_to_numpy
from saekit.v1 import input_pb2, tensor_pb2
from saekit.v1 import sae_service_pb2 as pb
from saekit_core.lm.positions import resolve
from saekit_core.lm.tokenizer import Tokenized
from saekit_server.engine.call import Call
from saekit_server.engine.work import (
    EncodeActivationsWork,
    Encoding,
    ForwardWork,
    Read,
    Work,
)
from saekit_server.errors import at_field, invalid
from saekit_server.handlers.context import Context, check_count, check_size
from saekit_server.handlers.inputs import Options, Row, token_info
from saekit_server.handlers.streams import Frame, stream_items
from saekit_server.registry import LoadedSAE
from saekit_server.scheduler import Priority
from saekit_server.wire.fields import POSITIONS, at_wire_field
from saekit_server.wire.priority import priority
from saekit_server.wire.queries import Query, encoding_message, read_query

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class EncodePlan:
    """The options of a call, read once for all its inputs."""

    queries: tuple[Query, ...]
    inputs: Options
    token_text: bool
    priority: Priority


@dataclass(frozen=True)
class Pending:
    """A result that is not there yet: the work it takes, and what makes it of the answers."""

    works: tuple[Work, ...]
    finish: Callable[[Sequence[Any]], pb.EncodeResult]


class EncodeHandler:
    """Feature activations."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def encode(self, request: pb.EncodeRequest, call: Call) -> pb.EncodeResponse:
        """Answers Encode."""
        check_count("inputs", len(request.inputs))
        engine = self._context.engine
        with engine.room(call, len(request.inputs)) as room:
            with at_field("options"):
                plan = self._plan(request.options, Priority.INTERACTIVE)
            rows = await self._context.inputs.rows(request.inputs, plan.inputs)
            pending: list[Pending] = []
            names: list[str] = []
            for i, item in enumerate(request.inputs):
                made = self._pending(item, rows[i], plan, i, f"inputs[{i}]")
                pending += made
                names += [f"inputs[{i}]" for p in made for _ in p.works]
            works = [work for p in pending for work in p.works]
            answers = iter(await engine.run(works, call, plan.priority, names, room=room))
        response = pb.EncodeResponse(served_by=self._context.served_by)
        for p in pending:
            response.results.append(p.finish([next(answers) for _ in p.works]))
        check_size(response, "EncodeStream")
        return response

    async def encode_stream(
        self, requests: AsyncIterator[pb.EncodeStreamRequest], call: Call
    ) -> AsyncIterator[pb.EncodeStreamResponse]:
        """Answers EncodeStream: results as they are ready, one status for each bad input."""
        first = await anext(requests, None)
        if first is None or first.WhichOneof("message") != "options":
            raise invalid("options", "the first message must carry the options")
        with at_field("options"):
            plan = self._plan(first.options, Priority.BATCH)

        async def items() -> AsyncIterator[tuple[str, input_pb2.Input]]:
            async for message in requests:
                if message.WhichOneof("message") != "input":
                    raise invalid("message", "every message but the first must carry an input")
                yield message.input.id, message.input

        async def answer(item: input_pb2.Input, seq: int) -> list[pb.EncodeResult]:
            rows = await self._context.inputs.one(item, plan.inputs)
            results = []
            for p in self._pending(item, rows, plan, seq, ""):
                answers = await self._context.engine.run_patiently(p.works, call, plan.priority)
                results.append(p.finish(answers))
            return results

        served_by = self._context.served_by
        async for frame in stream_items(items(), answer):
            yield _message(frame, served_by if frame.first else None)

    def _plan(self, options: pb.EncodeOptions, default: Priority) -> EncodePlan:
        self._context.check_model(options.model)
        if not options.saes:
            raise invalid("saes", "expected at least one query")
        queries = []
        seen: set[bytes] = set()
        for i, message in enumerate(options.saes):
            with at_field(f"saes[{i}]"):
                queries.append(read_query(message, self._context.sae))
            seen.add(message.SerializeToString(deterministic=True))
            if len(seen) <= i:
                raise invalid(f"saes[{i}]", "the same query again")
        inputs = Options(
            prepend_bos(options, [query.loaded for query in queries]),
            options.over_length,
            self._context.limits.max_input_tokens,
            allow_activations=True,
        )
        return EncodePlan(
            tuple(queries), inputs, options.token_text, priority(options.priority, default)
        )

    def _pending(
        self, item: input_pb2.Input, rows: Sequence[Row], plan: EncodePlan, index: int, where: str
    ) -> list[Pending]:
        """What the results of one input take; `where` is its path in the request."""
        if item.WhichOneof("content") == "activations":
            with at_field(where), at_field("activations"):
                x = _activations(item.activations, plan.queries)
            return [self._of_activations(item, x, plan, index, where)]
        return [self._of_row(item, row, plan, index, where) for row in rows]

    def _of_row(
        self, item: input_pb2.Input, row: Row, plan: EncodePlan, index: int, where: str
    ) -> Pending:
        reads, which = reads_of(plan.queries, row.tokenized, "options.saes", where)

        def finish(answers: Sequence[Any]) -> pb.EncodeResult:
            result = pb.EncodeResult(
                id=item.id,
                input_index=index,
                window_index=row.window_index,
                window_start=row.window_start,
                truncated=row.truncated,
                tokens=token_info(
                    self._context.model.tokenizer, row.tokenized, pieces=plan.token_text
                ),
            )
            for query, read in zip(plan.queries, which, strict=True):
                result.encodings.append(encoding_message(query, answers[0].encodings[read]))
            return result

        return Pending((ForwardWork(row.tokenized, reads),), finish)

    def _of_activations(
        self, item: input_pb2.Input, x: Floats, plan: EncodePlan, index: int, where: str
    ) -> Pending:
        reads, which = reads_of(plan.queries, _anonymous(len(x)), "options.saes", where)
        stateful = {read.loaded for read in reads if read.return_state}
        works = {
            read.loaded: EncodeActivationsWork(read.loaded, x, read.loaded in stateful)
            for read in reads
        }
        order = list(works)

        def finish(answers: Sequence[Any]) -> pb.EncodeResult:
            result = pb.EncodeResult(id=item.id, input_index=index)
            for query, read in zip(plan.queries, (reads[i] for i in which), strict=True):
                encoding: Encoding = answers[order.index(read.loaded)]
                result.encodings.append(encoding_message(query, encoding.at(read.positions)))
            return result

        return Pending(tuple(works.values()), finish)


def reads_of(
    queries: Sequence[Query], tokenized: Tokenized, parent: str, item: str = ""
) -> tuple[tuple[Read, ...], list[int]]:
    """The reads that answer the queries, each once, and which one answers which query.

    Args:
        queries: what is wanted.
        tokenized: of what.
        parent: path of the queries in the request.
        item: path of the input in the request.

    Raises:
        DomainError: positions that do not fit the input.
    """
    reads: dict[tuple[str, str, bytes], Read] = {}
    which: list[int] = []
    for i, query in enumerate(queries):
        with at_wire_field(f"{parent}[{i}].positions", POSITIONS, item=item):
            mask = resolve(query.positions, tokenized, default=query.default_positions).prompt
            if not mask.any():
                raise invalid("", "selects no position of this input")
        key = (query.loaded.sae_id, query.loaded.revision, mask.tobytes())
        stateful = query.return_state or (key in reads and reads[key].return_state)
        reads[key] = Read(query.loaded, np.flatnonzero(mask), stateful)
        which.append(list(reads).index(key))
    return tuple(reads.values()), which


def prepend_bos(
    options: "pb.EncodeOptions | pb.RunOptions | pb.SteerRequest", saes: Sequence[LoadedSAE]
) -> bool | None:
    """Whether texts get a BOS: as asked, else as the SAEs were trained, else None.

    Raises:
        DomainError: the SAEs disagree and nothing was asked.
    """
    if options.HasField("prepend_bos"):
        return options.prepend_bos
    trained = {
        loaded.sae_id: loaded.sae.cfg.metadata.prepend_bos
        for loaded in saes
        if loaded.sae.cfg.metadata.prepend_bos is not None
    }
    if len(set(trained.values())) > 1:
        raise invalid(
            "prepend_bos",
            "the SAEs disagree on it, so it must be set: "
            + ", ".join(f"{name} was trained with {value}" for name, value in trained.items()),
        )
    return next(iter(trained.values()), None)


def _activations(tensor: tensor_pb2.Tensor, queries: Sequence[Query]) -> Floats:
    """The array of an input, checked against every SAE that is to read it."""
    x = tensor_to_numpy(tensor, floating=True).astype(np.float32, copy=False)
    hook = queries[0].loaded.bound.hook
    for loaded in (query.loaded for query in queries):
        if loaded.bound.hook != hook:
            raise invalid(
                "",
                f"activations belong to one hook point, but {loaded.sae_id} reads "
                f"{loaded.bound.hook.name} and another SAE {hook.name}",
            )
        if loaded.sae.architecture.sequential:
            raise invalid(
                "",
                f"{loaded.sae_id} is a temporal SAE, whose features depend on the whole sequence; "
                "send text or tokens",
            )
        _check_shape(x, loaded)
    if not np.isfinite(x).all():
        raise invalid("data", "NaN or infinite activations")
    return x


def _check_shape(x: Floats, loaded: LoadedSAE) -> None:
    expected: list[tuple[int, ...]] = [(loaded.sae.cfg.d_in,)]
    shape = loaded.bound.hook.shape
    if loaded.sae.cfg.reshape_activations == "hook_z" and len(shape) == 2:
        expected.append((shape[0], shape[1]))
    if x.ndim < 2 or x.shape[1:] not in expected or not x.shape[0]:
        wanted = " or ".join(str(["rows", *tail]) for tail in expected)
        raise invalid("shape", f"expected {wanted} with rows >= 1, got {list(x.shape)}")


def _anonymous(rows: int) -> Tokenized:
    """Rows without tokens, so that position selectors can be laid over given activations."""
    return Tokenized(
        ids=np.zeros(rows, np.int64),
        byte_offsets=np.zeros((rows, 2), np.uint32),
        special=np.zeros(rows, np.bool_),
        has_bos=False,
        message_index=None,
        roles=None,
    )


def _message(
    frame: Frame[pb.EncodeResult], served_by: input_pb2.ServedBy | None
) -> pb.EncodeStreamResponse:
    return pb.EncodeStreamResponse(
        id=frame.id,
        seq=frame.seq,
        last=frame.last,
        header=frame.header,
        part=frame.part,
        status=frame.status,
        served_by=served_by,
    )
