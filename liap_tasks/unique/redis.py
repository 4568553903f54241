"""Locks in Redis: a hash for each key, changed by Lua scripts, which Redis runs one at a time.

The rules are those of :func:`liap_tasks.unique.lock.taken`, in Lua. Times are those of the server's clock. A Redis that
evicts keys, or that fails over to a replica that lacks the last writes, can forget a lock; the tokens still grow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kombu.utils.url import maybe_sanitize_url

from liap_tasks.errors import UniqueStoreError
from liap_tasks.unique.lock import FORGOTTEN_AFTER, Lock

__all__ = ["RedisStore"]

PREFIX = "liap:unique:"
TIMEOUT = 5.0

# ARGV: the clock's reading or '' for the server's, seconds to remember a token, holder, seconds, token or ''.
# Numbers go out as text: Redis would cut off their fractions.
_BEGIN = """
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] + time[2] / 1000000
end
local row = redis.call('HMGET', KEYS[1], 'holder', 'token', 'expires_at')
local holder, token, expires_at = row[1] or '', tonumber(row[2] or 0), tonumber(row[3] or 0)
local function write(new_holder, new_token, new_end)
  redis.call('HSET', KEYS[1], 'holder', new_holder, 'token', string.format('%.0f', new_token),
             'expires_at', string.format('%.6f', new_end))
  redis.call('PEXPIRE', KEYS[1], math.ceil(math.max(new_end - now, 0) * 1000 + tonumber(ARGV[2]) * 1000))
end
"""
_ACQUIRE = """
local again = '0'
if holder == '' or holder == ARGV[3] or expires_at <= now then
  if holder == ARGV[3] then again = '1' end
  holder, token, expires_at = ARGV[3], math.max(token + 1, math.floor(now * 1000000)), now + tonumber(ARGV[4])
  write(holder, token, expires_at)
end
return {holder, string.format('%.0f', token), string.format('%.6f', expires_at), again}
"""
_OWN = """
if holder ~= ARGV[3] or holder == '' or (ARGV[5] ~= '' and tonumber(ARGV[5]) ~= token) then return 0 end
"""
_RENEW = _OWN + "write(holder, token, math.max(expires_at, now + tonumber(ARGV[4]))) return 1"
_RELEASE = _OWN + "write('', token, now) return 1"
_FIND = """
if holder == '' or expires_at <= now then return false end
return {holder, string.format('%.0f', token), string.format('%.6f', expires_at), '0'}
"""


class RedisStore:
    """The locks in one Redis database. clock: POSIX seconds; None: the server's own."""

    def __init__(self, url: str, *, clock: Callable[[], float] | None = None) -> None:
        import redis  # only installed with liap-tasks[redis]

        self.url = maybe_sanitize_url(url)
        self._errors: type[Exception] = redis.RedisError
        self._clock = clock
        self._client: Any = redis.Redis.from_url(
            url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, decode_responses=True
        )
        self._scripts = {
            name: self._client.register_script(_BEGIN + source)
            for name, source in (("acquire", _ACQUIRE), ("renew", _RENEW), ("release", _RELEASE), ("find", _FIND))
        }

    def acquire(self, key: str, holder: str, seconds: float) -> Lock:
        """See :class:`UniqueStore`."""
        return _lock(key, self._run("acquire", key, holder, seconds))

    def renew(self, key: str, holder: str, token: int | None, seconds: float) -> bool:
        """See :class:`UniqueStore`."""
        return bool(self._run("renew", key, holder, seconds, token))

    def release(self, key: str, holder: str, token: int | None = None) -> bool:
        """See :class:`UniqueStore`."""
        return bool(self._run("release", key, holder, 0.0, token))

    def find(self, key: str) -> Lock | None:
        """See :class:`UniqueStore`."""
        found = self._run("find", key, "", 0.0)
        return None if found is None else _lock(key, found)

    def close(self) -> None:
        """See :class:`UniqueStore`."""
        self._client.close()

    def _run(self, script: str, key: str, holder: str, seconds: float, token: int | None = None) -> Any:
        now = "" if self._clock is None else repr(self._clock())
        try:
            return self._scripts[script](
                keys=[PREFIX + key],
                args=[now, FORGOTTEN_AFTER, holder, repr(float(seconds)), "" if token is None else token],
            )
        except self._errors as error:
            raise UniqueStoreError(self.url, str(error)) from error


def _lock(key: str, answer: Any) -> Lock:
    holder, token, expires_at, again = answer
    return Lock(key, holder, int(token), float(expires_at), again == "1")
