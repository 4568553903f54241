"""The part of transports/README.md that code writes: ``python -m tests.readme`` (``make readme``) renews it."""

from __future__ import annotations

import re
from pathlib import Path

from liap_tasks.commands.transports import capability_table

README = Path(__file__).parent.parent / "README.md"
TRANSPORTS = README.parent / "transports" / "README.md"
SECTION = re.compile(r"(<!-- capabilities: [^\n]*-->\n).*?(<!-- /capabilities -->)", re.DOTALL)
PROGRAM = re.compile(r"```python\n(.*?)```", re.DOTALL)


def renewed(text: str) -> str:
    """Return a page with the capability table that the declarations give."""
    changed, count = SECTION.subn(lambda found: f"{found[1]}{capability_table()}\n{found[2]}", text)
    if count != 1:
        raise ValueError(f"the page has {count} capability sections, not 1")
    return changed


def programs(text: str) -> list[str]:
    """Return the Python programs in the README."""
    return PROGRAM.findall(text)


if __name__ == "__main__":
    TRANSPORTS.write_text(renewed(TRANSPORTS.read_text(encoding="utf-8")), encoding="utf-8")
