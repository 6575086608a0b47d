"""RunWithSAEs and RunWithSAEsStream."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from saekit.codec import bits_to_tensor, numpy_to_tensor
from saekit.v1 import input_pb2, tensor_pb2
from saekit.v1 import sae_service_pb2 as pb
from saekit_core.lm.intervention_rows import place
from saekit_core.lm.interventions import Interventions
from saekit_core.lm.predictions import ce_loss_score
from saekit_server.engine.call import Call
from saekit_server.engine.work import ForwardResult, ForwardWork, Logits, RunOutput, RunSpec
from saekit_server.errors import at_field, invalid
from saekit_server.handlers.context import Context, check_count, check_size
from saekit_server.handlers.encode import prepend_bos, reads_of
from saekit_server.handlers.inputs import Options, Row, check_over_length, token_info
from saekit_server.handlers.streams import stream_items
from saekit_server.registry import LoadedSAE
from saekit_server.scheduler import Priority
from saekit_server.wire.fields import at_wire_field, intervention_names
from saekit_server.wire.interventions import InterventionReader
from saekit_server.wire.priority import priority
from saekit_server.wire.queries import Query, encoding_message, read_query

_MAX_STREAM_INPUTS = 65_536

_LOGITS = {
    pb.LOGITS_ROWS_UNSPECIFIED: Logits.NONE,
    pb.LOGITS_ROWS_NONE: Logits.NONE,
    pb.LOGITS_ROWS_LAST: Logits.LAST,
    pb.LOGITS_ROWS_ALL: Logits.ALL,
}


@dataclass(frozen=True)
class RunPlan:
    """The options of a call, read once for all its inputs."""

    spec: RunSpec
    interventions: Interventions
    names: Mapping[str, str]
    queries: tuple[Query, ...]
    hook_names: tuple[str, ...]
    inputs: Options
    token_text: bool
    priority: Priority
    saes: tuple[LoadedSAE, ...]


class RunHandler:
    """Forward runs with SAEs spliced in and features edited."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def run(self, request: pb.RunWithSAEsRequest, call: Call) -> pb.RunWithSAEsResponse:
        """Answers RunWithSAEs."""
        with at_field("options"):
            plan = self._plan(request.options)
        check_count("inputs", len(request.inputs))
        engine = self._context.engine
        with engine.room(call, len(request.inputs)) as room:
            rows = await self._context.inputs.rows(request.inputs, plan.inputs)
            works = []
            for i, (row,) in enumerate(rows):
                works.append(_work(row, plan, f"inputs[{i}]"))
            names = [f"inputs[{i}]" for i in range(len(works))]
            answers = await engine.run(works, call, plan.priority, names, room=room)
        response = pb.RunWithSAEsResponse(
            served_by=self._context.served_by, saes=sae_revisions(plan.saes)
        )
        for i, item in enumerate(request.inputs):
            response.results.append(self._result(item, rows[i][0], answers[i], plan, i))
        check_size(response, "RunWithSAEsStream")
        return response

    async def run_stream(
        self, request: pb.RunWithSAEsStreamRequest, call: Call
    ) -> AsyncIterator[pb.RunWithSAEsStreamResponse]:
        """Answers RunWithSAEsStream."""
        with at_field("options"):
            plan = self._plan(request.options)
        check_count("inputs", len(request.inputs), _MAX_STREAM_INPUTS)

        async def items() -> AsyncIterator[tuple[str, input_pb2.Input]]:
            for item in request.inputs:
                yield item.id, item

        async def answer(item: input_pb2.Input, seq: int) -> list[pb.RunResult]:
            (row,) = await self._context.inputs.one(item, plan.inputs)
            engine = self._context.engine
            (made,) = await engine.run_patiently((_work(row, plan, ""),), call, plan.priority)
            return [self._result(item, row, made, plan, seq)]

        async for frame in stream_items(items(), answer, unique_ids=False):
            yield pb.RunWithSAEsStreamResponse(
                id=frame.id,
                seq=frame.seq,
                last=frame.last,
                header=frame.header,
                part=frame.part,
                status=frame.status,
                served_by=self._context.served_by if frame.first else None,
                saes=sae_revisions(plan.saes) if frame.first else None,
            )

    def _plan(self, options: pb.RunOptions) -> RunPlan:
        self._context.check_model(options.model)
        check_over_length(options.over_length)
        reader = InterventionReader(self._context.model, self._context.sae)
        with at_field("interventions"):
            interventions = reader.read(options.interventions, generates=False)
        returns = options.returns
        queries, hooks = [], []
        for i, message in enumerate(returns.features):
            with at_field(f"returns.features[{i}]"):
                queries.append(read_query(message, reader.sae))
        for i, name in enumerate(returns.activations):
            with at_wire_field(f"returns.activations[{i}]", {"hook_name": ""}):
                hooks.append(self._context.model.hook_point(name))
        spec = RunSpec(
            _LOGITS[returns.logits],
            self._top_k(returns),
            returns.loss,
            returns.token_logprobs,
            tuple(hooks),
            returns.compare,
            tuple({splice.sae.hook_out: None for splice in interventions.splices}),
        )
        if not (spec.any_logit or queries or hooks):
            raise invalid("returns", "nothing is asked for")
        saes = tuple(reader.used.values())
        return RunPlan(
            spec,
            interventions,
            intervention_names(options.interventions),
            tuple(queries),
            tuple(returns.activations),
            Options(
                prepend_bos(options, saes),
                options.over_length,
                self._context.limits.max_input_tokens,
            ),
            options.token_text,
            priority(options.priority),
            saes,
        )

    def _top_k(self, returns: pb.RunReturns) -> int | None:
        if not returns.HasField("top_k_logits"):
            return None
        if _LOGITS[returns.logits] is Logits.NONE:
            raise invalid("returns.top_k_logits", "needs returns.logits")
        d_vocab = self._context.model.d_vocab
        if not 1 <= returns.top_k_logits <= d_vocab:
            raise invalid(
                "returns.top_k_logits",
                f"expected 1 to {d_vocab} (d_vocab), got {returns.top_k_logits}",
            )
        return returns.top_k_logits

    def _result(
        self, item: input_pb2.Input, row: Row, answer: ForwardResult, plan: RunPlan, index: int
    ) -> pb.RunResult:
        result = pb.RunResult(
            id=item.id,
            input_index=index,
            truncated=row.truncated,
            tokens=token_info(self._context.model.tokenizer, row.tokenized, pieces=plan.token_text),
        )
        _, which = reads_of(plan.queries, row.tokenized, "options.returns.features")
        for query, read in zip(plan.queries, which, strict=True):
            result.features.append(encoding_message(query, answer.encodings[read]))
        if answer.run is not None:
            _fill(result, answer.run, plan)
        return result


