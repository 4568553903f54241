"""``python -m tests.servers install``: get the servers that the tests want. Called by ``make test``."""

from __future__ import annotations

import sys

from tests.servers.install import install_missing

if __name__ == "__main__":
    if sys.argv[1:] != ["install"]:
        sys.exit("usage: python -m tests.servers install")
    sys.exit(install_missing())
