"""Steer: generation token by token, with features edited."""

import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from saekit.v1 import intervention_pb2
from saekit.v1 import sae_service_pb2 as pb
from saekit_core.lm.generation import Finish, FinishReason, Generation, StepOutput, StopRules
from saekit_core.lm.interventions import Interventions, Stop, Watch
from saekit_core.lm.sampling import SamplingParams
from saekit_server.engine.call import Call
from saekit_server.engine.tickets import Stream
from saekit_server.errors import at_field, invalid
from saekit_server.handlers.context import Context
from saekit_server.handlers.encode import prepend_bos
from saekit_server.handlers.inputs import Options, Row, check_over_length, token_info
from saekit_server.handlers.run import sae_revisions
from saekit_server.registry import LoadedSAE
from saekit_server.wire.fields import at_wire_field, intervention_names
from saekit_server.wire.interventions import InterventionReader
from saekit_server.wire.priority import priority

_DEFAULT_NEW_TOKENS = 64
_MAX_CHOICES = 16
_MAX_STOP_STRINGS = 16
_MAX_TOP_LOGPROBS = 20

_REASONS = {
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.EOS: pb.FINISH_REASON_EOS,
    FinishReason.STOP_STRING: pb.FINISH_REASON_STOP_STRING,
    FinishReason.CONDITION: pb.FINISH_REASON_CONDITION,
    FinishReason.NON_FINITE: pb.FINISH_REASON_NON_FINITE,
}


@dataclass(frozen=True)
class SteerPlan:
    """A request, read."""

    interventions: Interventions
    watch: tuple[Watch, ...]
    rules: StopRules
    sampling: SamplingParams
    row: Row
    saes: tuple[LoadedSAE, ...]


class SteerHandler:
    """Steered generation."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def steer(self, request: pb.SteerRequest, call: Call) -> AsyncIterator[pb.SteerResponse]:
        """Answers Steer: a start, then tokens of all choices as they come, then their ends."""
        with self._context.engine.room(call, 1) as room:
            plan, streams = await self._streams(request)
            generations = [generation for _, _, generation in streams]
            with self._context.engine.steer(
                generations, call, priority(request.priority), room=room
            ) as stream:
                yield self._start(plan)
                async for response in _responses(streams, stream, plan, self._context):
                    yield response

    async def _streams(
        self, request: pb.SteerRequest
    ) -> tuple[SteerPlan, list[tuple[int, bool, Generation]]]:
        """The plan, and its generations with their choice and whether they are the baseline's."""
        plan = await self._plan(request)
        n = request.n if request.HasField("n") else 1
        if not 1 <= n <= _MAX_CHOICES:
            raise invalid("n", f"expected 1 to {_MAX_CHOICES}, got {n}")
        streams: list[tuple[int, bool, Generation]] = []
        with at_wire_field("interventions", intervention_names(request.interventions)):
            for choice in range(n):
                steered = Generation(
                    self._context.model.tokenizer,
                    plan.row.tokenized,
                    plan.rules,
                    plan.sampling,
                    plan.interventions,
                    watch=plan.watch,
                    choice=choice,
                )
                streams.append((choice, False, steered))
                if request.baseline:
                    streams.append((choice, True, steered.baseline()))
        if len(streams) > self._context.limits.slots:
            raise invalid(
                "n",
                f"{len(streams)} rows (choices and baselines), above this server's "
                f"{self._context.limits.slots} slots",
            )
        return plan, streams

    async def _plan(self, request: pb.SteerRequest) -> SteerPlan:
        context = self._context
        context.check_model(request.model)
        check_over_length(request.over_length)
        if not request.HasField("input"):
            raise invalid("input", "expected an input")
        reader = InterventionReader(context.model, context.sae)
        with at_field("interventions"):
            interventions = reader.read(request.interventions, generates=True)
        watch = self._watch(request, reader)
        rules = self._rules(request)
        sampling = self._sampling(request)
        saes = tuple(reader.used.values())
        limit = context.limits.max_slot_tokens
        room = limit - rules.max_new_tokens
        if room < 1:
            raise invalid(
                "max_new_tokens",
                f"{rules.max_new_tokens} leave no room for an input in {limit} tokens",
            )
        options = Options(
            prepend_bos(request, saes),
            request.over_length,
            room,
            generation_prompt=True,
            keep_last=True,
        )
        with at_field("input"):
            (row,) = await context.inputs.one(request.input, options)
        return SteerPlan(interventions, watch, rules, sampling, row, saes)

    def _watch(self, request: pb.SteerRequest, reader: InterventionReader) -> tuple[Watch, ...]:
        watch = []
        for i, message in enumerate(request.watch):
            with at_field(f"watch[{i}]"):
                if not message.features:
                    raise invalid("features", "expected at least one feature")
                reader.sae(message.sae)
                for j, feature in enumerate(message.features):
                    ref = intervention_pb2.FeatureRef(sae=message.sae, index=feature)
                    with at_wire_field(f"features[{j}]", {"index": ""}):
                        loaded, _ = reader.feature(ref)
                    watch.append(Watch(loaded.bound, feature))
        return tuple(watch)

    def _rules(self, request: pb.SteerRequest) -> StopRules:
        if len(request.stop) > _MAX_STOP_STRINGS:
            raise invalid("stop", f"at most {_MAX_STOP_STRINGS}, got {len(request.stop)}")
        for i, stop in enumerate(request.stop):
            if not stop:
                raise invalid(f"stop[{i}]", "must not be empty")
        new_tokens = (
            request.max_new_tokens if request.HasField("max_new_tokens") else _DEFAULT_NEW_TOKENS
        )
        with at_wire_field("", {"stop_strings": "stop"}):
            return StopRules(new_tokens, tuple(request.stop), request.ignore_eos)

    def _sampling(self, request: pb.SteerRequest) -> SamplingParams:
        if request.top_logprobs > _MAX_TOP_LOGPROBS:
            raise invalid(
                "top_logprobs", f"expected 0 to {_MAX_TOP_LOGPROBS}, got {request.top_logprobs}"
            )
        asked = request.sampling
        with at_field("sampling"):
            for name in ("frequency_penalty", "presence_penalty"):
                if not -2 <= getattr(asked, name) <= 2:
                    raise invalid(name, f"expected -2 to 2, got {getattr(asked, name)}")
            return SamplingParams(
                temperature=asked.temperature if asked.HasField("temperature") else 1.0,
                top_k=asked.top_k if asked.HasField("top_k") else None,
                top_p=asked.top_p if asked.HasField("top_p") else None,
                min_p=asked.min_p if asked.HasField("min_p") else None,
                frequency_penalty=asked.frequency_penalty,
                presence_penalty=asked.presence_penalty,
                repetition_penalty=asked.repetition_penalty
                if asked.HasField("repetition_penalty")
                else 1.0,
                seed=asked.seed if asked.HasField("seed") else secrets.randbits(63),
                top_logprobs=request.top_logprobs,
            )

    def _start(self, plan: SteerPlan) -> pb.SteerResponse:
        tokens = token_info(self._context.model.tokenizer, plan.row.tokenized, pieces=True)
        return pb.SteerResponse(
            start=pb.SteerStart(
                tokens=tokens,
                seed=plan.sampling.seed,
                served_by=self._context.served_by,
                saes=sae_revisions(plan.saes),
                truncated=plan.row.truncated,
            )
        )


