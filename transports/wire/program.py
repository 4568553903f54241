"""What the broker's program and those who start it agree on."""

from __future__ import annotations

__all__ = ["ALREADY_SERVED", "TOKEN_VARIABLE"]

#: The exit code of a broker that finds its socket served, or its journal in use: whoever asked for it only has to
#: connect to the other, as soon as that one answers.
ALREADY_SERVED = 3
#: The environment variable with the token that clients of a TCP port must know.
TOKEN_VARIABLE = "LIAP_BROKER_TOKEN"
