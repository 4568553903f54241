"""Private servers for the tests: RabbitMQ, Redis and PostgreSQL on free loopback ports and temporary directories.

A server is started by the first test that asks for its URL (see :mod:`tests.servers.fixtures`) and stopped at the end
of the test session, however that end comes (see :mod:`tests.servers.guardian`). The servers of the operating system
are neither used nor touched.
"""
