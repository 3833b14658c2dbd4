"""The right to be in flight, from its admission to its one settlement."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self

from gateway.auth import Principal
from gateway.errors import GatewayError
from gateway.translation.usage import TokenUsage
from policies.ledger import NOTHING, Admitted, Usage


class Lease:
    """
    The right to be in flight, and the meter of what it will be settled at.

    A block that holds it settles it on every way out, unless it was handed over.
    """

    __slots__ = (
        "_end",
        "_failed_at",
        "_is_handed_over",
        "_is_over",
        "_meter",
        "_settled_at",
        "is_exact",
        "lease_id",
        "model",
        "plan",
        "reserved",
        "states",
        "workspace",
    )

    def __init__(
        self,
        decision: Admitted,
        principal: Principal,
        model: str,
        reserved: Usage,
        end: Callable[[Lease], None],
        is_over: Callable[[], bool],
    ) -> None:
        self.lease_id = decision.lease_id
        self.workspace = principal.workspace
        self.plan = principal.plan
        self.model = model
        self.reserved = reserved
        self.states = decision.states
        # False where the shared store was away when it was admitted.
        self.is_exact = decision.is_exact
        self._end: Callable[[Lease], None] | None = end
        self._is_over = is_over
        self._is_handed_over = False
        # Nothing is spent until the upstream is called: a request that ends before is
        # refunded whole.
        self._settled_at: TokenUsage | None = None
        self._meter: Callable[[], TokenUsage] | None = None
        self._failed_at = NOTHING

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: object, error: BaseException | None, traceback: object
    ) -> None:
        if not self._is_handed_over:
            self.end(error)

    def hand_over(self) -> None:
        """Somebody else ends it: leaving its block does not."""
        self._is_handed_over = True

    def end(self, error: BaseException | None = None) -> None:
        """Give it back, as what ended the request says. Safe to call twice."""
        end, self._end = self._end, None
        if end is None:
            return
        if isinstance(error, GatewayError):
            self.refund(error)
        elif isinstance(error, Exception):
            # A fault of ours costs the caller nothing.
            self.refund(GatewayError(""))
        elif isinstance(error, asyncio.CancelledError) and self._is_over():
            # We ended it, unanswered, and the client is told to send it again.
            self.refund(GatewayError(""))
        end(self)

    def settle(self, usage: TokenUsage) -> None:
        """Note what is spent up to now; the last note is what is settled."""
        self._settled_at = usage

    def as_reserved(self, prompt: TokenUsage) -> TokenUsage:
        """What was reserved, where nobody will say what the answers took."""
        output = max(0, self.reserved.tokens - prompt.input_tokens)
        return TokenUsage(prompt.input_tokens, output, is_reported=False)

    def follow(self, meter: Callable[[], TokenUsage]) -> None:
        """Settle at whatever this meter says by then."""
        self._meter = meter

    def refund(self, error: GatewayError) -> None:
        """Note that the request failed, and is charged as its error says."""
        self._meter = self._settled_at = None
        self._failed_at = Usage(requests=1) if error.spends_request else NOTHING

    @property
    def usage(self) -> TokenUsage | None:
        """What was answered; None if nothing was, or not yet."""
        return self._meter() if self._meter is not None else self._settled_at

    @property
    def actual(self) -> Usage:
        """What the lease is settled at if it ends now."""
        return self.charge_of(self.usage)

    def charge_of(self, usage: TokenUsage | None) -> Usage:
        """What is charged for an answer, or for none."""
        return self._failed_at if usage is None else Usage(1, usage.total_tokens)
