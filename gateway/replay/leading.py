"""
A request that runs here, for all who ask: from its claim to the keeping of its answer.

What it sends is recorded, and its own client is one of the readers: it may lag behind,
and it may leave.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from gateway.errors import (
    ClientGone,
    GatewayError,
    ModelNotFound,
    ShuttingDown,
    UpstreamError,
    envelope,
)
from gateway.exchange import JSON_TYPE, Exchange
from gateway.presence import Presence
from gateway.replay.asking import Terms
from gateway.replay.delivery import end_in
from gateway.replay.recording import Recording
from gateway.replay.recording_wire import RecordingWire
from gateway.replay.writing import Keeps
from policies.replay.port import AnswerHead

if TYPE_CHECKING:
    from gateway.replay.replays import Replays

# Refused for what the request is, and so for good. Others of 400 and more are of the
# key, of the moment, of the load, or of the operator's balance.
FINAL_STATUSES: Final = frozenset({400, 404, 413, 422})

# Between two looks at whether somebody follows a request whose client has left.
FOLLOWED_LOOK_S: Final = 1.0


class Lead:
    """The runner of one key; `end` is due on every way out."""

    def __init__(
        self, replays: Replays, exchange: Exchange, terms: Terms, recording: Recording
    ) -> None:
        self._replays = replays
        self._exchange = exchange
        self._terms = terms
        self._recording = recording
        self._client = exchange.wire
        settings = replays.settings
        self._wire = RecordingWire(
            self._client,
            recording,
            exchange,
            write_timeout_s=settings.http_write_timeout_s,
            ping_interval_s=settings.stream_ping_interval_s,
        )
        exchange.wire = self._wire
        self._left_s: float | None = None
        # Whether its client was cut off, and knows why.
        self._was_told = False

    @property
    def lease_id(self) -> str:
        """What its lease is to be called, so that its charge is found if we die."""
        return self._recording.owner

    def run_on_s(self) -> float:
        """For how much longer it runs although its client has left."""
        now_s = asyncio.get_running_loop().time()
        if self._left_s is None:
            self._left_s = now_s
        recording = self._recording
        if recording.is_followed:
            return FOLLOWED_LOOK_S
        if recording.head is not None and not recording.is_written:
            return 0  # too large to be kept: nobody will ever have it
        left_s = self._left_s + self._terms.run_on_s - now_s
        return min(left_s, FOLLOWED_LOOK_S)

    async def end(self, error: BaseException | None) -> None:
        """
        Keep the answer or give the key back; ClientGone if nobody was there to read it.
        """
        self._exchange.wire = self._client
        delivery = self._wire.delivery
        is_delivered_first = error is None and self._terms.is_delivered_first
        try:
            if is_delivered_first:
                await self._deliver(delivery)
        finally:
            self._close(error)
            try:
                is_cancelled = isinstance(error, asyncio.CancelledError)
                if not (is_delivered_first or is_cancelled):
                    await self._deliver(delivery)
            finally:
                if delivery is not None:
                    delivery.cancel()
        was_heard = self._was_told or self._was_delivered(delivery)
        if error is None and not was_heard:
            raise ClientGone

    def _was_delivered(self, delivery: asyncio.Task[bool] | None) -> bool:
        if self._left_s is not None or delivery is None:
            return self._left_s is None
        return delivery.done() and not delivery.cancelled() and delivery.result()

    async def _deliver(self, delivery: asyncio.Task[bool] | None) -> None:
        """Until its own client, which may lag behind, has all of it, or is gone."""
        if delivery is None or delivery.done() or self._client.is_gone:
            return
        presence = Presence(self._client, self._replays.attendance, is_known=True)
        try:
            with presence:
                presence.listen()
                await asyncio.wait([delivery])
        except ClientGone:
            delivery.cancel()
        except ShuttingDown as error:
            if delivery.done():
                return  # in the same tick: it has all of it
            delivery.cancel()
            self._was_told = True
            self._exchange.note(error)
            end_in(self._client, error)

    def _close(self, error: BaseException | None) -> None:
        recording = self._recording
        if error is None:
            # Otherwise cut short, and the client was told so within the stream.
            is_good = recording.outcome == "ok"
            recording.close(None, self._keeps() if is_good else "no")
            return
        shown = error if isinstance(error, GatewayError) else None
        if shown is not None and self._is_final(shown):
            request_id = self._exchange.request_id
            head = AnswerHead(shown.http_status, (JSON_TYPE,), request_id, False)
            recording.whole(head, envelope(shown), shown.outcome)
            recording.close(None, "yes" if self._terms.keeps_refusals else "no")
        else:
            # Who leaves says nothing of what the others asked.
            recording.close(shown, "no")

    def _keeps(self) -> Keeps:
        if self._terms.keeps_delivered or not self._was_delivered(self._wire.delivery):
            return "yes"
        # Its client has it, as far as we know; somebody who asks again may know better.
        return "if_followed"

    def _is_final(self, error: GatewayError) -> bool:
        # A model that only the upstream can say it does not know is an error of ours.
        return (
            isinstance(error, UpstreamError | ModelNotFound)
            and error.http_status in FINAL_STATUSES
            and not self._exchange.is_started
        )