def _work(row: Row, plan: RunPlan, where: str) -> ForwardWork:
    """What one input takes; `where` is its path in the request."""
    reads, _ = reads_of(plan.queries, row.tokenized, "options.returns.features", where)
    with at_wire_field("options.interventions", plan.names, item=where):
        placed = place(plan.interventions, row.tokenized)
    return ForwardWork(row.tokenized, reads, plan.spec, placed)


def _fill(result: pb.RunResult, output: RunOutput, plan: RunPlan) -> None:
    if output.logits is not None:
        result.logits.CopyFrom(numpy_to_tensor(output.logits))
    if output.top_ids is not None and output.top_logits is not None:
        result.top_logits.ids.CopyFrom(numpy_to_tensor(output.top_ids.astype("uint32")))
        result.top_logits.logits.CopyFrom(numpy_to_tensor(output.top_logits))
        if output.top_logprobs is not None:
            result.top_logits.logprobs.CopyFrom(numpy_to_tensor(output.top_logprobs))
    if output.loss is not None:
        result.loss = output.loss
    if output.token_logprobs is not None:
        result.token_logprobs.CopyFrom(numpy_to_tensor(output.token_logprobs))
    for name, activations in zip(plan.hook_names, output.activations, strict=True):
        result.activations.append(
            pb.HookActivations(hook_name=name, activations=_tensor(activations))
        )
    if output.comparison is not None:
        _compare(result.comparison, output)


def _compare(message: pb.RunComparison, output: RunOutput) -> None:
    made = output.comparison
    if made is None:
        return
    message.kl = made.kl
    if made.clean_loss is None or made.loss is None:
        return
    message.clean_loss = made.clean_loss
    message.delta_loss = made.loss - made.clean_loss
    if made.ablated_loss is not None:
        message.ablated_loss = made.ablated_loss
        if made.ablated_loss != made.clean_loss:
            message.ce_loss_score = ce_loss_score(
                clean=made.clean_loss, spliced=made.loss, ablated=made.ablated_loss
            )


def _tensor(activations: torch.Tensor) -> tensor_pb2.Tensor:
    if activations.dtype == torch.bfloat16:
        return bits_to_tensor(activations.view(torch.uint16).numpy())
    return numpy_to_tensor(activations.numpy())


def sae_revisions(saes: Sequence[LoadedSAE]) -> list[pb.SAERevision]:
    """What took part."""
    return [
        pb.SAERevision(sae_id=s.sae_id, sae_revision=s.revision, sae_dtype=s.dtype) for s in saes
    ]
