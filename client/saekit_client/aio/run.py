"""RunWithSAEs and Steer."""

# A timeout here is the deadline of the call, which the server sees too.
# ruff: noqa: ASYNC109

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import overload

from saekit.v1 import sae_service_pb2
from saekit_client import requests, responses
from saekit_client.aio.calls import AsyncCalls
from saekit_client.aio.streams import async_rounds
from saekit_client.batch import Batch, StreamItem
from saekit_client.inputs import AnyInputs, OneInput, is_one, several_async
from saekit_client.interventions import Condition, Edit, Interventions, Splice
from saekit_client.options import (
    DEFAULT_INPUT,
    DEFAULT_RETURNS,
    DEFAULT_SAMPLING,
    InputOptions,
    RunReturns,
    Sampling,
    Watch,
)
from saekit_client.run_results import RunResult
from saekit_client.steer_stream import AsyncSteerStream
from saekit_client.stream_requests import asynchronous, run_items
from saekit_client.stream_state import RUN_WINDOW, StreamState


class AsyncRunCalls(AsyncCalls):
    """Forward runs and generation, with SAEs spliced in and features edited."""

    @overload
    async def run_with_saes(  # type: ignore[overload-overlap]
        self,
        inputs: OneInput,
        *,
        splices: Sequence[str | Splice] = ...,
        edits: Sequence[Edit] = ...,
        conditions: Sequence[Condition] = ...,
        preserve_norm: bool = ...,
        returns: RunReturns = ...,
        options: InputOptions = ...,
        timeout: float | None = ...,
    ) -> RunResult: ...
    @overload
    async def run_with_saes(
        self,
        inputs: AnyInputs,
        *,
        splices: Sequence[str | Splice] = ...,
        edits: Sequence[Edit] = ...,
        conditions: Sequence[Condition] = ...,
        preserve_norm: bool = ...,
        returns: RunReturns = ...,
        options: InputOptions = ...,
        timeout: float | None = ...,
    ) -> Batch[RunResult]: ...
    async def run_with_saes(
        self,
        inputs: OneInput | AnyInputs,
        *,
        splices: Sequence[str | Splice] = (),
        edits: Sequence[Edit] = (),
        conditions: Sequence[Condition] = (),
        preserve_norm: bool = False,
        returns: RunReturns = DEFAULT_RETURNS,
        options: InputOptions = DEFAULT_INPUT,
        timeout: float | None = None,
    ) -> RunResult | Batch[RunResult]:
        """As `Client.run_with_saes`."""
        interventions = Interventions(splices, edits, conditions, preserve_norm)
        if is_one(inputs):
            request = sae_service_pb2.RunWithSAEsRequest(
                inputs=[requests.input_message(inputs)],
                options=requests.run_options(
                    interventions, returns, options, self.connection.model
                ),
            )
            return responses.run_result(await self._unary(self._sae.RunWithSAEs, request, timeout))
        return Batch(
            [
                item
                async for item in self.run_with_saes_stream(
                    several_async(inputs),
                    splices=splices,
                    edits=edits,
                    conditions=conditions,
                    preserve_norm=preserve_norm,
                    returns=returns,
                    options=options,
                    timeout=timeout,
                )
            ]
        )

    def run_with_saes_stream(
        self,
        inputs: AnyInputs,
        *,
        splices: Sequence[str | Splice] = (),
        edits: Sequence[Edit] = (),
        conditions: Sequence[Condition] = (),
        preserve_norm: bool = False,
        returns: RunReturns = DEFAULT_RETURNS,
        options: InputOptions = DEFAULT_INPUT,
        window: int = RUN_WINDOW,
        ordered: bool = False,
        timeout: float | None = None,
    ) -> AsyncIterator[StreamItem[RunResult]]:
        """As `Client.run_with_saes_stream`."""
        message = requests.run_options(
            Interventions(splices, edits, conditions, preserve_norm),
            returns,
            options,
            self.connection.model,
        )
        call = self._call(self._sae.RunWithSAEsStream)
        state = StreamState(
            responses.parse_run, window=window, ordered=ordered, retry=self.connection.retry
        )
        return async_rounds(
            lambda inputs, timeout: call(
                sae_service_pb2.RunWithSAEsStreamRequest(inputs=inputs, options=message), timeout
            ),
            asynchronous(run_items, inputs),
            state,
            self._stream_timeout(timeout),
        )

    def steer(
        self,
        prompt: OneInput,
        *,
        edits: Sequence[Edit] = (),
        splices: Sequence[str | Splice] = (),
        conditions: Sequence[Condition] = (),
        preserve_norm: bool = False,
        sampling: Sampling = DEFAULT_SAMPLING,
        max_new_tokens: int | None = None,
        n: int | None = None,
        baseline: bool = False,
        stop: Sequence[str] = (),
        ignore_eos: bool = False,
        watch: Sequence[Watch] = (),
        top_logprobs: int = 0,
        options: InputOptions = DEFAULT_INPUT,
        timeout: float | None = None,
    ) -> AsyncSteerStream:
        """As `Client.steer`."""
        request = requests.steer_request(
            prompt,
            Interventions(splices, edits, conditions, preserve_norm),
            sampling,
            max_new_tokens=max_new_tokens,
            n=n,
            baseline=baseline,
            stop=stop,
            ignore_eos=ignore_eos,
            watch=watch,
            top_logprobs=top_logprobs,
            options=options,
            model=self.connection.model,
        )
        call = self._call(self._sae.Steer)
        return AsyncSteerStream(call(request, self._stream_timeout(timeout)))
