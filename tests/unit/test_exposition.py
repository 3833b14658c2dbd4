"""Which form a scraper gets, by what it says that it takes."""

from __future__ import annotations

import pytest

from gateway.telemetry.exposition import render
from gateway.telemetry.metrics import Telemetry

PLAIN = "text/plain; version=0.0.4; charset=utf-8"
NEWER = "text/plain; version=1.0.0; charset=utf-8; escaping=underscores"
OPEN = "application/openmetrics-text; version=1.0.0; charset=utf-8"
OPENMETRICS = "application/openmetrics-text"

# As Prometheus 3 sends it; and with `scrape_protocols` that put the plain form first.
PROMETHEUS = (
    f"{OPENMETRICS};version=1.0.0;escaping=allow-utf-8;q=0.6,"
    f"{OPENMETRICS};version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;"
    "q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PLAIN_FIRST = (
    f"text/plain;version=0.0.4;q=0.6,{OPENMETRICS};version=1.0.0;q=0.5,*/*;q=0.4"
)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", PLAIN),
        ("*/*", PLAIN),
        ("text/html, */*;q=0.1", PLAIN),
        (OPENMETRICS, OPEN),
        (f"{OPENMETRICS.upper()}; Version=1.0.0", f"{OPEN}; escaping=underscores"),
        (f'{OPENMETRICS};version="1.0.0"', f"{OPEN}; escaping=underscores"),
        (PROMETHEUS, f"{OPEN}; escaping=allow-utf-8"),
        (PLAIN_FIRST, PLAIN),
        (f"{OPENMETRICS};q=0.1, text/plain;q=0.9", PLAIN),
        (f"text/plain;q=0.1, {OPENMETRICS}", OPEN),
        (f"{OPENMETRICS};q=0", PLAIN),
        (f"{OPENMETRICS};q=much", PLAIN),
        (f"{OPENMETRICS};q=nan", PLAIN),
        (f"{OPENMETRICS};version=0.0.1", PLAIN),
        # It would say that it is of that version.
        (f"{OPENMETRICS};version=99.0.0", PLAIN),
        (f"{OPENMETRICS};version=1_0.0.0", PLAIN),
        (f"{OPENMETRICS};version=abc", PLAIN),
        ("text/plain;version=1.0.0", NEWER),
        ("text/plain;version=7.0.0", PLAIN),
        (f"{OPENMETRICS};version=1.0.0;escaping=\xe9", f"{OPEN}; escaping=underscores"),
        (";;;,,,=;", PLAIN),
    ],
)
def test_a_scraper_gets_what_it_prefers(accept: str, expected: str) -> None:
    body, content_type = render(Telemetry().registry.collect(), accept)

    assert expected == content_type
    assert body.endswith(b"# EOF\n") == content_type.startswith(OPENMETRICS)
