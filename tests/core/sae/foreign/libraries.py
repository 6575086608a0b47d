"""The libraries dictionary_learning and sparsify."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tests.core.sae.foreign.case import (
    D_IN,
    D_SAE,
    Case,
    Draw,
    K,
    relu,
    save_tensors,
    save_torch,
    top_k,
    write_json,
)
from torch import Tensor


def dictionary_learning(
    root: Path, *, kind: str = "AutoEncoder", d_in: int = D_IN, layer: int = 3, **trainer: Any
) -> Case:
    draw = Draw(5)
    parameters = kind in ("MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder")
    if parameters:
        W_enc, W_dec = draw("W_enc", d_in, D_SAE), draw("W_dec", D_SAE, d_in)
    else:
        W_enc = draw("encoder.weight", D_SAE, d_in).T
        W_dec = draw("decoder.weight", d_in, D_SAE).T
    b_dec = draw(
        {
            "AutoEncoder": "bias",
            "AutoEncoderNew": "decoder.bias",
            "GatedAutoEncoder": "decoder_bias",
        }.get(kind, "b_dec"),
        d_in,
    )
    if kind == "GatedAutoEncoder":
        gate, mag = draw("gate_bias", D_SAE), draw("mag_bias", D_SAE)
        r_mag = draw("r_mag", D_SAE)
    else:
        b_enc = draw("b_enc" if parameters else "encoder.bias", D_SAE)
    if kind == "JumpReluAutoEncoder":
        threshold = draw("threshold", D_SAE, positive=True)
    elif kind.endswith(("TopK", "TopKSAE")):
        draw.tensors["threshold"] = torch.tensor(0.3)
        draw.tensors["k"] = torch.tensor(K, dtype=torch.int)
    if kind == "MatryoshkaBatchTopKSAE":
        draw.tensors["group_sizes"] = torch.tensor([5, 15])

    def encode(x: Tensor) -> Tensor:
        if kind == "AutoEncoderNew":
            return relu(x @ W_enc + b_enc)
        if kind == "JumpReluAutoEncoder":
            p = x @ W_enc + b_enc
            return relu(p * (p > threshold))
        x = x - b_dec
        if kind == "GatedAutoEncoder":
            p = x @ W_enc
            return (p + gate > 0) * relu(r_mag.exp() * p + mag)
        acts = relu(x @ W_enc + b_enc)
        if kind == "AutoEncoder":
            return acts
        return top_k(acts, K) if kind == "AutoEncoderTopK" else acts * (acts > 0.3)

    path = root / f"resid_post_layer_{layer}" / "trainer_0"
    save_torch(draw.tensors, path / "ae.pt")
    write_json(
        path / "config.json",
        {
            "trainer": {
                "dict_class": kind,
                "trainer_class": "Trainer",
                "activation_dim": d_in,
                "dict_size": D_SAE,
                "layer": layer,
                "lm_name": "EleutherAI/pythia-70m-deduped",
                "submodule_name": f"resid_post_layer_{layer}",
                **({"k": K} if kind.endswith(("TopK", "TopKSAE")) else {}),
                **trainer,
            },
            "buffer": {"d_submodule": d_in, "io": "out", "ctx_len": 128},
        },
    )
    architecture = {"GatedAutoEncoder": "gated", "AutoEncoderTopK": "topk"}.get(
        kind, "standard" if kind.startswith("AutoEncoder") else "jumprelu"
    )
    return Case(
        path,
        path / "ae.pt",
        "W_enc" if parameters else "encoder.weight",
        encode,
        lambda a, _x: a @ W_dec + b_dec,
        {
            "architecture": architecture,
            "model_name": "pythia-70m-deduped",
            "hook_name": f"blocks.{layer}.hook_resid_post",
            "context_size": 128,
        },
    )


def sparsify(root: Path, *, module: str = "layers.5", d_in: int = D_IN, **options: Any) -> Case:
    draw = Draw(6)
    # As many features as inputs: a decoder that were transposed would fit all the same.
    square = bool(options.pop("square", False))
    d_sae = d_in if square else D_SAE
    W_enc, b_enc = draw("encoder.weight", d_sae, d_in).T, draw("encoder.bias", d_sae)
    W_dec, b_dec = draw("W_dec", d_sae, d_in), draw("b_dec", d_in)
    transcodes = options.get("transcode", False)
    W_skip = draw("W_skip", d_in, d_in) if options.get("skip_connection") else None
    path = root / "EleutherAI" / "sae-pythia" / module
    save_tensors(draw.tensors, path / "sae.safetensors")
    sizes = {"expansion_factor": 1} if square else {"expansion_factor": 32, "num_latents": d_sae}
    write_json(
        path / "cfg.json",
        {"d_in": d_in, "k": K, "normalize_decoder": True, **sizes, **options},
    )

    def encode(x: Tensor) -> Tensor:
        p = (x if transcodes else x - b_dec) @ W_enc + b_enc
        signed = options.get("signed", False)
        return top_k(p, K, signed=True) if signed else top_k(relu(p), K)

    def decode(acts: Tensor, x: Tensor) -> Tensor:
        y = acts @ W_dec + b_dec
        return y if W_skip is None else y + x @ W_skip.T

    return Case(
        path,
        path / "sae.safetensors",
        "encoder.weight",
        encode,
        decode,
        {"d_sae": d_sae, "k": K, "apply_b_dec_to_input": not transcodes},
    )
