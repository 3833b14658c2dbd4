"""Secrets show themselves to nobody who does not ask by name."""

from __future__ import annotations

import pytest

from gateway.secret import Secret

TEXT = "sk_live_very_secret"


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(repr(Secret(TEXT)), id="repr"),
        pytest.param(str(Secret(TEXT)), id="str"),
        pytest.param(f"{Secret(TEXT)}", id="format"),
        pytest.param(str([Secret(TEXT)]), id="in-a-list"),
        pytest.param("%s" % Secret(TEXT), id="percent"),  # noqa: UP031 - as loggers do
    ],
)
def test_secret_prints_as_stars(shown: str) -> None:
    assert "Secret(***)" == shown.strip("[]")


def test_secret_reveals_its_text_when_asked() -> None:
    assert TEXT == Secret(TEXT).reveal()


def test_secret_has_no_attributes_to_dump() -> None:
    assert not hasattr(Secret(TEXT), "__dict__")
