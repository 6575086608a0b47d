"""Request messages from what callers pass. Types are told apart here, values are the server's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from saekit.codec import numpy_to_tensor
from saekit.v1 import input_pb2, registry_service_pb2, sae_service_pb2, tensor_pb2
from saekit_client.inputs import Chat, Input, OneInput
from saekit_client.interventions import Interventions
from saekit_client.options import (
    FloatType,
    InputOptions,
    OverLength,
    Priority,
    RunReturns,
    SAEQuery,
    Sampling,
    Watch,
)
from saekit_client.request_interventions import interventions_message, selector_message

E = TypeVar("E", bound=int)
M = TypeVar(
    "M",
    sae_service_pb2.EncodeOptions,
    sae_service_pb2.RunOptions,
    sae_service_pb2.SteerRequest,
    registry_service_pb2.TokenizeRequest,
)

_FLOATS: dict[str, tensor_pb2.DataType] = {
    "float32": tensor_pb2.DATA_TYPE_F32,
    "float16": tensor_pb2.DATA_TYPE_F16,
    "bfloat16": tensor_pb2.DATA_TYPE_BF16,
}
_OVER_LENGTH: dict[OverLength, input_pb2.OverLength] = {
    "error": input_pb2.OVER_LENGTH_ERROR,
    "truncate": input_pb2.OVER_LENGTH_TRUNCATE,
    "windows": input_pb2.OVER_LENGTH_WINDOWS,
}
_PRIORITY: dict[Priority | None, sae_service_pb2.Priority] = {
    None: sae_service_pb2.PRIORITY_UNSPECIFIED,
    "interactive": sae_service_pb2.PRIORITY_INTERACTIVE,
    "batch": sae_service_pb2.PRIORITY_BATCH,
}
_POOLING = {
    "none": sae_service_pb2.POOLING_NONE,
    "max": sae_service_pb2.POOLING_MAX,
    "mean": sae_service_pb2.POOLING_MEAN,
    "sum": sae_service_pb2.POOLING_SUM,
    "last": sae_service_pb2.POOLING_LAST,
}
_LOGITS = {
    "none": sae_service_pb2.LOGITS_ROWS_NONE,
    "last": sae_service_pb2.LOGITS_ROWS_LAST,
    "all": sae_service_pb2.LOGITS_ROWS_ALL,
}

SAEs = str | SAEQuery | Sequence[str | SAEQuery]


def input_message(content: OneInput, *, id: str | None = None) -> input_pb2.Input:
    """An Input; `id` goes before the one it has.

    Raises:
        TypeError: nothing that can be an input.
    """
    if isinstance(content, Input):
        return input_message(content.content, id=content.id if id is None else id)
    message = input_pb2.Input(id=id or "")
    if isinstance(content, str):
        message.text = content
    elif isinstance(content, Chat):
        message.chat.CopyFrom(_chat(content))
    elif hasattr(content, "__array__"):
        _put_array(message, np.asarray(content))
    elif isinstance(content, Sequence) and content and isinstance(content[0], Mapping):
        message.chat.CopyFrom(_chat(Chat(content)))  # type: ignore[arg-type]
    elif isinstance(content, Sequence):
        message.tokens.CopyFrom(_tokens(content))
    else:
        raise TypeError(
            f"expected a text, a chat, token ids or activations, got {type(content).__name__}"
        )
    return message


def query_message(query: str | SAEQuery) -> sae_service_pb2.SAEQuery:
    """An SAEQuery; a bare name asks for all non-zero features."""
    if isinstance(query, str):
        query = SAEQuery(query)
    message = sae_service_pb2.SAEQuery(
        sae=query.sae,
        dense=query.dense,
        pooling=choice(_POOLING, query.pooling, "pooling"),
        value_dtype=choice(_FLOATS, query.value_dtype, "value_dtype"),
        return_state=query.return_state,
    )
    if query.top_k is not None:
        message.top_k = query.top_k
    if query.features is not None:
        message.features.indices.extend(int(f) for f in query.features)
        message.features.SetInParent()
    if query.positions is not None:
        message.positions.CopyFrom(selector_message(query.positions))
    return message


def encode_options(
    saes: SAEs, options: InputOptions, model: str | None
) -> sae_service_pb2.EncodeOptions:
    """Options of Encode and EncodeStream."""
    message = sae_service_pb2.EncodeOptions(
        model=model or "",
        saes=[query_message(q) for q in _queries(saes)],
        over_length=choice(_OVER_LENGTH, options.over_length, "over_length"),
        token_text=options.token_text,
        priority=choice(_PRIORITY, options.priority, "priority"),
    )
    return _with_bos(message, options.prepend_bos)


def decode_options(
    dtype: FloatType, priority: Priority | None, model: str | None
) -> sae_service_pb2.DecodeOptions:
    """Options of Decode and DecodeStream."""
    return sae_service_pb2.DecodeOptions(
        model=model or "",
        dtype=choice(_FLOATS, dtype, "dtype"),
        priority=choice(_PRIORITY, priority, "priority"),
    )


def run_options(
    interventions: Interventions, returns: RunReturns, options: InputOptions, model: str | None
) -> sae_service_pb2.RunOptions:
    """Options of RunWithSAEs and RunWithSAEsStream."""
    message = sae_service_pb2.RunOptions(
        model=model or "",
        interventions=interventions_message(interventions),
        returns=sae_service_pb2.RunReturns(
            logits=choice(_LOGITS, returns.logits, "logits"),
            top_k_logits=returns.top_k_logits,
            loss=returns.loss,
            token_logprobs=returns.token_logprobs,
            features=[query_message(q) for q in returns.features],
            activations=returns.activations,
            compare=returns.compare,
        ),
        over_length=choice(_OVER_LENGTH, options.over_length, "over_length"),
        token_text=options.token_text,
        priority=choice(_PRIORITY, options.priority, "priority"),
    )
    return _with_bos(message, options.prepend_bos)


def steer_request(
    content: OneInput,
    interventions: Interventions,
    sampling: Sampling,
    *,
    max_new_tokens: int | None,
    n: int | None,
    baseline: bool,
    stop: Sequence[str],
    ignore_eos: bool,
    watch: Sequence[Watch],
    top_logprobs: int,
    options: InputOptions,
    model: str | None,
) -> sae_service_pb2.SteerRequest:
    """A request of Steer."""
    if options.token_text:
        raise ValueError("token_text: Steer streams the text of its tokens anyway")
    message = sae_service_pb2.SteerRequest(
        model=model or "",
        input=input_message(content),
        interventions=interventions_message(interventions),
        sampling=_sampling(sampling),
        max_new_tokens=max_new_tokens,
        n=n,
        baseline=baseline,
        stop=[stop] if isinstance(stop, str) else stop,
        ignore_eos=ignore_eos,
        watch=[sae_service_pb2.Watch(sae=w.sae, features=w.features) for w in watch],
        top_logprobs=top_logprobs,
        over_length=choice(_OVER_LENGTH, options.over_length, "over_length"),
        priority=choice(_PRIORITY, options.priority, "priority"),
    )
    return _with_bos(message, options.prepend_bos)


def features_request(
    sae: str,
    indices: int | Sequence[int],
    search: str,
    *,
    logit_lens: int,
    neighbours: int,
    examples: int,
) -> registry_service_pb2.GetFeaturesRequest:
    """A request of GetFeatures."""
    return registry_service_pb2.GetFeaturesRequest(
        sae=sae,
        indices=[indices] if isinstance(indices, int | np.integer) else [int(i) for i in indices],
        search=search,
        logit_lens=logit_lens,
        neighbours=neighbours,
        examples=examples,
    )


def tokenize_request(
    contents: Iterable[OneInput], prepend_bos: bool | None
) -> registry_service_pb2.TokenizeRequest:
    """A request of Tokenize."""
    message = registry_service_pb2.TokenizeRequest(inputs=[input_message(c) for c in contents])
    return _with_bos(message, prepend_bos)


def choice(choices: Mapping[Any, E], value: object, field: str) -> E:
    """The wire value of a named choice.

    Raises:
        ValueError: no such choice.
    """
    if value not in choices:
        names = ", ".join(repr(name) for name in choices)
        raise ValueError(f"{field}: expected one of {names}, got {value!r}")
    return choices[value]


def _with_bos(message: M, prepend_bos: bool | None) -> M:
    if prepend_bos is not None:
        message.prepend_bos = prepend_bos
    return message


def _queries(saes: SAEs) -> Sequence[str | SAEQuery]:
    return [saes] if isinstance(saes, str | SAEQuery) else saes


def _sampling(sampling: Sampling) -> sae_service_pb2.Sampling:
    return sae_service_pb2.Sampling(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        frequency_penalty=sampling.frequency_penalty,
        presence_penalty=sampling.presence_penalty,
        repetition_penalty=sampling.repetition_penalty,
        seed=sampling.seed,
    )


def _chat(chat: Chat) -> input_pb2.Chat:
    for said in chat.messages:
        if not isinstance(said, Mapping) or said.keys() != {"role", "content"}:
            raise TypeError(f'expected {{"role": ..., "content": ...}}, got {said!r}')
    message = input_pb2.Chat(
        messages=[
            input_pb2.ChatMessage(role=m["role"], content=m["content"]) for m in chat.messages
        ]
    )
    if chat.add_generation_prompt is not None:
        message.add_generation_prompt = chat.add_generation_prompt
    return message


def _tokens(ids: Any) -> input_pb2.Tokens:
    try:
        return input_pb2.Tokens(ids=[int(i) for i in ids])
    except (TypeError, ValueError) as error:
        raise TypeError(f"expected token ids, each an integer of 0 to 2^32 - 1: {error}") from error


def _put_array(message: input_pb2.Input, array: npt.NDArray[Any]) -> None:
    if array.dtype.kind in "iu" and array.ndim == 1:
        message.tokens.CopyFrom(_tokens(array.tolist()))
    elif array.dtype.kind == "f":
        message.activations.CopyFrom(float_tensor(array))
    else:
        raise TypeError(
            "expected token ids [n] or floating-point activations [rows, d_in], "
            f"got {array.dtype} {list(array.shape)}"
        )


def float_tensor(array: npt.NDArray[Any]) -> tensor_pb2.Tensor:
    """A Tensor of floats; wider ones than float32 travel as float32."""
    return numpy_to_tensor(
        array if array.dtype == np.float16 else array.astype(np.float32, copy=False)
    )
