"""sae-lens, in its own environment: answers ``benchmarks.peer`` line by line.

The first line has the job; each that follows names a way to encode all its rows. It answers
``tokens N`` when they are encoded.
"""

import json
import sys

import torch
from sae_lens import SAE, HookedSAETransformer
from transformer_lens import HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
from transformers import AutoModelForCausalLM

BATCH = 32


def load_model(folder):
    """The Hugging Face weights of a folder, which `from_pretrained` would not take."""
    hf = AutoModelForCausalLM.from_pretrained(folder)
    c = hf.config
    cfg = HookedTransformerConfig(
        n_layers=c.n_layer,
        d_model=c.n_embd,
        n_ctx=c.n_positions,
        d_head=c.n_embd // c.n_head,
        n_heads=c.n_head,
        d_vocab=c.vocab_size,
        act_fn="gelu_new",
        normalization_type="LN",
        eps=c.layer_norm_epsilon,
    )
    model = HookedSAETransformer(cfg)
    model.load_state_dict(convert_gpt2_weights(hf, cfg), strict=False)
    return model


def padded(rows):
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids


def batches(rows):
    return [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]


def documented(model, sae, rows):
    """`run_with_cache_with_saes`, padded batches in the order of arrival.

    Only the features are cached: everything, as it does by default, takes tens of gigabytes.
    """
    features = f"{sae.cfg.metadata.hook_name}.hook_sae_acts_post"
    for batch in batches(rows):
        _, cache = model.run_with_cache_with_saes(padded(batch), saes=[sae], names_filter=features)
        cache[features]


def best(model, sae, rows):
    """`run_with_cache` to the hook point, length-sorted, then `sae.encode`."""
    hook = sae.cfg.metadata.hook_name
    layer = int(hook.split(".")[1])
    for batch in batches(sorted(rows, key=len)):
        _, cache = model.run_with_cache(padded(batch), names_filter=hook, stop_at_layer=layer + 1)
        sae.encode(cache[hook])


def main():
    job = json.loads(sys.stdin.readline())
    torch.set_num_threads(job["threads"])
    torch.set_grad_enabled(False)
    model = load_model(job["model"])
    sae = SAE.load_from_disk(job["sae"])
    rows = job["rows"]
    print("tokens 0", flush=True)
    ways = {"documented": documented, "best": best}
    for line in sys.stdin:
        ways[json.loads(line)](model, sae, rows)
        print("tokens", sum(map(len, rows)), flush=True)


if __name__ == "__main__":
    main()
