"""pytest-celery's nodes without Docker: where its API speaks of a container, there is a process of this machine.

The seam is the object that pytest-docker-tools wraps, Docker's container. :class:`LocalProcess` has its methods (logs,
kill, restart, ...), so pytest-celery's own classes and fixtures above it run as they are, and so do subclasses of them.

Why not Docker: a worker is ready in about a second, needs no image and no daemon, and runs the code that is being
edited. The cost: workers share this machine's file system and installed packages; a node is no sandbox. Signals,
process groups and sessions are POSIX's, so Windows is left out.

=================  =============================================================================================
``process.py``     one process: its log, its end, its signals
``watchdog.py``    ends the processes when pytest itself is gone
``machine.py``     starts the processes of one test and ends them with it
``worker.py``      a ``celery worker``
``redis.py``       a Redis server of the node's own
``address.py``     a server that somebody else runs: RabbitMQ, PostgreSQL; or no server: SQLite, rpc
=================  =============================================================================================

A further kind of node (the process behind ``liap-broker://``, say) is a container class beside ``redis.py`` and its two
fixtures in :mod:`liap_tasks.testing.local_nodes`.
"""
