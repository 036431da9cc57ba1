"""What a server measures of itself, in Prometheus' terms: latency, load, errors, what comes in and what goes out.

Recording is part of every request and takes microseconds: plain lists of integers (`counters`). Reading is a scrape's
matter: `exposition` turns the lists into prometheus_client's families, and that library writes the page.
docs/observe.md says what each metric means.
"""

from serving.metrics.recording import Metrics, Reading

__all__ = ["Metrics", "Reading"]
