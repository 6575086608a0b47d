"""What a work costs, as the scheduler sees it, and what its refusals mean to a caller."""

from saekit_core.lm.generation import Generation
from saekit_core.lm.model import LanguageModel
from saekit_server.engine.call import Call
from saekit_server.engine.work import DecodeWork, EncodeActivationsWork, ForwardWork, Work
from saekit_server.errors import DomainError, exhausted, invalid, unavailable
from saekit_server.scheduler import (
    AdmissionError,
    ForwardJob,
    Job,
    Limits,
    NeverFitsError,
    Priority,
    QuotaExceededError,
    SAEJob,
    SteerJob,
)

# Activations of one block that are alive at once, in widths of the residual stream: the stream
# itself, queries, keys, values, and an MLP of four times the width with its gate.
_LIVE_WIDTHS = 16
_FLOAT = 4
# Logits, their logarithms, and one more of the same while they are made.
_LOGIT_COPIES = 3
# A sparse entry (u32 and f32) of as many active features as a token usually has.
_SPARSE_BYTES = 8 * 128


def job_of(work: Work, job_id: int, call: Call, priority: Priority, model: LanguageModel) -> Job:
    """The scheduler's job of a work."""
    match work:
        case ForwardWork():
            run = work.run
            per_token = _LIVE_WIDTHS * model.d_model * model.dtype.itemsize
            per_token += _SPARSE_BYTES * len(work.reads)
            if run is not None and run.every_logit:
                per_token += _LOGIT_COPIES * _FLOAT * model.d_vocab
            return ForwardJob(
                id=job_id,
                caller=call.caller,
                priority=priority,
                deadline=call.deadline,
                tokens=len(work.tokenized.ids),
                rows=1 if run is None else run.rows,
                bytes_per_token=per_token,
                group=_path(work, model),
            )
        case EncodeActivationsWork():
            operation, rows, size = "encode", len(work.x), work.x.nbytes
        case DecodeWork():
            rows = work.acts.shape[0]
            operation, size = "decode", _FLOAT * rows * work.loaded.sae.cfg.d_out
    return SAEJob(
        id=job_id,
        caller=call.caller,
        priority=priority,
        deadline=call.deadline,
        rows=rows,
        bytes=2 * size,
        group=(operation, work.loaded.sae_id, work.loaded.revision),
    )


def steer_job(
    generation: Generation, job_id: int, call: Call, priority: Priority, model: LanguageModel
) -> SteerJob:
    """The scheduler's job of one generation."""
    return SteerJob(
        id=job_id,
        caller=call.caller,
        priority=priority,
        deadline=call.deadline,
        tokens=generation.n_prompt,
        bytes_per_token=_LIVE_WIDTHS * model.d_model * model.dtype.itemsize,
    )


def _path(work: ForwardWork, model: LanguageModel) -> bool:
    """Whether the plain modules can answer: one row that needs the bridge slows all others."""
    hooks = {read.loaded.bound.hook for read in work.reads}
    if work.run is not None:
        hooks |= {*work.run.activations, *work.run.ablated_hooks}
    return all(model.runs_plain(hook) for hook in hooks)


def admission_error(error: AdmissionError, limits: Limits) -> DomainError:
    """What a refusal of the scheduler means to the caller."""
    # Where a caller may fill the whole queue it has no quota of its own, and another server may
    # have room.
    no_quota = {limits.max_queued_jobs, limits.max_queued_tokens}
    match error:
        case NeverFitsError():
            return invalid(None, f"{error}; this server can never hold it")
        case QuotaExceededError() if error.allowed not in no_quota:
            return exhausted(str(error), retry_after_s=error.retry_after_s)
        case _:
            return unavailable(str(error), retry_after_s=error.retry_after_s or 1.0)
