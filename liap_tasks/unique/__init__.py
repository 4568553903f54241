"""Unique tasks: at most one call of a key at a time. What that means is said by a policy, ``Unique``.

::

    @app.task(bind=True, unique=Unique(key="game_id"))
    def settle(self, game_id: str, reason: str) -> None:
        write(game_id, fencing_token=self.unique_lock.token)

**A lock is a fenced lease.** It names its holder (the task id of the call), ends by itself, and has a token that grows
with every time the key is taken. It is taken when the call is published, and again each time an attempt begins: the
holder gets it at once, with a higher token. So a message that is redelivered because its worker was killed goes on
without waiting for anything, and what the killed one may still do can be told from it: whoever is written to compares
the tokens and refuses the lower one. A renewal or a release by a token that is no longer the lock's does nothing.

Why the task id holds the lock and not a worker: a call wanders (publisher, queue, worker, retry, another worker), and
none of these can be asked whether it lives. A retry and a redelivery are the same call, and have the same id.

**Where it is freed:** when the attempt ends that ends the call, before its result is told (running.py); when a worker
finds the message revoked, expired or unreadable (worker/request.py, worker/unreadable.py) or loses the process that
ran it (worker/lost_attempts.py); when the recorder sees the broker's dead letter; when a publish fails; when a delayed
call is cancelled (schedule.py). Should all of these be missed (somebody purges the queue), the lease ends. A message
that is revoked while it waits in the broker frees it when a worker comes to it, which is when it leaves the queue.

**A call that cannot be told waits.** Only a caller who publishes a new call can be refused. A message that a worker
begins while another call holds its key (a replayed dead letter, an event, a call by name from a program without the
task, the next of ``until="running"``, one whose lease ended in a long queue) is published again a little later, no
attempt counted, until it gets the lock. What Celery itself publishes (the rest of a chain, a callback) goes that way
too, without a lock, rather than being refused where nobody hears it; and so does a call on which another depends (with
a callback, in a chord) when the policy would put the other call's result in its place. Nothing is lost; in the worst
case two calls of one key are queued, and they run one after the other. They wait without order among them.

**When the locks cannot be reached** a call is refused with UniqueStoreError before it is published, and a message waits
as above, unless the policy says ``fail_open``: an exclusion that silently ends is worse than a call that is told.

Rooms: lock.py what a lock is and who gets it; memory.py, sql.py, redis.py where locks are kept, opening.py which of
them; locks.py an app's locks; keeper.py renews; publishing.py the caller's side; running.py the worker's.
"""
