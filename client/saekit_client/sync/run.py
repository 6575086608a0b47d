"""RunWithSAEs and Steer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from saekit.v1 import sae_service_pb2
from saekit_client import requests, responses
from saekit_client.batch import Batch, StreamItem
from saekit_client.inputs import ManyInputs, OneInput, is_one, several
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
from saekit_client.steer_stream import SteerStream
from saekit_client.stream_requests import run_items
from saekit_client.stream_state import RUN_WINDOW, StreamState
from saekit_client.sync.calls import Calls
from saekit_client.sync.streams import rounds


class RunCalls(Calls):
    """Forward runs and generation, with SAEs spliced in and features edited."""

    @overload
    def run_with_saes(  # type: ignore[overload-overlap]
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
    def run_with_saes(
        self,
        inputs: ManyInputs,
        *,
        splices: Sequence[str | Splice] = ...,
        edits: Sequence[Edit] = ...,
        conditions: Sequence[Condition] = ...,
        preserve_norm: bool = ...,
        returns: RunReturns = ...,
        options: InputOptions = ...,
        timeout: float | None = ...,
    ) -> Batch[RunResult]: ...
    def run_with_saes(
        self,
        inputs: OneInput | ManyInputs,
        *,
        splices: Sequence[str | Splice] = (),
        edits: Sequence[Edit] = (),
        conditions: Sequence[Condition] = (),
        preserve_norm: bool = False,
        returns: RunReturns = DEFAULT_RETURNS,
        options: InputOptions = DEFAULT_INPUT,
        timeout: float | None = None,
    ) -> RunResult | Batch[RunResult]:
        """A forward run with SAEs spliced in and features edited.

        Args:
            inputs: a text, chat or list of token ids; or several.
            splices: SAEs spliced in; a bare name is spliced without its error term.
            edits: applied in this order.
            conditions: edits that depend on a feature.
            preserve_norm: rescale every changed position to the norm it had.
            returns: what comes back. Default: the loss.
            options: how the inputs are read.
            timeout: seconds for everything.
        """
        interventions = Interventions(splices, edits, conditions, preserve_norm)
        if is_one(inputs):
            request = sae_service_pb2.RunWithSAEsRequest(
                inputs=[requests.input_message(inputs)],
                options=requests.run_options(
                    interventions, returns, options, self.connection.model
                ),
            )
            return responses.run_result(self._unary(self._sae.RunWithSAEs, request, timeout))
        return Batch(
            list(
                self.run_with_saes_stream(
                    several(inputs),
                    splices=splices,
                    edits=edits,
                    conditions=conditions,
                    preserve_norm=preserve_norm,
                    returns=returns,
                    options=options,
                    timeout=timeout,
                )
            )
        )

    def run_with_saes_stream(
        self,
        inputs: ManyInputs,
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
    ) -> Iterator[StreamItem[RunResult]]:
        """Runs of any number of inputs with results of any size, as they are ready.

        Arguments as of `run_with_saes`; `window` inputs travel in one call after the other, and
        `ordered` hands results out in the order of the inputs. Closing the iterator cancels.
        """
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
        return rounds(
            lambda inputs, timeout: call(
                sae_service_pb2.RunWithSAEsStreamRequest(inputs=inputs, options=message), timeout
            ),
            run_items(inputs),
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
    ) -> SteerStream:
        """Generates text with features edited, token by token.

        Args:
            prompt: a text, chat or list of token ids.
            edits: applied in this order; none is plain generation.
            splices: SAEs spliced in; one that is only edited needs none.
            conditions: edits or a stop that depend on a feature.
            preserve_norm: rescale every changed position to the norm it had.
            sampling: how tokens are drawn.
            max_new_tokens: default 64.
            n: independent choices, 1 to 16. Default: 1.
            baseline: also generate the unsteered twin of every choice, with the same seed.
            stop: strings before which a generation ends.
            ignore_eos: do not end at the end-of-sequence token.
            watch: features reported at every token.
            top_logprobs: likeliest tokens reported at every token, at most 20.
            options: how the prompt is read.
            timeout: seconds for everything.

        Returns:
            An iterator of events: SteerStart, then SteerTokens, and a SteerFinish for every choice.
            Closing it cancels the generation.
        """
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
        return SteerStream(call(request, self._stream_timeout(timeout)))
