"""What is known of features: labels and statistics, and what their directions do."""

from collections.abc import Sequence

import torch
from torch import Tensor

from saekit.v1 import registry_service_pb2 as pb
from saekit_core.sae import SAE, FeaturesFile, SAEConfig, feature_url
from saekit_server.errors import invalid, precondition
from saekit_server.handlers.context import Context
from saekit_server.registry import LoadedSAE

_MAX_FEATURES = 4096
_MAX_TOKENS = 50
_MAX_EXAMPLES = 20
_NOTHING = FeaturesFile()


class FeatureReader:
    """Reads features of one model's SAEs; its work on the device goes to the device's thread."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def read(self, request: pb.GetFeaturesRequest, loaded: LoadedSAE) -> pb.GetFeaturesResponse:
        """Answers GetFeatures; blocks while the device is busy.

        Raises:
            DomainError: naming the field that asks for what cannot be.
        """
        for name, most in (
            ("logit_lens", _MAX_TOKENS),
            ("neighbours", _MAX_TOKENS),
            ("examples", _MAX_EXAMPLES),
        ):
            if getattr(request, name) > most:
                raise invalid(name, f"expected 0 to {most}, got {getattr(request, name)}")
        known = loaded.features or _NOTHING
        indices = _wanted(request, loaded, known)
        response = pb.GetFeaturesResponse(sae_id=loaded.sae_id, sae_revision=loaded.revision)
        response.features.extend(
            _recorded(i, known, loaded.info.cfg, request.examples) for i in indices
        )
        if indices:
            self._context.engine.run_on_device(
                lambda: self._measure(response.features, request, loaded, known)
            )
        return response

    @torch.no_grad()
    def _measure(
        self,
        messages: Sequence[pb.FeatureInfo],
        request: pb.GetFeaturesRequest,
        loaded: LoadedSAE,
        known: FeaturesFile,
    ) -> None:
        sae = loaded.sae
        index = torch.tensor([message.index for message in messages], device=sae.device)
        rows = sae.W_dec[index].float()  # [n, d_out]
        encoder = sae.weights().get("W_enc")
        columns = rows if encoder is None else encoder[:, index].T.float()
        for message, decoder_norm, encoder_norm in zip(
            messages, rows.norm(dim=-1).tolist(), columns.norm(dim=-1).tolist(), strict=True
        ):
            message.decoder_norm, message.encoder_norm = decoder_norm, encoder_norm
        if request.logit_lens:
            self._logit_lens(messages, rows, request.logit_lens)
        if request.neighbours:
            _neighbours(messages, rows, sae, known, request.neighbours)

    def _logit_lens(self, messages: Sequence[pb.FeatureInfo], rows: Tensor, count: int) -> None:
        """The tokens whose logits the directions raise and lower most (nostalgebraist, 2020)."""
        model = self._context.model
        unembedding: Tensor = model.hf.get_output_embeddings().weight  # type: ignore[no-untyped-call]
        if rows.shape[1] != unembedding.shape[1]:
            raise precondition(
                f"directions of {rows.shape[1]} dimensions are not in the residual stream "
                f"({unembedding.shape[1]})",
                field="logit_lens",
            )
        scores = rows @ unembedding.float().T
        for message, row in zip(messages, scores, strict=True):
            for found, tokens in (
                (row.topk(count), message.top_tokens),
                (row.topk(count, largest=False), message.bottom_tokens),
            ):
                for token, score in zip(found.indices.tolist(), found.values.tolist(), strict=True):
                    tokens.add(id=token, text=model.tokenizer.decode([token]), score=score)


def _wanted(request: pb.GetFeaturesRequest, loaded: LoadedSAE, known: FeaturesFile) -> list[int]:
    if bool(request.indices) == bool(request.search):
        raise invalid("indices", "expected either indices or search")
    if request.search:
        needle = request.search.lower()
        return [i for i, label in sorted(known.labels.items()) if needle in label.lower()]
    if len(request.indices) > _MAX_FEATURES:
        raise invalid("indices", f"at most {_MAX_FEATURES}, got {len(request.indices)}")
    d_sae = loaded.sae.cfg.d_sae
    for i, index in enumerate(request.indices):
        if index >= d_sae:
            raise invalid(f"indices[{i}]", f"feature {index} of {loaded.sae_id}, which has {d_sae}")
    return list(request.indices)


def _recorded(index: int, known: FeaturesFile, cfg: SAEConfig, examples: int) -> pb.FeatureInfo:
    message = pb.FeatureInfo(
        index=index,
        label=known.labels.get(index, ""),
        neuronpedia_url=feature_url(cfg, index) or "",
    )
    if known.density is not None:
        message.density = float(known.density[index])
    if known.max_activation is not None:
        message.max_activation = float(known.max_activation[index])
    for snippet in known.examples.get(index, ())[:examples]:
        message.examples.add(tokens=snippet.tokens, activations=snippet.activations)
    return message


def _neighbours(
    messages: Sequence[pb.FeatureInfo], rows: Tensor, sae: SAE, known: FeaturesFile, count: int
) -> None:
    every = sae.W_dec.float()
    norms = every.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    own = rows.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    cosines = (rows / own) @ every.T / norms
    for message, row in zip(messages, cosines, strict=True):
        row[message.index] = -torch.inf
        found = row.topk(min(count, len(row) - 1))
        for index, cosine in zip(found.indices.tolist(), found.values.tolist(), strict=True):
            message.neighbours.add(index=index, cosine=cosine, label=known.labels.get(index, ""))
