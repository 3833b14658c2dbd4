"""What limits are called in headers, metrics and errors."""

from __future__ import annotations

import pytest

from policies.plans import Concurrency, Limit, Quota, Rate


@pytest.mark.parametrize(
    ("limit", "name"),
    [
        (Rate(of="tokens", limit=1, per="minute"), "tokens-per-minute"),
        (Quota(of="tokens", limit=1, per="hour"), "tokens-per-calendar-hour"),
        (Rate(of="tokens", limit=1, per="hour"), "tokens-per-hour"),
        (Concurrency(limit=1), "concurrency"),
    ],
)
def test_limit_is_named_for_its_dimension(limit: Limit, name: str) -> None:
    assert limit.name == name
