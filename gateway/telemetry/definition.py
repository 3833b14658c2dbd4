"""What is said of a metric, and how each kind of it is defined."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

PREFIX: Final = "llmtune_gateway_"
# What a label says of everything that has no series of its own.
OTHER: Final = "_other"

Kind: TypeAlias = Literal["counter", "gauge", "histogram", "info"]
# What becomes of a gauge that several workers of one replica have.
Merge: TypeAlias = Literal["sum", "max", "min"]


class Definition(NamedTuple):
    """One metric, as a scraper is told of it."""

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    merge: Merge = "sum"

    @property
    def family(self) -> str:
        """Its name without the suffix that its kind adds."""
        return self.name.removesuffix("_total").removesuffix("_info")


def counter(name: str, text: str, *labels: str) -> Definition:
    return Definition(f"{PREFIX}{name}_total", "counter", text, labels)


def gauge(name: str, text: str, *labels: str, merge: Merge = "sum") -> Definition:
    return Definition(PREFIX + name, "gauge", text, labels, merge=merge)


def shared(name: str, text: str, *labels: str) -> Definition:
    """A gauge of what is in the store: a sum over replicas would be too much."""
    shown = " Every replica shows the figure of all: take the max."
    return Definition(PREFIX + name, "gauge", text + shown, labels, merge="max")


def histogram(
    name: str, text: str, *labels: str, buckets: tuple[float, ...]
) -> Definition:
    return Definition(PREFIX + name, "histogram", text, labels, buckets)
