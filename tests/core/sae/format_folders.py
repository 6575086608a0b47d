"""An SAE in each foreign format, with its formula as the format's own library has it.

Every writer draws tensors by the names and in the shapes of that format, writes the files, and
returns what they encode and decode to, computed in float64 from those very tensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from saekit_core.sae import Origin

D_IN, D_SAE, D_OUT, K = 8, 20, 6, 4

Function = Callable[[Tensor], Tensor]


@dataclass
class Case:
    """A written SAE."""

    path: Path
    """What to load: a folder, or a file."""
    weights: Path
    """The file of tensors."""
    key: str
    """A matrix in it, by its name there."""
    encode: Function
    """x ``[N, d_in]`` float64 → feature activations."""
    decode: Callable[[Tensor, Tensor], Tensor]
    """(feature activations, x) → reconstruction, both float64."""
    config: Mapping[str, Any]
    """Some of what the configuration must say."""
    origin: Origin | None = None
    format: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


class Draw:
    """Random tensors, each drawn once by name."""

    def __init__(self, seed: int, dtype: torch.dtype = torch.float32) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._dtype = dtype
        self.tensors: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int, positive: bool = False) -> Tensor:
        drawn = torch.randn(*shape, generator=self._generator) * 0.5
        drawn = (drawn.abs() if positive else drawn).to(self._dtype)
        self.tensors[name] = drawn
        return drawn.double()


def relu(p: Tensor) -> Tensor:
    return p.clamp(min=0)


def jump(p: Tensor, threshold: Tensor | float) -> Tensor:
    return relu(p) * (p > threshold)


def top_k(p: Tensor, k: int, *, signed: bool = False) -> Tensor:
    rank = p.abs() if signed else p
    kth = rank.sort(dim=1, descending=True).values[:, k - 1 : k]
    return torch.where(rank >= kth, p if signed else relu(p), 0.0)


def write_json(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def save_torch(values: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(values), path)


def save_npz(values: Mapping[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: tensor.numpy() for name, tensor in values.items()})


def save_tensors(values: Mapping[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in values.items()}, path)


def gemma_scope(root: Path, *, site: str = "res", names: str = "W", seed: int = 0) -> Case:
    draw = Draw(seed)
    W_enc = draw(f"{names}_enc", D_IN, D_SAE)
    W_dec = draw(f"{names}_dec", D_SAE, D_IN)
    b_enc, b_dec = draw("b_enc", D_SAE), draw("b_dec", D_IN)
    threshold = draw("threshold", D_SAE, positive=True)
    embedding = site == "embedding"
    repo = f"gemma-scope-2b-pt-{'res' if embedding else site}"
    where = "embedding" if embedding else "layer_12"
    path = root / repo / where / "width_16k" / "average_l0_71"
    save_npz(draw.tensors, path / "params.npz")
    scale = math.sqrt(D_IN) if embedding else 1.0
    hook = {
        "res": "blocks.12.hook_resid_post",
        "mlp": "blocks.12.hook_mlp_out",
        "att": "blocks.12.attn.hook_z",
        "embedding": "hook_embed",
    }[site]
    return Case(
        path,
        path / "params.npz",
        f"{names}_enc",
        lambda x: jump(x / scale @ W_enc + b_enc, threshold),
        lambda a, _x: (a @ W_dec + b_dec) * scale,
        {
            "architecture": "jumprelu",
            "model_name": "gemma-2-2b",
            "hook_name": hook,
            "context_size": 1024,
            "reshape_activations": "hook_z" if site == "att" else "none",
        },
    )


def gemma_scope_transcoder(root: Path) -> Case:
    draw = Draw(1)
    W_enc, W_dec = draw("W_enc", D_IN, D_SAE), draw("W_dec", D_SAE, D_IN)
    b_enc, b_dec = draw("b_enc", D_SAE), draw("b_dec", D_IN)
    threshold = draw("threshold", D_SAE, positive=True)
    path = root / "gemma-scope-2b-pt-transcoders" / "layer_3" / "width_16k" / "average_l0_76"
    save_npz(draw.tensors, path / "params.npz")
    return Case(
        path,
        path / "params.npz",
        "W_dec",
        lambda x: jump(x @ W_enc + b_enc, threshold),
        lambda a, _x: a @ W_dec + b_dec,
        {
            "architecture": "jumprelu_transcoder",
            "hook_name": "blocks.3.ln2.hook_normalized",
            "hook_name_out": "blocks.3.hook_mlp_out",
            "model_name": "gemma-2-2b",
        },
    )


def gemma_scope_2(root: Path, *, site: str = "resid_post", config: bool = True) -> Case:
    draw = Draw(2)
    transcodes, affine = site.startswith("transcoder"), site.endswith("affine")
    d_out = D_OUT if transcodes else D_IN
    W_enc, W_dec = draw("w_enc", D_IN, D_SAE), draw("w_dec", D_SAE, d_out)
    b_enc, b_dec = draw("b_enc", D_SAE), draw("b_dec", d_out)
    threshold = draw("threshold", D_SAE, positive=True)
    skip = draw("affine_skip_connection", D_IN, d_out) if affine else None
    hf = {
        "resid_post": ("model.layers.7.output", "blocks.7.hook_resid_post"),
        "attn_out": ("model.layers.7.self_attn.o_proj.input", "blocks.7.attn.hook_z"),
        "mlp_out": (
            "model.layers.7.post_feedforward_layernorm.output",
            "blocks.7.hook_mlp_out",
        ),
    }.get(site, ("model.layers.7.pre_feedforward_layernorm.output", "blocks.7.mlp.hook_in"))
    folder = f"layer_7_width_16k_l0_big{'_affine' if affine else ''}"
    path = root / "gemma-scope-2-4b-pt" / site.removesuffix("_affine") / folder
    save_tensors(draw.tensors, path / "params.safetensors")
    values: dict[str, Any] = {
        "architecture": "jump_relu",
        "model_name": "google/gemma-v3-4b-pt",
        "hf_hook_point_in": hf[0],
        "l0": 60,
        "width": D_SAE,
    }
    if transcodes:
        values["hf_hook_point_out"] = "model.layers.7.post_feedforward_layernorm.output"
        values["affine_connection"] = affine
    if config:
        write_json(path / "config.json", values)

    def decode(acts: Tensor, x: Tensor) -> Tensor:
        y = acts @ W_dec + b_dec
        return y if skip is None else y + x @ skip

    kind = "jumprelu"
    if transcodes:
        kind = "jumprelu_skip_transcoder" if affine else "jumprelu_transcoder"
    return Case(
        path,
        path / "params.safetensors",
        "w_enc",
        lambda x: jump(x @ W_enc + b_enc, threshold),
        decode,
        {
            "architecture": kind,
            "model_name": "google/gemma-3-4b-pt",
            "hook_name": hf[1],
            "hook_name_out": "blocks.7.hook_mlp_out" if transcodes else None,
            "d_out": d_out,
        },
    )


def llama_scope(
    root: Path, *, transcodes: bool = False, norms: bool = True, dtype: torch.dtype = torch.float32
) -> Case:
    draw = Draw(3, dtype)
    d_out = D_OUT if transcodes else D_IN
    W_enc = draw("encoder.weight", D_SAE, D_IN).T
    W_dec = draw("decoder.weight", d_out, D_SAE).T
    b_enc, b_dec = draw("encoder.bias", D_SAE), draw("decoder.bias", d_out)
    path = root / "Llama3_1-8B-Base-L8R-8x"
    save_tensors(draw.tensors, path / "checkpoints" / "final.safetensors")
    hook = "blocks.8.ln2.hook_normalized" if transcodes else "blocks.8.hook_resid_post"
    average_in, average_out = 1.5, 0.4 if transcodes else 1.5
    threshold = 0.25
    write_json(
        path / "hyperparams.json",
        {
            "d_model": D_IN,
            "d_sae": D_SAE,
            "act_fn": "jumprelu",
            "jump_relu_threshold": threshold,
            "norm_activation": "dataset-wise",
            "dataset_average_activation_norm": {"in": average_in, "out": average_out},
            "hook_point_in": hook,
            "hook_point_out": "blocks.8.hook_mlp_out" if transcodes else hook,
            "use_decoder_bias": True,
            "apply_decoder_bias_to_pre_encoder": False,
            "top_k": 50,
            **({"sparsity_include_decoder_norm": True} if norms else {}),
        },
    )
    s_in, s_out = math.sqrt(D_IN) / average_in, math.sqrt(D_IN) / average_out

    def encode(x: Tensor) -> Tensor:
        # lm-saes: scale to the raw activations, bring decoder rows to unit norm, then compare.
        p = (x * s_in) @ W_enc + b_enc
        raw = p / s_in
        if norms:
            raw = raw * (W_dec * s_in / s_out).norm(dim=1)
        return relu(p) * (raw > threshold)

    return Case(
        path,
        path / "checkpoints" / "final.safetensors",
        "encoder.weight",
        encode,
        lambda a, _x: (a @ W_dec + b_dec) / s_out,
        {
            "architecture": "jumprelu_transcoder" if transcodes else "jumprelu",
            "model_name": "meta-llama/Llama-3.1-8B",
            "hook_name": hook,
            "normalize_activations": "none",
        },
    )


def llama_scope_r1_distill(root: Path, *, recorded: bool = True, norms: bool = True) -> Case:
    draw = Draw(4)
    W_enc = draw("encoder.weight", 2 * D_IN, D_IN).T
    W_dec = draw("decoder.weight", D_IN, 2 * D_IN).T
    b_enc, b_dec = draw("encoder.bias", 2 * D_IN), draw("decoder.bias", D_IN)
    log_threshold = draw("log_jumprelu_threshold", 2 * D_IN)
    hook, average = "blocks.15.hook_resid_post", 2.0
    if recorded:
        draw.tensors[f"dataset_average_activation_norm.{hook}"] = torch.tensor(average)
    path = root / "Llama-Scope-R1-Distill" / "L15R"
    save_tensors(draw.tensors, path / "sae_weights.safetensors")
    write_json(
        path / "config.json",
        {
            "d_model": D_IN,
            "expansion_factor": 2,
            "act_fn": "jumprelu",
            "norm_activation": "dataset-wise",
            "hook_point_in": hook,
            "hook_point_out": hook,
            "sparsity_include_decoder_norm": norms,
        },
    )
    s = math.sqrt(D_IN) / average

    def encode(x: Tensor) -> Tensor:
        p = (x * s) @ W_enc + b_enc
        score = p * W_dec.norm(dim=1) if norms else p
        return relu(p) * (score > log_threshold.exp())

    return Case(
        path,
        path / "sae_weights.safetensors",
        "encoder.weight",
        encode,
        lambda a, _x: (a @ W_dec + b_dec) / s,
        {"architecture": "jumprelu", "hook_name": hook, "normalize_activations": "none"},
        origin=None if recorded else Origin(norm_scaling_factor=s),
    )


def dictionary_learning(root: Path, *, kind: str = "AutoEncoder", **trainer: Any) -> Case:
    draw = Draw(5)
    parameters = kind in ("MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder")
    if parameters:
        W_enc, W_dec = draw("W_enc", D_IN, D_SAE), draw("W_dec", D_SAE, D_IN)
    else:
        W_enc = draw("encoder.weight", D_SAE, D_IN).T
        W_dec = draw("decoder.weight", D_IN, D_SAE).T
    b_dec = draw(
        {
            "AutoEncoder": "bias",
            "AutoEncoderNew": "decoder.bias",
            "GatedAutoEncoder": "decoder_bias",
        }.get(kind, "b_dec"),
        D_IN,
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

    path = root / "resid_post_layer_3" / "trainer_0"
    save_torch(draw.tensors, path / "ae.pt")
    write_json(
        path / "config.json",
        {
            "trainer": {
                "dict_class": kind,
                "trainer_class": "Trainer",
                "activation_dim": D_IN,
                "dict_size": D_SAE,
                "layer": 3,
                "lm_name": "EleutherAI/pythia-70m-deduped",
                "submodule_name": "resid_post_layer_3",
                **({"k": K} if kind.endswith(("TopK", "TopKSAE")) else {}),
                **trainer,
            },
            "buffer": {"d_submodule": D_IN, "io": "out", "ctx_len": 128},
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
            "hook_name": "blocks.3.hook_resid_post",
            "context_size": 128,
        },
    )


def sparsify(root: Path, *, module: str = "layers.5", **options: Any) -> Case:
    draw = Draw(6)
    # As many features as inputs: a decoder that were transposed would fit all the same.
    square = bool(options.pop("square", False))
    d_sae = D_IN if square else D_SAE
    W_enc, b_enc = draw("encoder.weight", d_sae, D_IN).T, draw("encoder.bias", d_sae)
    W_dec, b_dec = draw("W_dec", d_sae, D_IN), draw("b_dec", D_IN)
    transcodes = options.get("transcode", False)
    W_skip = draw("W_skip", D_IN, D_IN) if options.get("skip_connection") else None
    path = root / "EleutherAI" / "sae-pythia" / module
    save_tensors(draw.tensors, path / "sae.safetensors")
    sizes = {"expansion_factor": 1} if square else {"expansion_factor": 32, "num_latents": d_sae}
    write_json(
        path / "cfg.json",
        {"d_in": D_IN, "k": K, "normalize_decoder": True, **sizes, **options},
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


def openai(root: Path, *, activation: str = "TopK") -> Case:
    draw = Draw(7)
    W_enc, W_dec = draw("encoder.weight", D_SAE, D_IN).T, draw("decoder.weight", D_IN, D_SAE).T
    pre, latent = draw("pre_bias", D_IN), draw("latent_bias", D_SAE)
    normalize = activation == "TopK"
    values: dict[str, Any] = {
        **draw.tensors,
        "stats_last_nonzero": torch.zeros(D_SAE, dtype=torch.long),
        "activation": activation,
        "activation_state_dict": {"k": K, "postact_fn": "ReLU"} if normalize else {},
    }
    version = "_v5_32k" if normalize else "_v4"
    file = root / f"resid_delta_mlp{version}" / "autoencoders" / "8.pt"
    save_torch(values, file)

    def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
        mean = x.mean(dim=1, keepdim=True)
        return mean, (x - mean).std(dim=1, keepdim=True)

    def encode(x: Tensor) -> Tensor:
        if not normalize:
            return relu((x - pre) @ W_enc + latent)
        mean, std = statistics(x)
        return top_k(((x - mean) / (std + 1e-5) - pre) @ W_enc + latent, K)

    def decode(acts: Tensor, x: Tensor) -> Tensor:
        y = acts @ W_dec + pre
        if not normalize:
            return y
        mean, std = statistics(x)
        return y * std + mean

    return Case(
        file,
        file,
        "encoder.weight",
        encode,
        decode,
        {
            "architecture": "topk" if normalize else "standard",
            "model_name": "gpt2-small",
            "hook_name": "blocks.8.hook_mlp_out",
            "prepend_bos": None,
        },
    )


def goodfire(root: Path) -> Case:
    draw = Draw(8)
    W_enc = draw("encoder_linear.weight", D_SAE, D_IN).T
    W_dec = draw("decoder_linear.weight", D_IN, D_SAE).T
    b_enc, b_dec = draw("encoder_linear.bias", D_SAE), draw("decoder_linear.bias", D_IN)
    file = root / "Goodfire" / "Llama-3.1-8B-Instruct-SAE-l19.pth"
    save_torch(draw.tensors, file)
    return Case(
        file,
        file,
        "decoder_linear.weight",
        lambda x: relu(x @ W_enc + b_enc),
        lambda a, _x: a @ W_dec + b_dec,
        {
            "model_name": "meta-llama/Llama-3.1-8B-Instruct",
            "hook_name": "blocks.19.hook_resid_post",
            "dtype": "float32",
        },
    )


def deepseek_r1(root: Path, *, dtype: torch.dtype = torch.float32) -> Case:
    draw = Draw(9, dtype)
    W_enc, W_dec = draw("encoder.weight", D_SAE, D_IN).T, draw("decoder.weight", D_IN, D_SAE).T
    b_enc, b_dec = draw("encoder.bias", D_SAE), draw("decoder.bias", D_IN)
    file = root / "qresearch" / "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt"
    save_torch(draw.tensors, file)
    return Case(
        file,
        file,
        "decoder.weight",
        lambda x: relu(x @ W_enc + b_enc),
        lambda a, _x: a @ W_dec + b_dec,
        {
            "model_name": "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
            "hook_name": "blocks.19.hook_resid_post",
            "dtype": str(dtype).removeprefix("torch."),
            "context_size": 1024,
        },
    )


def qwen_scope(root: Path) -> Case:
    draw = Draw(10)
    W_enc, W_dec = draw("W_enc", D_SAE, D_IN).T, draw("W_dec", D_IN, D_SAE).T
    b_enc, b_dec = draw("b_enc", D_SAE), draw("b_dec", D_IN)
    file = root / f"SAE-Res-Qwen3-1.7B-Base-W32K-L0_{K}" / "layer21.sae.pt"
    save_torch(draw.tensors, file)
    return Case(
        file,
        file,
        "W_dec",
        lambda x: top_k(x @ W_enc + b_enc, K),
        lambda a, _x: a @ W_dec + b_dec,
        {
            "architecture": "topk",
            "k": K,
            "model_name": "Qwen/Qwen3-1.7B-Base",
            "hook_name": "blocks.21.hook_resid_post",
            "apply_b_dec_to_input": False,
        },
    )


def connor_rob_hook_z(root: Path) -> Case:
    draw = Draw(11)
    W_enc, W_dec = draw("W_enc", D_IN, D_SAE), draw("W_dec", D_SAE, D_IN)
    b_enc, b_dec = draw("b_enc", D_SAE), draw("b_dec", D_IN)
    file = root / "gpt2-small_L5_Hcat_z_lr1.20e-03_l11.80e+00_v9.pt"
    save_torch(draw.tensors, file)
    write_json(
        root / "gpt2-small_L5_Hcat_z_lr1.20e-03_l11.80e+00_v9_cfg.json",
        {"act_name": "blocks.5.attn.hook_z", "act_size": D_IN, "dict_size": D_SAE, "seed": 49},
    )
    return Case(
        file,
        file,
        "W_enc",
        lambda x: relu((x - b_dec) @ W_enc + b_enc),
        lambda a, _x: a @ W_dec + b_dec,
        {
            "model_name": "gpt2-small",
            "hook_name": "blocks.5.attn.hook_z",
            "reshape_activations": "hook_z",
            "context_size": 128,
        },
    )


def circuit_tracer(root: Path, *, kind: str = "relu", skip: bool = False) -> Case:
    draw = Draw(12)
    W_enc, W_dec = draw("W_enc", D_SAE, D_IN).T, draw("W_dec", D_SAE, D_IN)
    b_enc, b_dec = draw("b_enc", D_SAE), draw("b_dec", D_IN)
    W_skip = draw("W_skip", D_IN, D_IN) if skip else None
    if kind == "jump_relu":
        threshold = draw("activation_function.threshold", D_SAE, positive=True)
    folder = root / "qwen3-4b-transcoders"
    file = folder / "layer_9.safetensors"
    save_tensors(draw.tensors, file)
    save_tensors(draw.tensors, folder / "layer_10.safetensors")
    (folder / "config.yaml").write_text(
        "model_name: Qwen/Qwen3-4B\nmodel_kind: transcoder_set\n"
        "feature_input_hook: mlp.hook_in\nfeature_output_hook: mlp.hook_out\n"
        + (f"activation: topk\nk: {K}\n" if kind == "topk" else "")
    )
    (folder / "wanb-config.yaml").write_text("batch_size:\n  desc: null\n  value: 4096\n")

    def encode(x: Tensor) -> Tensor:
        p = x @ W_enc + b_enc
        if kind == "topk":
            return top_k(p, K)
        return jump(p, threshold) if kind == "jump_relu" else relu(p)

    def decode(acts: Tensor, x: Tensor) -> Tensor:
        y = acts @ W_dec + b_dec
        return y if W_skip is None else y + x @ W_skip.T

    prefix = {"relu": "", "jump_relu": "jumprelu_", "topk": "topk_"}[kind]
    return Case(
        file,
        file,
        "W_enc",
        encode,
        decode,
        {
            "architecture": f"{prefix}{'skip_' if skip else ''}transcoder",
            "model_name": "Qwen/Qwen3-4B",
            "hook_name": "blocks.9.mlp.hook_in",
            "hook_name_out": "blocks.9.mlp.hook_out",
            "context_size": 4096,
        },
    )


def circuit_tracer_clt_layer(root: Path, *, jump_relu: bool = False) -> Case:
    draw = Draw(13)
    W_enc, b_enc = draw("W_enc_2", D_SAE, D_IN).T, draw("b_enc_2", D_SAE)
    b_dec = draw("b_dec_2", D_IN)
    threshold = draw("threshold_2", D_SAE, positive=True) if jump_relu else 0.0
    folder = root / "clt-gemma-2-2b-2.5M"
    save_tensors(draw.tensors, folder / "W_enc_2.safetensors")
    decoder = Draw(14)
    W_dec = decoder("W_dec_2", D_SAE, 3, D_IN)
    save_tensors(decoder.tensors, folder / "W_dec_2.safetensors")
    (folder / "config.yaml").write_text(
        "model_name: google/gemma-2-2b\nmodel_kind: cross_layer_transcoder\n"
        "feature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\n"
    )
    return Case(
        folder / "W_enc_2.safetensors",
        folder / "W_enc_2.safetensors",
        "W_enc_2",
        lambda x: jump(x @ W_enc + b_enc, threshold),
        lambda a, _x: a @ W_dec.sum(dim=1) + b_dec,
        {
            "architecture": "jumprelu_transcoder" if jump_relu else "transcoder",
            "model_name": "google/gemma-2-2b",
            "hook_name": "blocks.2.hook_resid_mid",
            "hook_name_out": "blocks.2.hook_mlp_out",
        },
    )