async def _responses(
    streams: Sequence[tuple[int, bool, Generation]],
    outputs: Stream,
    plan: SteerPlan,
    context: Context,
) -> AsyncIterator[pb.SteerResponse]:
    which = {id(generation): (choice, baseline) for choice, baseline, generation in streams}
    running = len(streams)
    async for output in outputs:
        choice, baseline = which[id(output.generation)]
        if output.token is not None:
            yield pb.SteerResponse(choice=choice, baseline=baseline, token=_token(output, context))
        if output.finish is not None:
            yield pb.SteerResponse(
                choice=choice, baseline=baseline, finish=_finish(output, output.finish, plan)
            )
            running -= 1
            if not running:
                return


def _token(output: StepOutput, context: Context) -> pb.SteerToken:
    token = output.token
    assert token is not None
    decode = context.model.tokenizer.decode
    return pb.SteerToken(
        id=token.sampled.token,
        text=output.text,
        position=token.position,
        logprob=token.sampled.logprob,
        top_logprobs=[
            pb.TokenLogprob(id=i, text=decode([i]), logprob=logprob)
            for i, logprob in token.sampled.top_logprobs
        ],
        watched=_last(output),
    )


def _finish(output: StepOutput, finish: Finish, plan: SteerPlan) -> pb.SteerFinish:
    generation = output.generation
    message = pb.SteerFinish(
        reason=_REASONS[finish.reason],
        stop_string=finish.stop_string or "",
        prompt_tokens=generation.n_prompt,
        generated_tokens=len(generation.generated),
    )
    if output.token is None:
        message.text = output.text
        message.watched.extend(_last(output))
    if finish.event is not None:
        condition = plan.interventions.conditions[finish.event.condition]
        assert isinstance(condition.action, Stop)
        message.trigger.sae = f"{condition.sae.sae_id}@{condition.sae.revision}"
        message.trigger.index = condition.feature
    return message


def _last(output: StepOutput) -> list[float]:
    return output.watched[-1].tolist() if len(output.watched) else []
