"""The registry, the model and health."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import grpc

from saekit.v1 import registry_service_pb2
from saekit_client import requests, responses
from saekit_client.errors import from_rpc_error
from saekit_client.health import Health, request_bytes, state_of
from saekit_client.inputs import ManyInputs, OneInput, is_one, several
from saekit_client.registry_results import (
    Features,
    Loaded,
    ModelInfo,
    SAEDetails,
    SAEInfo,
    WatchEvent,
)
from saekit_client.results import Tokens
from saekit_client.sync.calls import Calls


class RegistryCalls(Calls):
    """What is loaded and what is known of it."""

    def list_saes(
        self, prefix: str = "", *, hook_name: str = "", timeout: float | None = None
    ) -> list[SAEInfo]:
        """The loaded SAEs, by sae_id; only those that start with `prefix`, at `hook_name`."""
        request = registry_service_pb2.ListSAEsRequest(prefix=prefix, hook_name=hook_name)
        return responses.sae_list(self._unary(self._registry.ListSAEs, request, timeout))

    def get_sae(self, sae: str, *, timeout: float | None = None) -> SAEDetails:
        """One SAE, with its configuration."""
        request = registry_service_pb2.GetSAERequest(sae=sae)
        return SAEDetails.of(self._unary(self._registry.GetSAE, request, timeout))

    def load_sae(
        self,
        source: str,
        *,
        sae_id: str = "",
        replace: bool = False,
        pin: bool = False,
        expected_revision: str = "",
        timeout: float | None = None,
    ) -> Loaded:
        """Loads an SAE into the server; returns when it serves. Never repeated.

        Args:
            source: spec: `release/id`, `hf://user/repo/path@revision`, `file:folder`, or a folder
                under the server's SAE root.
            sae_id: its name. Default: from the spec.
            replace: take the place of one of this name.
            pin: keep it loaded, and this revision beside later ones.
            expected_revision: refuse any other.
            timeout: seconds. Default: `timeouts.load`.
        """
        request = registry_service_pb2.LoadSAERequest(
            source=source,
            sae_id=sae_id,
            replace=replace,
            pin=pin,
            expected_revision=expected_revision,
        )
        limit = self.connection.timeouts.load if timeout is None else timeout
        return responses.loaded(self._unary(self._registry.LoadSAE, request, limit))

    def unload_sae(self, sae: str, *, timeout: float | None = None) -> list[SAEInfo]:
        """Unloads an SAE (all revisions, or sae_id@revision); returns what was unloaded."""
        request = registry_service_pb2.UnloadSAERequest(sae=sae)
        return responses.unloaded(self._unary(self._registry.UnloadSAE, request, timeout))

    def watch_saes(self, prefix: str = "", *, timeout: float | None = None) -> Iterator[WatchEvent]:
        """The SAEs now, a "synced" event, then every change, for ever or until `timeout`.

        Closing the iterator ends the watch.
        """
        request = registry_service_pb2.WatchSAEsRequest(prefix=prefix)
        call = self._call(self._registry.WatchSAEs)(request, timeout)
        try:
            for event in call:
                yield WatchEvent.of(event)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        finally:
            call.cancel()

    def get_model(self, *, hook_points: bool = False, timeout: float | None = None) -> ModelInfo:
        """The model, the server's limits and capabilities; also every hook point if asked for."""
        request = registry_service_pb2.GetModelRequest(hook_points=hook_points)
        return ModelInfo.of(self._unary(self._registry.GetModel, request, timeout))

    @overload
    def tokenize(  # type: ignore[overload-overlap]
        self, inputs: OneInput, *, prepend_bos: bool | None = ..., timeout: float | None = ...
    ) -> Tokens: ...
    @overload
    def tokenize(
        self, inputs: ManyInputs, *, prepend_bos: bool | None = ..., timeout: float | None = ...
    ) -> list[Tokens]: ...
    def tokenize(
        self,
        inputs: OneInput | ManyInputs,
        *,
        prepend_bos: bool | None = None,
        timeout: float | None = None,
    ) -> Tokens | list[Tokens]:
        """The tokens of an input, or of several (at most 1024), with the text of each token."""
        one = is_one(inputs)
        request = requests.tokenize_request(
            [inputs] if is_one(inputs) else several(inputs), prepend_bos
        )
        tokens = responses.tokenize_results(self._unary(self._registry.Tokenize, request, timeout))
        return tokens[0] if one else tokens

    def get_features(
        self,
        sae: str,
        indices: int | Sequence[int] = (),
        *,
        search: str = "",
        logit_lens: int = 0,
        neighbours: int = 0,
        examples: int = 0,
        timeout: float | None = None,
    ) -> Features:
        """What is known of features.

        Args:
            sae: sae_id or sae_id@revision.
            indices: the features wanted; or instead
            search: those whose label contains this, ignoring case.
            logit_lens: number of tokens that the direction makes most, and least, likely.
            neighbours: number of nearest features by cosine of decoder directions.
            examples: number of texts on which the feature is active.
            timeout: seconds.
        """
        request = requests.features_request(
            sae,
            indices,
            search,
            logit_lens=logit_lens,
            neighbours=neighbours,
            examples=examples,
        )
        return Features.of(self._unary(self._registry.GetFeatures, request, timeout))

    def health(self, service: str = "", *, timeout: float | None = None) -> Health:
        """Whether the server serves: "serving", "not_serving", ..."""
        check = self._call(self._health)
        limit = self.connection.timeouts.unary if timeout is None else timeout
        try:
            return state_of(check(request_bytes(service), limit))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
