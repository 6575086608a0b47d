from saekit.v1 import input_pb2 as _input_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SAEInfo(_message.Message):
    __slots__ = ("sae_id", "revision", "architecture", "d_in", "d_sae", "d_out", "hook_name", "hook_name_out", "dtype", "normalize_activations", "model_name", "context_size", "prepend_bos", "source", "pinned", "bytes", "device", "l0", "explained_variance", "loaded_at", "has_features", "labels", "k", "neuronpedia_id", "neuronpedia_url")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SAE_ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    D_IN_FIELD_NUMBER: _ClassVar[int]
    D_SAE_FIELD_NUMBER: _ClassVar[int]
    D_OUT_FIELD_NUMBER: _ClassVar[int]
    HOOK_NAME_FIELD_NUMBER: _ClassVar[int]
    HOOK_NAME_OUT_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    NORMALIZE_ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_SIZE_FIELD_NUMBER: _ClassVar[int]
    PREPEND_BOS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    L0_FIELD_NUMBER: _ClassVar[int]
    EXPLAINED_VARIANCE_FIELD_NUMBER: _ClassVar[int]
    LOADED_AT_FIELD_NUMBER: _ClassVar[int]
    HAS_FEATURES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    NEURONPEDIA_ID_FIELD_NUMBER: _ClassVar[int]
    NEURONPEDIA_URL_FIELD_NUMBER: _ClassVar[int]
    sae_id: str
    revision: str
    architecture: str
    d_in: int
    d_sae: int
    d_out: int
    hook_name: str
    hook_name_out: str
    dtype: str
    normalize_activations: str
    model_name: str
    context_size: int
    prepend_bos: bool
    source: str
    pinned: bool
    bytes: int
    device: str
    l0: float
    explained_variance: float
    loaded_at: float
    has_features: bool
    labels: _containers.ScalarMap[str, str]
    k: int
    neuronpedia_id: str
    neuronpedia_url: str
    def __init__(self, sae_id: _Optional[str] = ..., revision: _Optional[str] = ..., architecture: _Optional[str] = ..., d_in: _Optional[int] = ..., d_sae: _Optional[int] = ..., d_out: _Optional[int] = ..., hook_name: _Optional[str] = ..., hook_name_out: _Optional[str] = ..., dtype: _Optional[str] = ..., normalize_activations: _Optional[str] = ..., model_name: _Optional[str] = ..., context_size: _Optional[int] = ..., prepend_bos: bool = ..., source: _Optional[str] = ..., pinned: bool = ..., bytes: _Optional[int] = ..., device: _Optional[str] = ..., l0: _Optional[float] = ..., explained_variance: _Optional[float] = ..., loaded_at: _Optional[float] = ..., has_features: bool = ..., labels: _Optional[_Mapping[str, str]] = ..., k: _Optional[int] = ..., neuronpedia_id: _Optional[str] = ..., neuronpedia_url: _Optional[str] = ...) -> None: ...

class ListSAEsRequest(_message.Message):
    __slots__ = ("prefix", "hook_name")
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    HOOK_NAME_FIELD_NUMBER: _ClassVar[int]
    prefix: str
    hook_name: str
    def __init__(self, prefix: _Optional[str] = ..., hook_name: _Optional[str] = ...) -> None: ...

class ListSAEsResponse(_message.Message):
    __slots__ = ("saes",)
    SAES_FIELD_NUMBER: _ClassVar[int]
    saes: _containers.RepeatedCompositeFieldContainer[SAEInfo]
    def __init__(self, saes: _Optional[_Iterable[_Union[SAEInfo, _Mapping]]] = ...) -> None: ...

class GetSAERequest(_message.Message):
    __slots__ = ("sae",)
    SAE_FIELD_NUMBER: _ClassVar[int]
    sae: str
    def __init__(self, sae: _Optional[str] = ...) -> None: ...

class GetSAEResponse(_message.Message):
    __slots__ = ("sae", "config_json")
    SAE_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    sae: SAEInfo
    config_json: str
    def __init__(self, sae: _Optional[_Union[SAEInfo, _Mapping]] = ..., config_json: _Optional[str] = ...) -> None: ...

class LoadSAERequest(_message.Message):
    __slots__ = ("source", "sae_id", "replace", "pin", "expected_revision")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SAE_ID_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_REVISION_FIELD_NUMBER: _ClassVar[int]
    source: str
    sae_id: str
    replace: bool
    pin: bool
    expected_revision: str
    def __init__(self, source: _Optional[str] = ..., sae_id: _Optional[str] = ..., replace: bool = ..., pin: bool = ..., expected_revision: _Optional[str] = ...) -> None: ...

class LoadSAEResponse(_message.Message):
    __slots__ = ("sae", "replaced_revision")
    SAE_FIELD_NUMBER: _ClassVar[int]
    REPLACED_REVISION_FIELD_NUMBER: _ClassVar[int]
    sae: SAEInfo
    replaced_revision: str
    def __init__(self, sae: _Optional[_Union[SAEInfo, _Mapping]] = ..., replaced_revision: _Optional[str] = ...) -> None: ...

