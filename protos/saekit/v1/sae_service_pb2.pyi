from google.rpc import status_pb2 as _status_pb2
from saekit.v1 import input_pb2 as _input_pb2
from saekit.v1 import intervention_pb2 as _intervention_pb2
from saekit.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    PRIORITY_INTERACTIVE: _ClassVar[Priority]
    PRIORITY_BATCH: _ClassVar[Priority]

class Pooling(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POOLING_UNSPECIFIED: _ClassVar[Pooling]
    POOLING_NONE: _ClassVar[Pooling]
    POOLING_MAX: _ClassVar[Pooling]
    POOLING_MEAN: _ClassVar[Pooling]
    POOLING_SUM: _ClassVar[Pooling]
    POOLING_LAST: _ClassVar[Pooling]

class LogitsRows(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOGITS_ROWS_UNSPECIFIED: _ClassVar[LogitsRows]
    LOGITS_ROWS_NONE: _ClassVar[LogitsRows]
    LOGITS_ROWS_LAST: _ClassVar[LogitsRows]
    LOGITS_ROWS_ALL: _ClassVar[LogitsRows]

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
    FINISH_REASON_EOS: _ClassVar[FinishReason]
    FINISH_REASON_STOP_STRING: _ClassVar[FinishReason]
    FINISH_REASON_CONDITION: _ClassVar[FinishReason]
    FINISH_REASON_NON_FINITE: _ClassVar[FinishReason]
PRIORITY_UNSPECIFIED: Priority
PRIORITY_INTERACTIVE: Priority
PRIORITY_BATCH: Priority
POOLING_UNSPECIFIED: Pooling
POOLING_NONE: Pooling
POOLING_MAX: Pooling
POOLING_MEAN: Pooling
POOLING_SUM: Pooling
POOLING_LAST: Pooling
LOGITS_ROWS_UNSPECIFIED: LogitsRows
LOGITS_ROWS_NONE: LogitsRows
LOGITS_ROWS_LAST: LogitsRows
LOGITS_ROWS_ALL: LogitsRows
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_LENGTH: FinishReason
FINISH_REASON_EOS: FinishReason
FINISH_REASON_STOP_STRING: FinishReason
FINISH_REASON_CONDITION: FinishReason
FINISH_REASON_NON_FINITE: FinishReason

class SAEQuery(_message.Message):
    __slots__ = ("sae", "top_k", "features", "dense", "pooling", "positions", "value_dtype", "return_state")
    SAE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    DENSE_FIELD_NUMBER: _ClassVar[int]
    POOLING_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    VALUE_DTYPE_FIELD_NUMBER: _ClassVar[int]
    RETURN_STATE_FIELD_NUMBER: _ClassVar[int]
    sae: str
    top_k: int
    features: FeatureList
    dense: bool
    pooling: Pooling
    positions: _input_pb2.PositionSelector
    value_dtype: _tensor_pb2.DataType
    return_state: bool
    def __init__(self, sae: _Optional[str] = ..., top_k: _Optional[int] = ..., features: _Optional[_Union[FeatureList, _Mapping]] = ..., dense: bool = ..., pooling: _Optional[_Union[Pooling, str]] = ..., positions: _Optional[_Union[_input_pb2.PositionSelector, _Mapping]] = ..., value_dtype: _Optional[_Union[_tensor_pb2.DataType, str]] = ..., return_state: bool = ...) -> None: ...

class FeatureList(_message.Message):
    __slots__ = ("indices",)
    INDICES_FIELD_NUMBER: _ClassVar[int]
    indices: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, indices: _Optional[_Iterable[int]] = ...) -> None: ...

class EncodeOptions(_message.Message):
    __slots__ = ("model", "saes", "prepend_bos", "over_length", "token_text", "priority")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SAES_FIELD_NUMBER: _ClassVar[int]
    PREPEND_BOS_FIELD_NUMBER: _ClassVar[int]
    OVER_LENGTH_FIELD_NUMBER: _ClassVar[int]
    TOKEN_TEXT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    model: str
    saes: _containers.RepeatedCompositeFieldContainer[SAEQuery]
    prepend_bos: bool
    over_length: _input_pb2.OverLength
    token_text: bool
    priority: Priority
    def __init__(self, model: _Optional[str] = ..., saes: _Optional[_Iterable[_Union[SAEQuery, _Mapping]]] = ..., prepend_bos: bool = ..., over_length: _Optional[_Union[_input_pb2.OverLength, str]] = ..., token_text: bool = ..., priority: _Optional[_Union[Priority, str]] = ...) -> None: ...

class EncodeRequest(_message.Message):
    __slots__ = ("inputs", "options")
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    inputs: _containers.RepeatedCompositeFieldContainer[_input_pb2.Input]
    options: EncodeOptions
    def __init__(self, inputs: _Optional[_Iterable[_Union[_input_pb2.Input, _Mapping]]] = ..., options: _Optional[_Union[EncodeOptions, _Mapping]] = ...) -> None: ...

class SAEEncoding(_message.Message):
    __slots__ = ("sae_id", "sae_revision", "sae_dtype", "sparse", "dense", "positions", "state")
    SAE_ID_FIELD_NUMBER: _ClassVar[int]
    SAE_REVISION_FIELD_NUMBER: _ClassVar[int]
    SAE_DTYPE_FIELD_NUMBER: _ClassVar[int]
    SPARSE_FIELD_NUMBER: _ClassVar[int]
    DENSE_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    sae_id: str
    sae_revision: str
    sae_dtype: str
    sparse: _tensor_pb2.SparseRows
    dense: _tensor_pb2.Tensor
    positions: _containers.RepeatedScalarFieldContainer[int]
    state: _tensor_pb2.EncodeState
    def __init__(self, sae_id: _Optional[str] = ..., sae_revision: _Optional[str] = ..., sae_dtype: _Optional[str] = ..., sparse: _Optional[_Union[_tensor_pb2.SparseRows, _Mapping]] = ..., dense: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., positions: _Optional[_Iterable[int]] = ..., state: _Optional[_Union[_tensor_pb2.EncodeState, _Mapping]] = ...) -> None: ...

class EncodeResult(_message.Message):
    __slots__ = ("id", "input_index", "window_index", "window_start", "truncated", "tokens", "encodings")
    ID_FIELD_NUMBER: _ClassVar[int]
    INPUT_INDEX_FIELD_NUMBER: _ClassVar[int]
    WINDOW_INDEX_FIELD_NUMBER: _ClassVar[int]
    WINDOW_START_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    ENCODINGS_FIELD_NUMBER: _ClassVar[int]
    id: str
    input_index: int
    window_index: int
    window_start: int
    truncated: bool
    tokens: _input_pb2.TokenInfo
    encodings: _containers.RepeatedCompositeFieldContainer[SAEEncoding]
    def __init__(self, id: _Optional[str] = ..., input_index: _Optional[int] = ..., window_index: _Optional[int] = ..., window_start: _Optional[int] = ..., truncated: bool = ..., tokens: _Optional[_Union[_input_pb2.TokenInfo, _Mapping]] = ..., encodings: _Optional[_Iterable[_Union[SAEEncoding, _Mapping]]] = ...) -> None: ...

class EncodeResponse(_message.Message):
    __slots__ = ("results", "served_by")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    SERVED_BY_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[EncodeResult]
    served_by: _input_pb2.ServedBy
    def __init__(self, results: _Optional[_Iterable[_Union[EncodeResult, _Mapping]]] = ..., served_by: _Optional[_Union[_input_pb2.ServedBy, _Mapping]] = ...) -> None: ...

class EncodeStreamRequest(_message.Message):
    __slots__ = ("options", "input")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    options: EncodeOptions
    input: _input_pb2.Input
    def __init__(self, options: _Optional[_Union[EncodeOptions, _Mapping]] = ..., input: _Optional[_Union[_input_pb2.Input, _Mapping]] = ...) -> None: ...

class Part(_message.Message):
    __slots__ = ("field", "data")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    field: str
    data: bytes
    def __init__(self, field: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class EncodeStreamResponse(_message.Message):
    __slots__ = ("id", "seq", "last", "header", "part", "status", "served_by")
    ID_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SERVED_BY_FIELD_NUMBER: _ClassVar[int]
    id: str
    seq: int
    last: bool
    header: EncodeResult
    part: Part
    status: _status_pb2.Status
    served_by: _input_pb2.ServedBy
    def __init__(self, id: _Optional[str] = ..., seq: _Optional[int] = ..., last: bool = ..., header: _Optional[_Union[EncodeResult, _Mapping]] = ..., part: _Optional[_Union[Part, _Mapping]] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., served_by: _Optional[_Union[_input_pb2.ServedBy, _Mapping]] = ...) -> None: ...

class DecodeItem(_message.Message):
    __slots__ = ("id", "sae", "sparse", "dense", "state")
    ID_FIELD_NUMBER: _ClassVar[int]
    SAE_FIELD_NUMBER: _ClassVar[int]
    SPARSE_FIELD_NUMBER: _ClassVar[int]
    DENSE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    id: str
    sae: str
    sparse: _tensor_pb2.SparseRows
    dense: _tensor_pb2.Tensor
    state: _tensor_pb2.EncodeState
    def __init__(self, id: _Optional[str] = ..., sae: _Optional[str] = ..., sparse: _Optional[_Union[_tensor_pb2.SparseRows, _Mapping]] = ..., dense: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., state: _Optional[_Union[_tensor_pb2.EncodeState, _Mapping]] = ...) -> None: ...

class DecodeOptions(_message.Message):
    __slots__ = ("model", "dtype", "priority")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    model: str
    dtype: _tensor_pb2.DataType
    priority: Priority
    def __init__(self, model: _Optional[str] = ..., dtype: _Optional[_Union[_tensor_pb2.DataType, str]] = ..., priority: _Optional[_Union[Priority, str]] = ...) -> None: ...

class DecodeRequest(_message.Message):
    __slots__ = ("items", "options")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[DecodeItem]
    options: DecodeOptions
    def __init__(self, items: _Optional[_Iterable[_Union[DecodeItem, _Mapping]]] = ..., options: _Optional[_Union[DecodeOptions, _Mapping]] = ...) -> None: ...

class DecodeResult(_message.Message):
    __slots__ = ("id", "item_index", "sae_id", "sae_revision", "activations")
    ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_INDEX_FIELD_NUMBER: _ClassVar[int]
    SAE_ID_FIELD_NUMBER: _ClassVar[int]
    SAE_REVISION_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    id: str
    item_index: int
    sae_id: str
    sae_revision: str
    activations: _tensor_pb2.Tensor
    def __init__(self, id: _Optional[str] = ..., item_index: _Optional[int] = ..., sae_id: _Optional[str] = ..., sae_revision: _Optional[str] = ..., activations: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class DecodeResponse(_message.Message):
    __slots__ = ("results", "served_by")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    SERVED_BY_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[DecodeResult]
    served_by: _input_pb2.ServedBy
    def __init__(self, results: _Optional[_Iterable[_Union[DecodeResult, _Mapping]]] = ..., served_by: _Optional[_Union[_input_pb2.ServedBy, _Mapping]] = ...) -> None: ...

class DecodeStreamRequest(_message.Message):
    __slots__ = ("options", "item")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    options: DecodeOptions
    item: DecodeItem
    def __init__(self, options: _Optional[_Union[DecodeOptions, _Mapping]] = ..., item: _Optional[_Union[DecodeItem, _Mapping]] = ...) -> None: ...

class DecodeStreamResponse(_message.Message):
    __slots__ = ("id", "seq", "last", "header", "part", "status", "served_by")
    ID_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SERVED_BY_FIELD_NUMBER: _ClassVar[int]
    id: str
    seq: int
    last: bool
    header: DecodeResult
    part: Part
    status: _status_pb2.Status
    served_by: _input_pb2.ServedBy
    def __init__(self, id: _Optional[str] = ..., seq: _Optional[int] = ..., last: bool = ..., header: _Optional[_Union[DecodeResult, _Mapping]] = ..., part: _Optional[_Union[Part, _Mapping]] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., served_by: _Optional[_Union[_input_pb2.ServedBy, _Mapping]] = ...) -> None: ...

class RunReturns(_message.Message):
    __slots__ = ("logits", "top_k_logits", "loss", "token_logprobs", "features", "activations", "compare")
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_LOGITS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    COMPARE_FIELD_NUMBER: _ClassVar[int]
    logits: LogitsRows
    top_k_logits: int
    loss: bool
    token_logprobs: bool
    features: _containers.RepeatedCompositeFieldContainer[SAEQuery]
    activations: _containers.RepeatedScalarFieldContainer[str]
    compare: bool
    def __init__(self, logits: _Optional[_Union[LogitsRows, str]] = ..., top_k_logits: _Optional[int] = ..., loss: bool = ..., token_logprobs: bool = ..., features: _Optional[_Iterable[_Union[SAEQuery, _Mapping]]] = ..., activations: _Optional[_Iterable[str]] = ..., compare: bool = ...) -> None: ...

class RunOptions(_message.Message):
    __slots__ = ("model", "interventions", "returns", "prepend_bos", "over_length", "token_text", "priority")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INTERVENTIONS_FIELD_NUMBER: _ClassVar[int]
    RETURNS_FIELD_NUMBER: _ClassVar[int]
    PREPEND_BOS_FIELD_NUMBER: _ClassVar[int]
    OVER_LENGTH_FIELD_NUMBER: _ClassVar[int]
    TOKEN_TEXT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    model: str
    interventions: _intervention_pb2.Interventions
    returns: RunReturns
    prepend_bos: bool
    over_length: _input_pb2.OverLength
    token_text: bool
    priority: Priority
    def __init__(self, model: _Optional[str] = ..., interventions: _Optional[_Union[_intervention_pb2.Interventions, _Mapping]] = ..., returns: _Optional[_Union[RunReturns, _Mapping]] = ..., prepend_bos: bool = ..., over_length: _Optional[_Union[_input_pb2.OverLength, str]] = ..., token_text: bool = ..., priority: _Optional[_Union[Priority, str]] = ...) -> None: ...

class RunWithSAEsRequest(_message.Message):
    __slots__ = ("inputs", "options")
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    inputs: _containers.RepeatedCompositeFieldContainer[_input_pb2.Input]
    options: RunOptions
    def __init__(self, inputs: _Optional[_Iterable[_Union[_input_pb2.Input, _Mapping]]] = ..., options: _Optional[_Union[RunOptions, _Mapping]] = ...) -> None: ...

class TopLogits(_message.Message):
    __slots__ = ("ids", "logits", "logprobs")
    IDS_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    ids: _tensor_pb2.Tensor
    logits: _tensor_pb2.Tensor
    logprobs: _tensor_pb2.Tensor
    def __init__(self, ids: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., logits: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., logprobs: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class HookActivations(_message.Message):
    __slots__ = ("hook_name", "activations")
    HOOK_NAME_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    hook_name: str
    activations: _tensor_pb2.Tensor
    def __init__(self, hook_name: _Optional[str] = ..., activations: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class RunComparison(_message.Message):
    __slots__ = ("kl", "clean_loss", "delta_loss", "ablated_loss", "ce_loss_score")
    KL_FIELD_NUMBER: _ClassVar[int]
    CLEAN_LOSS_FIELD_NUMBER: _ClassVar[int]
    DELTA_LOSS_FIELD_NUMBER: _ClassVar[int]
    ABLATED_LOSS_FIELD_NUMBER: _ClassVar[int]
    CE_LOSS_SCORE_FIELD_NUMBER: _ClassVar[int]
    kl: float
    clean_loss: float
    delta_loss: float
    ablated_loss: float
    ce_loss_score: float
    def __init__(self, kl: _Optional[float] = ..., clean_loss: _Optional[float] = ..., delta_loss: _Optional[float] = ..., ablated_loss: _Optional[float] = ..., ce_loss_score: _Optional[float] = ...) -> None: ...

class RunResult(_message.Message):
    __slots__ = ("id", "input_index", "truncated", "tokens", "logits", "top_logits", "loss", "token_logprobs", "features", "activations", "comparison")
    ID_FIELD_NUMBER: _ClassVar[int]
    INPUT_INDEX_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGITS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    id: str
    input_index: int
    truncated: bool
    tokens: _input_pb2.TokenInfo
    logits: _tensor_pb2.Tensor
    top_logits: TopLogits
    loss: float
    token_logprobs: _tensor_pb2.Tensor
    features: _containers.RepeatedCompositeFieldContainer[SAEEncoding]
    activations: _containers.RepeatedCompositeFieldContainer[HookActivations]
    comparison: RunComparison
    def __init__(self, id: _Optional[str] = ..., input_index: _Optional[int] = ..., truncated: bool = ..., tokens: _Optional[_Union[_input_pb2.TokenInfo, _Mapping]] = ..., logits: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., top_logits: _Optional[_Union[TopLogits, _Mapping]] = ..., loss: _Optional[float] = ..., token_logprobs: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., features: _Optional[_Iterable[_Union[SAEEncoding, _Mapping]]] = ..., activations: _Optional[_Iterable[_Union[HookActivations, _Mapping]]] = ..., comparison: _Optional[_Union[RunComparison, _Mapping]] = ...) -> None: ...

class SAERevision(_message.Message):
    __slots__ = ("sae_id", "sae_revision", "sae_dtype")
    SAE_ID_FIELD_NUMBER: _ClassVar[int]
    SAE_REVISION_FIELD_NUMBER: _ClassVar[int]
    SAE_DTYPE_FIELD_NUMBER: _ClassVar[int]
    sae_id: str
    sae_revision: str
    sae_dtype: str
    def __init__(self, sae_id: _Optional[str] = ..., sae_revision: _Optional[str] = ..., sae_dtype: _Optional[str] = ...) -> None: ...

class RunWithSAEsResponse(_message.Message):
    __slots__ = ("results", "served_by", "saes")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    SERVED_BY_FIELD_NUMBER: _ClassVar[int]
    SAES_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[RunResult]
    served_by: _input_pb2.ServedBy
    saes: _containers.RepeatedCompositeFieldContainer[SAERevision]
    def __init__(self, results: _Optional[_Iterable[_Union[RunResult, _Mapping]]] = ..., served_by: _Optional[_Union[_input_pb2.ServedBy, _Mapping]] = ..., saes: _Optional[_Iterable[_Union[SAERevision, _Mapping]]] = ...) -> None: ...

class RunWithSAEsStreamRequest(_message.Message):
    __slots__ = ("inputs", "options")
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    inputs: _containers.RepeatedCompositeFieldContainer[_input_pb2.Input]
    options: RunOptions
    def __init__(self, inputs: _Optional[_Iterable[_Union[_input_pb2.Input, _Mapping]]] = ..., options: _Optional[_Union[RunOptions, _Mapping]] = ...) -> None: ...

class RunWithSAEsStreamResponse(_message.Message):
    __slots__ = ("id", "seq", "last", "header", "part", "status", "served_by", "saes")
    ID_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SERVED_BY_FIELD_NUMBER: _ClassVar[int]
    SAES_FIELD_NUMBER: _ClassVar[int]
    id: str
    seq: int
    last: bool
    header: RunResult
    part: Part
    status: _status_pb2.Status
    served_by: _input_pb2.ServedBy
    saes: _containers.RepeatedCompositeFieldContainer[SAERevision]
    def __init__(self, id: _Optional[str] = ..., seq: _Optional[int] = ..., last: bool = ..., header: _Optional[_Union[RunResult, _Mapping]] = ..., part: _Optional[_Union[Part, _Mapping]] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., served_by: _Optional[_Union[_input_pb2.ServedBy, _Mapping]] = ..., saes: _Optional[_Iterable[_Union[SAERevision, _Mapping]]] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty", "seed")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    frequency_penalty: float
    presence_penalty: float
    repetition_penalty: float
    seed: int
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., seed: _Optional[int] = ...) -> None: ...

class Watch(_message.Message):
    __slots__ = ("sae", "features")
    SAE_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    sae: str
    features: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, sae: _Optional[str] = ..., features: _Optional[_Iterable[int]] = ...) -> None: ...

class SteerRequest(_message.Message):
    __slots__ = ("model", "input", "interventions", "sampling", "max_new_tokens", "n", "baseline", "stop", "ignore_eos", "watch", "top_logprobs", "prepend_bos", "over_length", "priority")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    INTERVENTIONS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    IGNORE_EOS_FIELD_NUMBER: _ClassVar[int]
    WATCH_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    PREPEND_BOS_FIELD_NUMBER: _ClassVar[int]
    OVER_LENGTH_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    model: str
    input: _input_pb2.Input
    interventions: _intervention_pb2.Interventions
    sampling: Sampling
    max_new_tokens: int
    n: int
    baseline: bool
    stop: _containers.RepeatedScalarFieldContainer[str]
    ignore_eos: bool
    watch: _containers.RepeatedCompositeFieldContainer[Watch]
    top_logprobs: int
    prepend_bos: bool
    over_length: _input_pb2.OverLength
    priority: Priority
    def __init__(self, model: _Optional[str] = ..., input: _Optional[_Union[_input_pb2.Input, _Mapping]] = ..., interventions: _Optional[_Union[_intervention_pb2.Interventions, _Mapping]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., max_new_tokens: _Optional[int] = ..., n: _Optional[int] = ..., baseline: bool = ..., stop: _Optional[_Iterable[str]] = ..., ignore_eos: bool = ..., watch: _Optional[_Iterable[_Union[Watch, _Mapping]]] = ..., top_logprobs: _Optional[int] = ..., prepend_bos: bool = ..., over_length: _Optional[_Union[_input_pb2.OverLength, str]] = ..., priority: _Optional[_Union[Priority, str]] = ...) -> None: ...

class SteerResponse(_message.Message):
    __slots__ = ("choice", "baseline", "start", "token", "finish")
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    choice: int
    baseline: bool
    start: SteerStart
    token: SteerToken
    finish: SteerFinish
    def __init__(self, choice: _Optional[int] = ..., baseline: bool = ..., start: _Optional[_Union[SteerStart, _Mapping]] = ..., token: _Optional[_Union[SteerToken, _Mapping]] = ..., finish: _Optional[_Union[SteerFinish, _Mapping]] = ...) -> None: ...

class SteerStart(_message.Message):
    __slots__ = ("tokens", "seed", "served_by", "saes", "truncated")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SERVED_BY_FIELD_NUMBER: _ClassVar[int]
    SAES_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    tokens: _input_pb2.TokenInfo
    seed: int
    served_by: _input_pb2.ServedBy
    saes: _containers.RepeatedCompositeFieldContainer[SAERevision]
    truncated: bool
    def __init__(self, tokens: _Optional[_Union[_input_pb2.TokenInfo, _Mapping]] = ..., seed: _Optional[int] = ..., served_by: _Optional[_Union[_input_pb2.ServedBy, _Mapping]] = ..., saes: _Optional[_Iterable[_Union[SAERevision, _Mapping]]] = ..., truncated: bool = ...) -> None: ...

class SteerToken(_message.Message):
    __slots__ = ("id", "text", "position", "logprob", "top_logprobs", "watched")
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    WATCHED_FIELD_NUMBER: _ClassVar[int]
    id: int
    text: str
    position: int
    logprob: float
    top_logprobs: _containers.RepeatedCompositeFieldContainer[TokenLogprob]
    watched: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, id: _Optional[int] = ..., text: _Optional[str] = ..., position: _Optional[int] = ..., logprob: _Optional[float] = ..., top_logprobs: _Optional[_Iterable[_Union[TokenLogprob, _Mapping]]] = ..., watched: _Optional[_Iterable[float]] = ...) -> None: ...

class TokenLogprob(_message.Message):
    __slots__ = ("id", "text", "logprob")
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    id: int
    text: str
    logprob: float
    def __init__(self, id: _Optional[int] = ..., text: _Optional[str] = ..., logprob: _Optional[float] = ...) -> None: ...

class SteerFinish(_message.Message):
    __slots__ = ("reason", "trigger", "stop_string", "text", "prompt_tokens", "generated_tokens", "watched")
    REASON_FIELD_NUMBER: _ClassVar[int]
    TRIGGER_FIELD_NUMBER: _ClassVar[int]
    STOP_STRING_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    WATCHED_FIELD_NUMBER: _ClassVar[int]
    reason: FinishReason
    trigger: _intervention_pb2.FeatureRef
    stop_string: str
    text: str
    prompt_tokens: int
    generated_tokens: int
    watched: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, reason: _Optional[_Union[FinishReason, str]] = ..., trigger: _Optional[_Union[_intervention_pb2.FeatureRef, _Mapping]] = ..., stop_string: _Optional[str] = ..., text: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., generated_tokens: _Optional[int] = ..., watched: _Optional[_Iterable[float]] = ...) -> None: ...
