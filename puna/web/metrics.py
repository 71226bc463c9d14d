"""What Prometheus may read: counts and times by route, model and key; never a word of a prompt."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        """All at zero."""
        self.registry = CollectorRegistry()
        reg = self.registry
        self.requests = Counter("puna_requests", "Requests", ["route", "status"], registry=reg)
        self.seconds = Histogram(
            "puna_request_seconds", "From head to end", ["route"], registry=reg, buckets=SECONDS
        )
        self.first = Histogram(
            "puna_first_token_seconds",
            "To the first token",
            ["model"],
            registry=reg,
            buckets=SECONDS,
        )
        self.tokens = Counter("puna_tokens", "Tokens", ["model", "key", "kind"], registry=reg)
        self.waiting = Gauge("puna_waiting", "Requests in the queue", registry=reg)
        self.answering = Gauge("puna_answering", "Answers being written", registry=reg)
        self.ready = Gauge("puna_ready", "Whether the worker answers", ["model"], registry=reg)
        self.losses = Gauge("puna_losses", "Workers that went away", ["model"], registry=reg)
        self.worker = Gauge(
            "puna_worker", "The worker's own figures", ["model", "name"], registry=reg
        )

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that is over."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def answer(
        self, model: str, key: str, prompt: int, cached: int, drawn: int, first: float | None
    ) -> None:
        """Count the tokens of a request, and the seconds until its first."""
        for kind, count in (("prompt", prompt), ("cached", cached), ("answer", drawn)):
            self.tokens.labels(model, key, kind).inc(count)
        if first is not None:
            self.first.labels(model).observe(first)

    def worker_figures(self, model: str, values: Mapping[str, float]) -> None:
        """Take over what a worker says of itself."""
        for name, value in values.items():
            self.worker.labels(model, name).set(value)

    def page(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self.registry)
