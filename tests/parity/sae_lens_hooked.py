"""The peer's side of ``hooked``: `HookedSAETransformer` of sae-lens on the same weights.

``python sae_lens_hooked.py FOLDER`` reads ``cases.json``, ``models/`` (Hugging Face folders) and
``saes/``, and writes ``answers/CASE.safetensors`` and ``differences.json``.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE, HookedSAETransformer
from safetensors.torch import save_file
from transformer_lens import HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import (
    convert_gpt2_weights,
    convert_llama_weights,
)
from transformers import AutoModelForCausalLM

STEPS = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")


@cache
def load_model(folder: Path, processed: bool) -> HookedSAETransformer:
    """A local folder as a HookedTransformer; `from_pretrained` there takes none."""
    hf = AutoModelForCausalLM.from_pretrained(folder)
    c = hf.config
    if c.model_type == "gpt2":
        cfg = HookedTransformerConfig(
            n_layers=c.n_layer,
            d_model=c.n_embd,
            d_head=c.n_embd // c.n_head,
            n_heads=c.n_head,
            n_ctx=c.n_positions,
            d_vocab=c.vocab_size,
            act_fn=c.activation_function,
            eps=c.layer_norm_epsilon,
            normalization_type="LN",
            device="cpu",
        )
        state = convert_gpt2_weights(hf, cfg)
    else:
        d_head = c.hidden_size // c.num_attention_heads
        cfg = HookedTransformerConfig(
            n_layers=c.num_hidden_layers,
            d_model=c.hidden_size,
            d_head=d_head,
            n_heads=c.num_attention_heads,
            n_key_value_heads=c.num_key_value_heads,
            d_mlp=c.intermediate_size,
            n_ctx=c.max_position_embeddings,
            d_vocab=c.vocab_size,
            act_fn=c.hidden_act,
            eps=c.rms_norm_eps,
            normalization_type="RMS",
            final_rms=True,
            gated_mlp=True,
            positional_embedding_type="rotary",
            rotary_dim=d_head,
            rotary_base=int(c.rope_parameters["rope_theta"]),
            rotary_adjacent_pairs=False,
            device="cpu",
        )
        state = convert_llama_weights(hf, cfg)
    model = HookedSAETransformer(cfg)
    model.load_and_process_state_dict(state, **dict.fromkeys(STEPS, processed))
    return model.eval()


def answer(case: dict[str, Any], tokens: torch.Tensor, folder: Path) -> dict[str, torch.Tensor]:
    """Logits, and everything cached that the case asks for."""
    model = load_model(folder / "models" / case["model"], case["processed"])
    saes = [SAE.load_from_disk(folder / "saes" / name) for name in case["saes"]]
    options = {
        "saes": saes,
        "use_error_term": case["use_error_term"],
        "exclude_special_tokens": case["exclude_special_tokens"] or False,
    }
    if case["ablate"] is not None:
        hook_name, feature = case["ablate"]

        def ablate(acts: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001
            acts[..., feature] = 0
            return acts

        with model.saes(saes, use_error_term=case["use_error_term"]):
            return {"logits": model.run_with_hooks(tokens, fwd_hooks=[(hook_name, ablate)])}
    logits = model.run_with_saes(tokens, **options)
    cached_logits, cache_ = model.run_with_cache_with_saes(tokens, **options)
    assert torch.equal(logits, cached_logits)
    kept = {name: cache_[name] for name in cache_ if ".hook_sae_" in name}
    return {"logits": logits, **kept, **{name: cache_[name] for name in case["also"]}}


def differences(folder: Path) -> dict[str, str]:
    """What it does where saekit does something else."""
    model = load_model(folder / "models" / "gpt2", False)
    tokens = torch.tensor([[0, 5, 6]])
    sae = SAE.load_from_disk(folder / "saes" / "gpt2.resid")
    fired = []
    point = model.hook_dict["blocks.1.hook_resid_pre"]
    point.add_hook(lambda _, hook: fired.append(hook.name), is_permanent=True)
    model.add_sae(sae)
    model.reset_saes()
    model(tokens)
    _, cached = model.run_with_cache_with_saes(tokens, saes=[sae])
    cached_at = str("blocks.1.hook_resid_pre" in cached)
    sae.cfg.metadata.hook_name = "blocks.1.hook_nowhere"
    model.add_sae(sae)
    return {
        "own_hooks": str(len(fired)),
        "cached_at": cached_at,
        "missing_hook_point": str(len(model.acts_to_saes)),
    }


def main() -> None:
    folder = Path(sys.argv[1])
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_grad_enabled(False)
    cases = json.loads((folder / "cases.json").read_text())
    tokens = torch.tensor(cases["tokens"])
    (folder / "answers").mkdir(exist_ok=True)
    for name, case in cases["cases"].items():
        answers = answer(case, tokens, folder)
        contiguous = {key: tensor.contiguous().clone() for key, tensor in answers.items()}
        save_file(contiguous, folder / "answers" / f"{name}.safetensors")
    (folder / "differences.json").write_text(json.dumps(differences(folder)))


if __name__ == "__main__":
    main()
