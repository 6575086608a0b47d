"""Results from response messages; what the sync and the async client share."""

from __future__ import annotations

from typing import Any

from saekit.codec import CodecError
from saekit.v1 import registry_service_pb2, sae_service_pb2
from saekit_client.errors import SAEKitError
from saekit_client.registry_results import Loaded, SAEInfo
from saekit_client.results import DecodeResult, EncodeResult, ServedBy, Tokens
from saekit_client.run_results import RunResult, SAERevision
from saekit_client.stream_state import Provenance, protocol_error


def encode_result(response: sae_service_pb2.EncodeResponse) -> EncodeResult:
    """The result of a request with one input."""
    return parse_encode(_only(response.results), Provenance(ServedBy.of(response.served_by)))


def decode_result(response: sae_service_pb2.DecodeResponse) -> DecodeResult:
    """The result of a request with one item."""
    return parse_decode(_only(response.results), Provenance(ServedBy.of(response.served_by)))


def run_result(response: sae_service_pb2.RunWithSAEsResponse) -> RunResult:
    """The result of a request with one input."""
    saes = tuple(SAERevision.of(s) for s in response.saes)
    return parse_run(_only(response.results), Provenance(ServedBy.of(response.served_by), saes))


def parse_encode(header: sae_service_pb2.EncodeResult, provenance: Provenance) -> EncodeResult:
    """A whole result of Encode or EncodeStream."""
    try:
        return EncodeResult.of(header, provenance.served_by)
    except CodecError as error:
        raise _malformed(error) from error


def parse_decode(header: sae_service_pb2.DecodeResult, provenance: Provenance) -> DecodeResult:
    """A whole result of Decode or DecodeStream."""
    try:
        return DecodeResult.of(header, provenance.served_by)
    except CodecError as error:
        raise _malformed(error) from error


def parse_run(header: sae_service_pb2.RunResult, provenance: Provenance) -> RunResult:
    """A whole result of RunWithSAEs or RunWithSAEsStream."""
    try:
        return RunResult.of(header, provenance.served_by, provenance.saes)
    except CodecError as error:
        raise _malformed(error) from error


def tokenize_results(response: registry_service_pb2.TokenizeResponse) -> list[Tokens]:
    """The tokens of every input."""
    return [Tokens.of(t) for t in response.results]


def sae_list(response: registry_service_pb2.ListSAEsResponse) -> list[SAEInfo]:
    """Every SAE."""
    return [SAEInfo.of(s) for s in response.saes]


def loaded(response: registry_service_pb2.LoadSAEResponse) -> Loaded:
    """What LoadSAE did."""
    return Loaded(SAEInfo.of(response.sae), response.replaced_revision)


def unloaded(response: registry_service_pb2.UnloadSAEResponse) -> list[SAEInfo]:
    """What UnloadSAE unloaded."""
    return [SAEInfo.of(s) for s in response.saes]


def _only(results: Any) -> Any:
    if len(results) != 1:
        raise protocol_error(f"{len(results)} results for one input")
    return results[0]


def _malformed(error: CodecError) -> SAEKitError:
    return protocol_error(f"{error.field}: {error}")
