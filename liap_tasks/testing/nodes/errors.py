"""The errors of local nodes.

::

    LiapError
    └── NodeError                 a node cannot do what it was asked
        ├── NodeFailed            its process ended, or did not get ready in time
        ├── NodeNotRunning        a signal for a process that has ended
        ├── NotOurServerError     kill or restart of a server that the node does not run
        └── DockerOnlyError       an image, a network, ...: it exists in Docker only
"""

from __future__ import annotations

from liap_tasks.errors import LiapError

__all__ = ["DockerOnlyError", "NodeError", "NodeFailed", "NodeNotRunning", "NotOurServerError"]

LOG_TAIL = 4_000


class NodeError(LiapError):
    """A node cannot do what it was asked; ``node`` is its name."""

    def __init__(self, node: str, message: str) -> None:
        super().__init__(message)
        self.node = node


class NodeFailed(NodeError):
    """A node's process ended, or did not get ready in time; ``log`` is all that it wrote."""

    def __init__(self, node: str, problem: str, log: str) -> None:
        super().__init__(node, f"{node} {problem}; the end of its log:\n{log[-LOG_TAIL:] or '(it wrote nothing)'}")
        self.log = log


class NodeNotRunning(NodeError):
    """A signal for a process that has ended."""

    def __init__(self, node: str) -> None:
        super().__init__(node, f"{node} has ended and takes no signals: restart() it, or ask container.status first")


class NotOurServerError(NodeError):
    """A node was asked to stop or restart a server that somebody else runs."""

    def __init__(self, node: str, action: str) -> None:
        super().__init__(
            node, f"cannot {action} {node}: it is an address, its server is run by somebody else. Use a Redis node"
        )


class DockerOnlyError(NodeError, AttributeError, KeyError):
    """Something that only a Docker container has; ``notion`` is its name."""

    def __init__(self, node: str, notion: str) -> None:
        super().__init__(node, f"{node} is a local process: it has no {notion!r}, which belongs to Docker containers")
        self.notion = notion

    def __str__(self) -> str:  # KeyError would show the representation of the text
        return str(self.args[0])
