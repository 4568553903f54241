"""``python -m transports.broker --socket PATH``: serve a broker until it is told to stop."""

from __future__ import annotations

import sys

from transports.broker.command import main

if __name__ == "__main__":
    sys.exit(main())
