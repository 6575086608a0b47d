"""RegistryService: which SAEs are loaded, what they are, and what the model is."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from importlib.metadata import version
from typing import TypeVar

from saekit.v1 import input_pb2
from saekit.v1 import registry_service_pb2 as pb
from saekit_core.sae import sae_url
from saekit_server.engine.call import Call
from saekit_server.errors import at_field, invalid, unavailable
from saekit_server.handlers.context import MAX_MESSAGE_BYTES, Context, check_count
from saekit_server.handlers.features import FeatureReader
from saekit_server.handlers.inputs import Options, token_info
from saekit_server.registry import EventKind, RegistryEvent, SAEInfo

T = TypeVar("T")

_VERSIONED = ("saekit", "torch", "transformers", "transformer-lens")
_CAPABILITIES = (
    "chat",
    "compare",
    "conditions",
    "decode_stream",
    "encode_activations",
    "encode_stream",
    "run_with_saes_stream",
    "steer_baseline",
    "watch_saes",
)
_EVENTS = {
    EventKind.PRESENT: pb.WatchSAEsResponse.EVENT_PRESENT,
    EventKind.SYNCED: pb.WatchSAEsResponse.EVENT_SYNCED,
    EventKind.LOADED: pb.WatchSAEsResponse.EVENT_LOADED,
    EventKind.REPLACED: pb.WatchSAEsResponse.EVENT_REPLACED,
    EventKind.UNLOADED: pb.WatchSAEsResponse.EVENT_UNLOADED,
    EventKind.FAILED: pb.WatchSAEsResponse.EVENT_FAILED,
}


class RegistryHandler:
    """The control plane."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._registry = context.registry
        self._features = FeatureReader(context)
        self._watchers: set[asyncio.Event] = set()
        self._closing = False

    def close(self) -> None:
        """Ends the watches, which would hold up a shutdown for ever."""
        self._closing = True
        for changed in self._watchers:
            changed.set()

    async def list_saes(self, request: pb.ListSAEsRequest, call: Call) -> pb.ListSAEsResponse:
        """Answers ListSAEs."""
        del call
        with at_field(""):
            infos = self._registry.list(request.prefix, request.hook_name)
        return pb.ListSAEsResponse(saes=[sae_info(info) for info in infos])

    async def get_sae(self, request: pb.GetSAERequest, call: Call) -> pb.GetSAEResponse:
        """Answers GetSAE."""
        del call
        info = self._describe(request.sae)
        return pb.GetSAEResponse(sae=sae_info(info), config_json=info.config_json)

    async def load_sae(self, request: pb.LoadSAERequest, call: Call) -> pb.LoadSAEResponse:
        """Answers LoadSAE."""
        del call
        if not request.source:
            raise invalid("source", "expected a spec, as a folder under the server's SAE root")
        result = await _aside(
            partial(
                self._registry.load,
                request.source,
                sae_id=request.sae_id or None,
                replace=request.replace,
                pin=request.pin,
                expected_revision=request.expected_revision or None,
            )
        )
        return pb.LoadSAEResponse(
            sae=sae_info(result.loaded.info), replaced_revision=result.replaced_revision
        )

    async def unload_sae(self, request: pb.UnloadSAERequest, call: Call) -> pb.UnloadSAEResponse:
        """Answers UnloadSAE."""
        del call
        self._describe(request.sae)
        gone = await _aside(partial(self._registry.unload, request.sae))
        return pb.UnloadSAEResponse(saes=[sae_info(info) for info in gone])

    async def watch_saes(
        self, request: pb.WatchSAEsRequest, call: Call
    ) -> AsyncIterator[pb.WatchSAEsResponse]:
        """Answers WatchSAEs: what is loaded, then every change, until the caller hangs up."""
        del call
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def notify() -> None:
            loop.call_soon_threadsafe(changed.set)

        self._watchers.add(changed)
        try:
            with self._registry.subscribe(request.prefix, notify) as subscription:
                while not self._closing:
                    changed.clear()
                    for event in subscription.drain():
                        yield _event(event)
                    await changed.wait()
        finally:
            self._watchers.discard(changed)
        raise unavailable("the server is shutting down", retry_after_s=1.0)

    async def get_model(self, request: pb.GetModelRequest, call: Call) -> pb.GetModelResponse:
        """Answers GetModel."""
        del call
        model, limits = self._context.model, self._context.limits
        response = pb.GetModelResponse(
            name=model.name,
            revision=model.revision,
            dtype=str(model.dtype).removeprefix("torch."),
            device=str(model.device),
            architecture=model.architecture,
            n_layers=model.n_layers,
            d_model=model.d_model,
            d_vocab=model.d_vocab,
            limits=pb.Limits(
                max_input_tokens=limits.max_input_tokens,
                max_slot_tokens=limits.max_slot_tokens,
                slots=limits.slots,
                max_message_bytes=MAX_MESSAGE_BYTES,
                max_queued_requests=limits.max_queued_requests,
                max_queued_tokens=limits.max_queued_tokens,
            ),
            has_chat_template=bool(model.tokenizer.hf.chat_template),
            versions={name: version(name) for name in _VERSIONED},
            eos_ids=model.tokenizer.eos_ids,
            bos_id=model.tokenizer.bos_id,
            capabilities=_CAPABILITIES,
        )
        if request.hook_points:
            points = [model.hook_point(name) for name in model.hook_names()]
            for point in sorted(points, key=lambda p: p.depth):
                response.hook_points.add(
                    name=point.name, canonical_name=point.canonical, shape=point.shape
                )
        return response

    async def tokenize(self, request: pb.TokenizeRequest, call: Call) -> pb.TokenizeResponse:
        """Answers Tokenize."""
        del call
        check_count("inputs", len(request.inputs))
        tokenizer = self._context.model.tokenizer
        bos = request.prepend_bos if request.HasField("prepend_bos") else None
        options = Options(bos, input_pb2.OVER_LENGTH_ERROR, limit=sys.maxsize)
        rows = await self._context.inputs.rows(request.inputs, options)
        response = pb.TokenizeResponse(served_by=self._context.served_by)
        for (row,) in rows:
            response.results.append(token_info(tokenizer, row.tokenized, pieces=True))
        return response

    async def get_features(
        self, request: pb.GetFeaturesRequest, call: Call
    ) -> pb.GetFeaturesResponse:
        """Answers GetFeatures."""
        del call
        loaded = self._context.sae(request.sae)
        return await _aside(partial(self._features.read, request, loaded))

    def _describe(self, name: str) -> SAEInfo:
        if not name:
            raise invalid("sae", "expected a sae_id")
        with at_field("sae"):
            return self._registry.describe(name)


