from saekit.v1 import input_pb2 as _input_pb2
from saekit.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Unit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UNIT_UNSPECIFIED: _ClassVar[Unit]
    UNIT_RAW: _ClassVar[Unit]
    UNIT_UNIT_NORM: _ClassVar[Unit]
    UNIT_MAX_ACTIVATION: _ClassVar[Unit]
UNIT_UNSPECIFIED: Unit
UNIT_RAW: Unit
UNIT_UNIT_NORM: Unit
UNIT_MAX_ACTIVATION: Unit

class Interventions(_message.Message):
    __slots__ = ("splices", "edits", "conditions", "preserve_norm")
    SPLICES_FIELD_NUMBER: _ClassVar[int]
    EDITS_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    PRESERVE_NORM_FIELD_NUMBER: _ClassVar[int]
    splices: _containers.RepeatedCompositeFieldContainer[Splice]
    edits: _containers.RepeatedCompositeFieldContainer[Edit]
    conditions: _containers.RepeatedCompositeFieldContainer[Condition]
    preserve_norm: bool
    def __init__(self, splices: _Optional[_Iterable[_Union[Splice, _Mapping]]] = ..., edits: _Optional[_Iterable[_Union[Edit, _Mapping]]] = ..., conditions: _Optional[_Iterable[_Union[Condition, _Mapping]]] = ..., preserve_norm: bool = ...) -> None: ...

class Splice(_message.Message):
    __slots__ = ("sae", "use_error_term", "positions")
    SAE_FIELD_NUMBER: _ClassVar[int]
    USE_ERROR_TERM_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    sae: str
    use_error_term: bool
    positions: _input_pb2.PositionSelector
    def __init__(self, sae: _Optional[str] = ..., use_error_term: bool = ..., positions: _Optional[_Union[_input_pb2.PositionSelector, _Mapping]] = ...) -> None: ...

class FeatureRef(_message.Message):
    __slots__ = ("sae", "index")
    SAE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    sae: str
    index: int
    def __init__(self, sae: _Optional[str] = ..., index: _Optional[int] = ...) -> None: ...

class Direction(_message.Message):
    __slots__ = ("hook_name", "vector", "feature")
    HOOK_NAME_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    hook_name: str
    vector: _tensor_pb2.Tensor
    feature: FeatureRef
    def __init__(self, hook_name: _Optional[str] = ..., vector: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., feature: _Optional[_Union[FeatureRef, _Mapping]] = ...) -> None: ...

class Edit(_message.Message):
    __slots__ = ("feature", "direction", "add", "set", "ablate", "scale", "clip", "project", "cap", "positions")
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    ADD_FIELD_NUMBER: _ClassVar[int]
    SET_FIELD_NUMBER: _ClassVar[int]
    ABLATE_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    CLIP_FIELD_NUMBER: _ClassVar[int]
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    CAP_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    feature: FeatureRef
    direction: Direction
    add: Add
    set: Set
    ablate: Ablate
    scale: Scale
    clip: Clip
    project: Project
    cap: Cap
    positions: _input_pb2.PositionSelector
    def __init__(self, feature: _Optional[_Union[FeatureRef, _Mapping]] = ..., direction: _Optional[_Union[Direction, _Mapping]] = ..., add: _Optional[_Union[Add, _Mapping]] = ..., set: _Optional[_Union[Set, _Mapping]] = ..., ablate: _Optional[_Union[Ablate, _Mapping]] = ..., scale: _Optional[_Union[Scale, _Mapping]] = ..., clip: _Optional[_Union[Clip, _Mapping]] = ..., project: _Optional[_Union[Project, _Mapping]] = ..., cap: _Optional[_Union[Cap, _Mapping]] = ..., positions: _Optional[_Union[_input_pb2.PositionSelector, _Mapping]] = ...) -> None: ...

class Add(_message.Message):
    __slots__ = ("amount", "unit")
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    amount: float
    unit: Unit
    def __init__(self, amount: _Optional[float] = ..., unit: _Optional[_Union[Unit, str]] = ...) -> None: ...

class Set(_message.Message):
    __slots__ = ("value", "unit")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    value: float
    unit: Unit
    def __init__(self, value: _Optional[float] = ..., unit: _Optional[_Union[Unit, str]] = ...) -> None: ...

class Ablate(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Scale(_message.Message):
    __slots__ = ("factor",)
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    factor: float
    def __init__(self, factor: _Optional[float] = ...) -> None: ...

class Clip(_message.Message):
    __slots__ = ("lo", "hi")
    LO_FIELD_NUMBER: _ClassVar[int]
    HI_FIELD_NUMBER: _ClassVar[int]
    lo: float
    hi: float
    def __init__(self, lo: _Optional[float] = ..., hi: _Optional[float] = ...) -> None: ...

class Project(_message.Message):
    __slots__ = ("coefficient",)
    COEFFICIENT_FIELD_NUMBER: _ClassVar[int]
    coefficient: float
    def __init__(self, coefficient: _Optional[float] = ...) -> None: ...

class Cap(_message.Message):
    __slots__ = ("lo", "hi")
    LO_FIELD_NUMBER: _ClassVar[int]
    HI_FIELD_NUMBER: _ClassVar[int]
    lo: float
    hi: float
    def __init__(self, lo: _Optional[float] = ..., hi: _Optional[float] = ...) -> None: ...

class Condition(_message.Message):
    __slots__ = ("trigger", "threshold", "apply_here", "apply_from_here", "stop", "positions")
    TRIGGER_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    APPLY_HERE_FIELD_NUMBER: _ClassVar[int]
    APPLY_FROM_HERE_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    trigger: FeatureRef
    threshold: float
    apply_here: EditList
    apply_from_here: EditList
    stop: Stop
    positions: _input_pb2.PositionSelector
    def __init__(self, trigger: _Optional[_Union[FeatureRef, _Mapping]] = ..., threshold: _Optional[float] = ..., apply_here: _Optional[_Union[EditList, _Mapping]] = ..., apply_from_here: _Optional[_Union[EditList, _Mapping]] = ..., stop: _Optional[_Union[Stop, _Mapping]] = ..., positions: _Optional[_Union[_input_pb2.PositionSelector, _Mapping]] = ...) -> None: ...

class EditList(_message.Message):
    __slots__ = ("edits",)
    EDITS_FIELD_NUMBER: _ClassVar[int]
    edits: _containers.RepeatedCompositeFieldContainer[Edit]
    def __init__(self, edits: _Optional[_Iterable[_Union[Edit, _Mapping]]] = ...) -> None: ...

class Stop(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
