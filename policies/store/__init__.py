"""
The door to Redis: connections, scripts and failures.

Nothing here knows a plan, a lease or how a key is built, and nothing outside imports
redis-py or hiredis.
"""
