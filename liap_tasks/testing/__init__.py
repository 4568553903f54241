"""What tests of your own need: :mod:`liap_tasks.testing.local_nodes` runs pytest-celery's nodes as local processes.

Nothing here is imported by the rest of the package; it needs ``pip install "liap-tasks[testing]"``.
"""
