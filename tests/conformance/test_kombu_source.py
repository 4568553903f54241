"""Fetching kombu's source distribution fails in one line where there is no network."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance import kombu_source


def test_an_unreachable_source_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kombu_source, "ROOT", tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)

    with pytest.raises(kombu_source.SourceUnavailable) as caught:
        kombu_source.integration_classes()

    assert str(caught.value).startswith("ERROR: ")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.py"))
