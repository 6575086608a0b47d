from saekit.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OverLength(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OVER_LENGTH_UNSPECIFIED: _ClassVar[OverLength]
    OVER_LENGTH_ERROR: _ClassVar[OverLength]
    OVER_LENGTH_TRUNCATE: _ClassVar[OverLength]
    OVER_LENGTH_WINDOWS: _ClassVar[OverLength]
OVER_LENGTH_UNSPECIFIED: OverLength
OVER_LENGTH_ERROR: OverLength
OVER_LENGTH_TRUNCATE: OverLength
OVER_LENGTH_WINDOWS: OverLength

class Input(_message.Message):
    __slots__ = ("id", "text", "chat", "tokens", "activations")
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CHAT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    id: str
    text: str
    chat: Chat
    tokens: Tokens
    activations: _tensor_pb2.Tensor
    def __init__(self, id: _Optional[str] = ..., text: _Optional[str] = ..., chat: _Optional[_Union[Chat, _Mapping]] = ..., tokens: _Optional[_Union[Tokens, _Mapping]] = ..., activations: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class Tokens(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Chat(_message.Message):
    __slots__ = ("messages", "add_generation_prompt")
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    ADD_GENERATION_PROMPT_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[ChatMessage]
    add_generation_prompt: bool
    def __init__(self, messages: _Optional[_Iterable[_Union[ChatMessage, _Mapping]]] = ..., add_generation_prompt: bool = ...) -> None: ...

class ChatMessage(_message.Message):
    __slots__ = ("role", "content")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    role: str
    content: str
    def __init__(self, role: _Optional[str] = ..., content: _Optional[str] = ...) -> None: ...

class PositionSelector(_message.Message):
    __slots__ = ("region", "last_n", "ranges", "roles", "include_bos", "include_special")
    class Region(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REGION_UNSPECIFIED: _ClassVar[PositionSelector.Region]
        REGION_ALL: _ClassVar[PositionSelector.Region]
        REGION_PROMPT: _ClassVar[PositionSelector.Region]
        REGION_GENERATED: _ClassVar[PositionSelector.Region]
        REGION_LAST_PROMPT: _ClassVar[PositionSelector.Region]
    REGION_UNSPECIFIED: PositionSelector.Region
    REGION_ALL: PositionSelector.Region
    REGION_PROMPT: PositionSelector.Region
    REGION_GENERATED: PositionSelector.Region
    REGION_LAST_PROMPT: PositionSelector.Region
    REGION_FIELD_NUMBER: _ClassVar[int]
    LAST_N_FIELD_NUMBER: _ClassVar[int]
    RANGES_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_BOS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_SPECIAL_FIELD_NUMBER: _ClassVar[int]
    region: PositionSelector.Region
    last_n: int
    ranges: PositionRanges
    roles: ChatRoles
    include_bos: bool
    include_special: bool
    def __init__(self, region: _Optional[_Union[PositionSelector.Region, str]] = ..., last_n: _Optional[int] = ..., ranges: _Optional[_Union[PositionRanges, _Mapping]] = ..., roles: _Optional[_Union[ChatRoles, _Mapping]] = ..., include_bos: bool = ..., include_special: bool = ...) -> None: ...

class PositionRanges(_message.Message):
    __slots__ = ("ranges",)
    RANGES_FIELD_NUMBER: _ClassVar[int]
    ranges: _containers.RepeatedCompositeFieldContainer[PositionRange]
    def __init__(self, ranges: _Optional[_Iterable[_Union[PositionRange, _Mapping]]] = ...) -> None: ...

class PositionRange(_message.Message):
    __slots__ = ("start", "end")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    start: int
    end: int
    def __init__(self, start: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class ChatRoles(_message.Message):
    __slots__ = ("roles",)
    ROLES_FIELD_NUMBER: _ClassVar[int]
    roles: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, roles: _Optional[_Iterable[str]] = ...) -> None: ...

class TokenInfo(_message.Message):
    __slots__ = ("ids", "byte_offsets", "special_positions", "has_bos", "message_index", "pieces")
    IDS_FIELD_NUMBER: _ClassVar[int]
    BYTE_OFFSETS_FIELD_NUMBER: _ClassVar[int]
    SPECIAL_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    HAS_BOS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_INDEX_FIELD_NUMBER: _ClassVar[int]
    PIECES_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    byte_offsets: _containers.RepeatedScalarFieldContainer[int]
    special_positions: _containers.RepeatedScalarFieldContainer[int]
    has_bos: bool
    message_index: _containers.RepeatedScalarFieldContainer[int]
    pieces: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, ids: _Optional[_Iterable[int]] = ..., byte_offsets: _Optional[_Iterable[int]] = ..., special_positions: _Optional[_Iterable[int]] = ..., has_bos: bool = ..., message_index: _Optional[_Iterable[int]] = ..., pieces: _Optional[_Iterable[str]] = ...) -> None: ...

class ServedBy(_message.Message):
    __slots__ = ("model", "model_revision", "model_dtype")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_REVISION_FIELD_NUMBER: _ClassVar[int]
    MODEL_DTYPE_FIELD_NUMBER: _ClassVar[int]
    model: str
    model_revision: str
    model_dtype: str
    def __init__(self, model: _Optional[str] = ..., model_revision: _Optional[str] = ..., model_dtype: _Optional[str] = ...) -> None: ...
