"""What a run's logits are asked for: themselves, losses, and a comparison with the clean run."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saekit_core.lm.predictions import kl_divergences
from saekit_server.engine.work import Comparison, Logits, RunOutput, RunSpec

Ids = npt.NDArray[np.int64]


def run_output(
    spec: RunSpec,
    ids: Ids,
    logits: Tensor,
    clean: Tensor | None = None,
    ablated: Tensor | None = None,
) -> RunOutput:
    """The numbers that were asked for.

    Args:
        spec: what was asked for.
        ids: [n] tokens of the input.
        logits: float32 [n or 1, d_vocab] of the run; all positions, or the last.
        clean: the same of its clean twin, if it has one.
        ablated: the same of its ablated twin, if it has one.
    """
    output = RunOutput()
    logprobs = torch.log_softmax(logits, dim=-1)
    if spec.logits is not Logits.NONE:
        start = len(logits) - 1 if spec.logits is Logits.LAST else 0
        _fill_logits(output, spec, logits[start:], logprobs[start:])
    if not spec.every_logit:
        return output
    next_logprobs = _next_logprobs(logprobs, ids)
    if spec.loss:
        output.loss = _loss(next_logprobs)
    if spec.token_logprobs:
        output.token_logprobs = next_logprobs.cpu().numpy()
    if clean is not None:
        clean_logprobs = torch.log_softmax(clean, dim=-1)
        output.comparison = Comparison(
            kl=float(kl_divergences(clean_logprobs, logprobs).double().mean()),
            clean_loss=_loss(_next_logprobs(clean_logprobs, ids)),
            loss=_loss(next_logprobs),
            ablated_loss=None
            if ablated is None
            else _loss(_next_logprobs(torch.log_softmax(ablated, dim=-1), ids)),
        )
    return output


def _fill_logits(output: RunOutput, spec: RunSpec, logits: Tensor, logprobs: Tensor) -> None:
    if spec.top_k_logits is None:
        output.logits = logits.cpu().numpy()
        return
    top = logits.topk(spec.top_k_logits, dim=-1)
    output.top_ids = top.indices.cpu().numpy()
    output.top_logits = top.values.cpu().numpy()
    output.top_logprobs = logprobs.gather(-1, top.indices).cpu().numpy()


def _next_logprobs(logprobs: Tensor, ids: Ids) -> Tensor:
    """[n - 1]: log-probability of each token but the first."""
    following = torch.from_numpy(ids[1:]).to(logprobs.device)
    return logprobs[:-1].gather(-1, following[:, None])[:, 0]


def _loss(next_logprobs: Tensor) -> float | None:
    """Mean cross-entropy, nats per token; None where nothing is predicted."""
    return -float(next_logprobs.double().mean()) if len(next_logprobs) else None
