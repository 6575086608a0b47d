"""An SAE in each foreign format, with its formula as the format's own library has it.

Every writer draws tensors by the names and in the shapes of that format, writes the files, and
returns what they encode and decode to, computed in float64 from those very tensors.
"""

from tests.core.sae.foreign.case import (
    D_IN,
    D_SAE,
    Case,
    K,
    save_npz,
    save_tensors,
    save_torch,
    write_json,
)
from tests.core.sae.foreign.circuit_tracer import circuit_tracer, circuit_tracer_clt_layer
from tests.core.sae.foreign.libraries import dictionary_learning, sparsify
from tests.core.sae.foreign.scopes import (
    gemma_scope,
    gemma_scope_2,
    gemma_scope_transcoder,
    llama_scope,
    llama_scope_r1_distill,
)
from tests.core.sae.foreign.temporal import temporal
from tests.core.sae.foreign.torch_files import (
    connor_rob_hook_z,
    deepseek_r1,
    goodfire,
    openai,
    qwen_scope,
)

__all__ = [
    "D_IN",
    "D_SAE",
    "Case",
    "K",
    "circuit_tracer",
    "circuit_tracer_clt_layer",
    "connor_rob_hook_z",
    "deepseek_r1",
    "dictionary_learning",
    "gemma_scope",
    "gemma_scope_2",
    "gemma_scope_transcoder",
    "goodfire",
    "llama_scope",
    "llama_scope_r1_distill",
    "openai",
    "qwen_scope",
    "save_npz",
    "save_tensors",
    "save_torch",
    "sparsify",
    "temporal",
    "write_json",
]