class UnloadSAERequest(_message.Message):
    __slots__ = ("sae",)
    SAE_FIELD_NUMBER: _ClassVar[int]
    sae: str
    def __init__(self, sae: _Optional[str] = ...) -> None: ...

class UnloadSAEResponse(_message.Message):
    __slots__ = ("saes",)
    SAES_FIELD_NUMBER: _ClassVar[int]
    saes: _containers.RepeatedCompositeFieldContainer[SAEInfo]
    def __init__(self, saes: _Optional[_Iterable[_Union[SAEInfo, _Mapping]]] = ...) -> None: ...

class WatchSAEsRequest(_message.Message):
    __slots__ = ("prefix",)
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    prefix: str
    def __init__(self, prefix: _Optional[str] = ...) -> None: ...

class WatchSAEsResponse(_message.Message):
    __slots__ = ("event", "sae", "error")
    class Event(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        EVENT_UNSPECIFIED: _ClassVar[WatchSAEsResponse.Event]
        EVENT_PRESENT: _ClassVar[WatchSAEsResponse.Event]
        EVENT_SYNCED: _ClassVar[WatchSAEsResponse.Event]
        EVENT_LOADED: _ClassVar[WatchSAEsResponse.Event]
        EVENT_REPLACED: _ClassVar[WatchSAEsResponse.Event]
        EVENT_UNLOADED: _ClassVar[WatchSAEsResponse.Event]
        EVENT_FAILED: _ClassVar[WatchSAEsResponse.Event]
    EVENT_UNSPECIFIED: WatchSAEsResponse.Event
    EVENT_PRESENT: WatchSAEsResponse.Event
    EVENT_SYNCED: WatchSAEsResponse.Event
    EVENT_LOADED: WatchSAEsResponse.Event
    EVENT_REPLACED: WatchSAEsResponse.Event
    EVENT_UNLOADED: WatchSAEsResponse.Event
    EVENT_FAILED: WatchSAEsResponse.Event
    EVENT_FIELD_NUMBER: _ClassVar[int]
    SAE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    event: WatchSAEsResponse.Event
    sae: SAEInfo
    error: str
    def __init__(self, event: _Optional[_Union[WatchSAEsResponse.Event, str]] = ..., sae: _Optional[_Union[SAEInfo, _Mapping]] = ..., error: _Optional[str] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("hook_points",)
    HOOK_POINTS_FIELD_NUMBER: _ClassVar[int]
    hook_points: bool
    def __init__(self, hook_points: bool = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("name", "revision", "dtype", "device", "architecture", "n_layers", "d_model", "d_vocab", "limits", "has_chat_template", "versions", "hook_points", "bos_id", "eos_ids", "capabilities")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    N_LAYERS_FIELD_NUMBER: _ClassVar[int]
    D_MODEL_FIELD_NUMBER: _ClassVar[int]
    D_VOCAB_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    HAS_CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    HOOK_POINTS_FIELD_NUMBER: _ClassVar[int]
    BOS_ID_FIELD_NUMBER: _ClassVar[int]
    EOS_IDS_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    name: str
    revision: str
    dtype: str
    device: str
    architecture: str
    n_layers: int
    d_model: int
    d_vocab: int
    limits: Limits
    has_chat_template: bool
    versions: _containers.ScalarMap[str, str]
    hook_points: _containers.RepeatedCompositeFieldContainer[HookPointInfo]
    bos_id: int
    eos_ids: _containers.RepeatedScalarFieldContainer[int]
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., revision: _Optional[str] = ..., dtype: _Optional[str] = ..., device: _Optional[str] = ..., architecture: _Optional[str] = ..., n_layers: _Optional[int] = ..., d_model: _Optional[int] = ..., d_vocab: _Optional[int] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., has_chat_template: bool = ..., versions: _Optional[_Mapping[str, str]] = ..., hook_points: _Optional[_Iterable[_Union[HookPointInfo, _Mapping]]] = ..., bos_id: _Optional[int] = ..., eos_ids: _Optional[_Iterable[int]] = ..., capabilities: _Optional[_Iterable[str]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_input_tokens", "max_slot_tokens", "slots", "max_message_bytes", "max_queued_requests", "max_queued_tokens")
    MAX_INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_SLOT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUED_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    max_input_tokens: int
    max_slot_tokens: int
    slots: int
    max_message_bytes: int
    max_queued_requests: int
    max_queued_tokens: int
    def __init__(self, max_input_tokens: _Optional[int] = ..., max_slot_tokens: _Optional[int] = ..., slots: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., max_queued_requests: _Optional[int] = ..., max_queued_tokens: _Optional[int] = ...) -> None: ...

class HookPointInfo(_message.Message):
    __slots__ = ("name", "canonical_name", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CANONICAL_NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    canonical_name: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., canonical_name: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class TokenizeRequest(_message.Message):
    __slots__ = ("inputs", "prepend_bos")
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    PREPEND_BOS_FIELD_NUMBER: _ClassVar[int]
    inputs: _containers.RepeatedCompositeFieldContainer[_input_pb2.Input]
    prepend_bos: bool
    def __init__(self, inputs: _Optional[_Iterable[_Union[_input_pb2.Input, _Mapping]]] = ..., prepend_bos: bool = ...) -> None: ...

class TokenizeResponse(_message.Message):
    __slots__ = ("results", "served_by")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    SERVED_BY_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[_input_pb2.TokenInfo]
    served_by: _input_pb2.ServedBy
    def __init__(self, results: _Optional[_Iterable[_Union[_input_pb2.TokenInfo, _Mapping]]] = ..., served_by: _Optional[_Union[_input_pb2.ServedBy, _Mapping]] = ...) -> None: ...

class GetFeaturesRequest(_message.Message):
    __slots__ = ("sae", "indices", "search", "logit_lens", "neighbours", "examples")
    SAE_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    SEARCH_FIELD_NUMBER: _ClassVar[int]
    LOGIT_LENS_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    sae: str
    indices: _containers.RepeatedScalarFieldContainer[int]
    search: str
    logit_lens: int
    neighbours: int
    examples: int
    def __init__(self, sae: _Optional[str] = ..., indices: _Optional[_Iterable[int]] = ..., search: _Optional[str] = ..., logit_lens: _Optional[int] = ..., neighbours: _Optional[int] = ..., examples: _Optional[int] = ...) -> None: ...

class GetFeaturesResponse(_message.Message):
    __slots__ = ("features", "sae_id", "sae_revision")
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    SAE_ID_FIELD_NUMBER: _ClassVar[int]
    SAE_REVISION_FIELD_NUMBER: _ClassVar[int]
    features: _containers.RepeatedCompositeFieldContainer[FeatureInfo]
    sae_id: str
    sae_revision: str
    def __init__(self, features: _Optional[_Iterable[_Union[FeatureInfo, _Mapping]]] = ..., sae_id: _Optional[str] = ..., sae_revision: _Optional[str] = ...) -> None: ...

class FeatureInfo(_message.Message):
    __slots__ = ("index", "label", "decoder_norm", "encoder_norm", "density", "max_activation", "top_tokens", "bottom_tokens", "neighbours", "examples", "neuronpedia_url")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    DECODER_NORM_FIELD_NUMBER: _ClassVar[int]
    ENCODER_NORM_FIELD_NUMBER: _ClassVar[int]
    DENSITY_FIELD_NUMBER: _ClassVar[int]
    MAX_ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    TOP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BOTTOM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    NEURONPEDIA_URL_FIELD_NUMBER: _ClassVar[int]
    index: int
    label: str
    decoder_norm: float
    encoder_norm: float
    density: float
    max_activation: float
    top_tokens: _containers.RepeatedCompositeFieldContainer[TokenScore]
    bottom_tokens: _containers.RepeatedCompositeFieldContainer[TokenScore]
    neighbours: _containers.RepeatedCompositeFieldContainer[FeatureNeighbour]
    examples: _containers.RepeatedCompositeFieldContainer[FeatureExample]
    neuronpedia_url: str
    def __init__(self, index: _Optional[int] = ..., label: _Optional[str] = ..., decoder_norm: _Optional[float] = ..., encoder_norm: _Optional[float] = ..., density: _Optional[float] = ..., max_activation: _Optional[float] = ..., top_tokens: _Optional[_Iterable[_Union[TokenScore, _Mapping]]] = ..., bottom_tokens: _Optional[_Iterable[_Union[TokenScore, _Mapping]]] = ..., neighbours: _Optional[_Iterable[_Union[FeatureNeighbour, _Mapping]]] = ..., examples: _Optional[_Iterable[_Union[FeatureExample, _Mapping]]] = ..., neuronpedia_url: _Optional[str] = ...) -> None: ...

class TokenScore(_message.Message):
    __slots__ = ("id", "text", "score")
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    id: int
    text: str
    score: float
    def __init__(self, id: _Optional[int] = ..., text: _Optional[str] = ..., score: _Optional[float] = ...) -> None: ...

class FeatureNeighbour(_message.Message):
    __slots__ = ("index", "cosine", "label")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    COSINE_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    index: int
    cosine: float
    label: str
    def __init__(self, index: _Optional[int] = ..., cosine: _Optional[float] = ..., label: _Optional[str] = ...) -> None: ...

class FeatureExample(_message.Message):
    __slots__ = ("tokens", "activations")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[str]
    activations: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, tokens: _Optional[_Iterable[str]] = ..., activations: _Optional[_Iterable[float]] = ...) -> None: ...
