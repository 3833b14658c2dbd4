"""The service's own listener: gRPC, for the mesh's proxies only."""

from __future__ import annotations

import logging
from typing import Any, Final, Protocol

import grpc

from gateway.envelope import GatewayError
from gateway.rate_limit import messages as m
from gateway.rate_limit.asking import InvalidAsking

logger = logging.getLogger(__name__)

# A request is some hundred bytes.
MOST_BYTES: Final = 64 * 1024
# Each holds a call to the ledger, which ends within its own time-out.
MOST_CALLS: Final = 1000
# Calls take milliseconds; what is still running then has no caller any more.
STOP_WITHIN_S: Final = 1.0


class Decides(Protocol):
    """What answers a request, as it came, with a response."""

    async def decide(self, message: bytes) -> Any: ...


class RateLimitListener:
    """A gRPC server in this event loop."""

    def __init__(self, service: Decides, *, is_shared: bool) -> None:
        """`is_shared`: workers of one replica listen on the one port."""
        self._service = service
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=MOST_CALLS,
            options=(
                ("grpc.so_reuseport", int(is_shared)),
                ("grpc.max_receive_message_length", MOST_BYTES),
                ("grpc.max_metadata_size", 16 * 1024),
            ),
        )
        handler = grpc.unary_unary_rpc_method_handler(
            self._should_rate_limit,
            # None of gRPC's: what cannot be read is said and counted like the rest.
            response_serializer=m.Response.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(m.SERVICE, {m.METHOD: handler}),)
        )

    async def start(self, host: str, port: int) -> None:
        """Listen; OSError where that cannot be."""
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            self._server.add_insecure_port(where)
        except RuntimeError as error:
            raise OSError(f"error while attempting to bind on {where}") from error
        await self._server.start()

    async def stop(self) -> None:
        """Tell the proxies to go elsewhere, and let what runs finish."""
        await self._server.stop(STOP_WITHIN_S)

    async def _should_rate_limit(self, message: bytes, context: Any) -> Any:
        try:
            return await self._service.decide(message)
        except InvalidAsking as problem:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(problem))
        except GatewayError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, error.message)
        except Exception:
            # gRPC would hand the proxy the exception's text.
            logger.exception("deciding for the mesh failed")
            await context.abort(grpc.StatusCode.INTERNAL, "The gateway failed.")
