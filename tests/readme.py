"""The parts of README.md that are written by code: ``python -m tests.readme`` (``make readme``) renews them."""

from __future__ import annotations

import re
from pathlib import Path

from liap_tasks.commands.transports import capability_table

README = Path(__file__).parent.parent / "README.md"
SECTION = re.compile(r"(<!-- capabilities: [^\n]*-->\n).*?(<!-- /capabilities -->)", re.DOTALL)
PROGRAM = re.compile(r"```python\n(.*?)```", re.DOTALL)


def renewed(text: str) -> str:
    """Return the README with the capability table that the declarations give."""
    changed, count = SECTION.subn(lambda found: f"{found[1]}{capability_table()}\n{found[2]}", text)
    if count != 1:
        raise ValueError(f"README.md has {count} capability sections, not 1")
    return changed


def programs(text: str) -> list[str]:
    """Return the Python programs in the README."""
    return PROGRAM.findall(text)


if __name__ == "__main__":
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
