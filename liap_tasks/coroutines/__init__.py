"""Where the coroutines of ``async def`` tasks run, on every pool, and the limit on their time."""
