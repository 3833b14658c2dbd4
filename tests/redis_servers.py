"""Every real server of Redis that a test may start, in one place."""

from __future__ import annotations

from tests.servers.clock import START, FakeClock
from tests.servers.cluster import RedisCluster, redis_cluster, slot_of
from tests.servers.redis_server import RedisServer
from tests.servers.sentinel import MASTER_NAME, RedisSentinel, redis_sentinel
from tests.servers.tls import Certificates

__all__ = [
    "MASTER_NAME",
    "START",
    "Certificates",
    "FakeClock",
    "RedisCluster",
    "RedisSentinel",
    "RedisServer",
    "redis_cluster",
    "redis_sentinel",
    "slot_of",
]
