"""The figures of a run as Prometheus scrapes them."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from saekit_trainer.errors import ConfigError
from saekit_trainer.evaluation import Evaluation
from saekit_trainer.plan import SAEPlan
from saekit_trainer.results import RunObserver, RunStatus

_PREFIX: Final = "saekit_trainer_"
_HELP: Final = {
    "loss": "Loss of the last training batch.",
    "loss_term": "Terms that it is the sum of, weights included.",
    "l0": "Active features per token, of the last training batch.",
    "explained_variance_ratio": "Explained variance of the last training batch, 1 at best.",
    "dead_features": "Features that have not fired for dead_feature_window steps.",
    "learning_rate": "Learning rate of the last step.",
}


def check_port(host: str, port: int) -> None:
    """See whether the address can be listened on.

    Raises:
        ConfigError: it cannot.
    """
    try:
        # As the HTTP server will: connections of an earlier run that are being closed do not count.
        socket.create_server((host, port)).close()
    except OSError as error:
        raise _refusal(host, port, error) from None


class PrometheusLog(RunObserver):
    """Serves ``/metrics`` from the first step of a run to its end."""

    def __init__(self, host: str, port: int, plans: Mapping[str, SAEPlan]) -> None:
        self._listening = False
        self._address = (host, port)
        # A label without a value would be none.
        self._labels = {name: name or plan.label for name, plan in plans.items()}
        self._registry = CollectorRegistry()
        self._gauges: dict[str, Gauge] = {}
        for name, text in _HELP.items():
            labels = ["sae", "term"] if name == "loss_term" else ["sae"]
            self._gauges[name] = self._gauge(name, text, labels)
        self._tokens = self._counter("tokens", "Activations that this process has trained on.")
        self._steps = self._counter("steps", "Training steps of this process.")
        self._progress = self._gauge("progress_ratio", "Share of the run's steps that is done.")
        self._rate = self._gauge("tokens_per_second", "Activations trained on per second.")
        self._left = self._gauge("remaining_seconds", "Estimated time to the last step.")
        self._last_step = self._gauge(
            "last_step_timestamp_seconds", "When the last step ended, in Unix time."
        )
        self._eval_step = self._gauge("eval_step", "Steps done at the last evaluation.")
        self._counted = 0
        info = self._gauge(
            "sae_info", "What each SAE is; always 1.", ["sae", "architecture", "hook_name", "d_sae"]
        )
        for name, plan in plans.items():
            described = (plan.cfg.architecture, plan.hook.name, plan.sae.d_sae)
            info.labels(self._labels[name], *described).set(1)

    def began(self, step: int, tokens: int) -> None:
        super().began(step, tokens)
        host, port = self._address
        try:
            self._server, self._thread = start_http_server(port, host, self._registry)
        except OSError as error:
            raise _refusal(host, port, error) from None
        self._listening = True
        self._counted = step

    def step_done(self, status: RunStatus) -> None:
        for name, metrics in status.saes.items():
            label = self._labels[name]
            self._gauges["loss"].labels(label).set(metrics.loss)
            for term, value in metrics.losses.items():
                self._gauges["loss_term"].labels(label, term).set(value)
            self._gauges["l0"].labels(label).set(metrics.l0)
            self._gauges["explained_variance_ratio"].labels(label).set(metrics.explained_variance)
            self._gauges["dead_features"].labels(label).set(metrics.dead_features)
            self._gauges["learning_rate"].labels(label).set(metrics.learning_rate)
        step, new = status.metrics.step, status.metrics.step - self._counted
        self._steps.inc(new)
        self._tokens.inc(new * status.metrics.tokens / step)
        self._counted = step
        self._progress.set(step / status.total_steps)
        self._rate.set(status.tokens_per_second)
        self._left.set(status.seconds_left)
        self._last_step.set(time.time())

    def evaluated(self, step: int, evaluations: Mapping[str, Evaluation]) -> None:
        self._eval_step.set(step)
        for name, evaluation in evaluations.items():
            for key, value in evaluation.to_dict().items():
                figure = f"eval_{key}"
                if figure not in self._gauges:
                    text = f"{key} on held-out contexts, of the last evaluation."
                    self._gauges[figure] = self._gauge(figure, text, ["sae"])
                self._gauges[figure].labels(self._labels[name]).set(value)

    def closed(self) -> None:
        if self._listening:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._listening = False

    def _gauge(self, name: str, text: str, labels: list[str] | None = None) -> Gauge:
        return Gauge(_PREFIX + name, text, labels or [], registry=self._registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(_PREFIX + name, text, registry=self._registry)


def _refusal(host: str, port: int, error: OSError) -> ConfigError:
    why = error.strerror or str(error)
    return ConfigError(
        f"prometheus_port: cannot listen on {host}:{port} ({why}); give another port",
        field="prometheus_port",
    )