async def _aside(function: Callable[[], T]) -> T:
    """Runs what takes long beside the event loop."""
    return await asyncio.get_running_loop().run_in_executor(None, function)


def sae_info(info: SAEInfo) -> pb.SAEInfo:
    """An SAE as its callers see it."""
    cfg, features = info.cfg, info.features
    message = pb.SAEInfo(
        sae_id=info.sae_id,
        revision=info.revision,
        architecture=cfg.architecture,
        d_in=cfg.d_in,
        d_sae=cfg.d_sae,
        d_out=cfg.d_out,
        hook_name=info.hook.name,
        hook_name_out=info.hook_out.name,
        dtype=info.dtype,
        normalize_activations=cfg.normalize_activations,
        model_name=cfg.model_name or "",
        context_size=cfg.context_size or 0,
        source=info.source,
        pinned=info.pinned,
        bytes=info.nbytes,
        device=info.device,
        loaded_at=info.loaded_at,
        has_features=features is not None,
        labels=dict(info.labels),
        k=cfg.k,
        neuronpedia_id=cfg.neuronpedia_id or "",
        neuronpedia_url=sae_url(cfg) or "",
    )
    if cfg.metadata.prepend_bos is not None:
        message.prepend_bos = cfg.metadata.prepend_bos
    if features is not None and features.l0 is not None:
        message.l0 = features.l0
    if features is not None and features.explained_variance is not None:
        message.explained_variance = features.explained_variance
    return message


def _event(event: RegistryEvent) -> pb.WatchSAEsResponse:
    message = pb.WatchSAEsResponse(event=_EVENTS[event.kind])
    if event.info is not None:
        message.sae.CopyFrom(sae_info(event.info))
    elif event.sae_id or event.source:
        message.sae.sae_id, message.sae.source = event.sae_id, event.source
    if event.error is not None:
        message.error = str(event.error)
    return message
