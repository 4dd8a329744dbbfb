"""Numbers of the server for Prometheus."""

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class ServeMetrics:
    """All numbers of one server; nothing is shared with another one in this process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "dsmap_requests", "Answered requests", ["method", "route", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "dsmap_request_seconds", "Until the answer began", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self.images = Counter("dsmap_images", "Translated images", ["target"], registry=self.registry)
        self.frames = Counter("dsmap_frames", "Translated frames of videos", registry=self.registry)
        self.busy = Counter("dsmap_busy", "Requests refused because everything was taken", registry=self.registry)
        self.jobs = Counter("dsmap_jobs", "Video jobs that have ended", ["state"], registry=self.registry)

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """Adds a number that is asked for when somebody reads them."""
        Gauge(name, help_text, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self.registry)
