"""
The supervisor: forks the workers, keeps their sockets and their counts, stops them.

It serves nobody, so it has no event loop and no thread, and can fork at any time. What
is wrong with a start is found before the first fork, and told once.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Final

import msgspec

from gateway.addresses import Address, ops_address
from gateway.app import Gateway
from gateway.binding import check_free
from gateway.key_options import CommandProblem
from gateway.server import FAREWELL_S, facts_of, warn_of_keys
from gateway.settings import Settings
from gateway.signals import end_by
from gateway.telemetry.supervision import SupervisorTelemetry
from gateway.workers.census import HUNG_ROUNDS, Census
from gateway.workers.channel import Channel
from gateway.workers.crew import Slot, Worker
from gateway.workers.listeners import Listeners
from gateway.workers.messages import (
    MOST_BYTES,
    Ask,
    BrokenChannel,
    Counted,
    Failed,
    Leaving,
    OfWorker,
    Scrape,
    Serving,
    Totals,
    ToWorker,
)
from gateway.workers.signals import STOPPING, Signals
from gateway.workers.worker import Post, work

logger = logging.getLogger(__name__)

# What a killed worker had counted since is lost.
POLL_S: Final = 1.0
# After the farewells a worker still settles and says what it has counted.
MARGIN_S: Final = FAREWELL_S + 5.0


def supervise(settings: Settings, address: Address, *, workers: int) -> int:
    """Serve with so many processes until told to stop; the exit code."""
    # Nothing is asked of it. Its making reads every file and opens what will be opened.
    gateway = Gateway(settings)
    # Imported before the forks, so that the workers share it.
    asyncio.run(gateway.finish_making())
    if settings.rate_limit_port is not None:
        # Each worker's own listener shares it, and would with a stranger's.
        check_free(address.host, settings.rate_limit_port, "GATEWAY_RATE_LIMIT_PORT")
    listeners = Listeners(address, ops_address(settings, address), slots=workers)
    try:
        supervisor = Supervisor(gateway, listeners, workers)
        # What is there now is garbage never, and stays shared with the workers.
        gc.collect()
        gc.freeze()
        return supervisor.run()
    finally:
        listeners.forget()


class Supervisor:
    """All workers of one replica."""

    def __init__(
        self,
        gateway: Gateway,
        listeners: Listeners,
        count: int,
        *,
        work: Callable[[Post], int] = work,
        hung_rounds: int = HUNG_ROUNDS,
    ) -> None:
        self._gateway = gateway
        self._settings = gateway.settings
        self._listeners = listeners
        self._work = work
        self._telemetry = SupervisorTelemetry()
        self._slots = [Slot(number) for number in range(count)]
        self._workers: dict[int, Worker] = {}
        self._signals = Signals()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._signals, selectors.EVENT_READ)
        self._census = Census(
            self,
            own=self._telemetry.snapshot,
            now_s=time.monotonic,
            hung_rounds=hung_rounds,
        )
        self._poll_at_s = 0.0
        self._is_serving = False
        self._is_stopping = False
        self._kill_at_s: float | None = None
        self._exit_code = 0
        self._failure: CommandProblem | None = None

    def run(self) -> int:
        """Until all have ended; CommandProblem if they could not start."""
        for slot in self._slots:
            self._start(slot)
        while self._workers or not self._is_stopping:
            self._turn()
        if self._failure is not None:
            raise self._failure
        return self._exit_code

    # The workers.

    def _start(self, slot: Slot) -> None:
        ours, theirs = socket.socketpair()
        # What is not yet written would be written by both.
        sys.stdout.flush()
        with self._signals.held():
            pid = os.fork()
            if pid == 0:
                ours.close()
                self._become_worker(slot, theirs)
        theirs.close()
        worker = Worker(pid, slot, Channel(ours), started_s=time.monotonic())
        slot.taken(worker)
        self._workers[pid] = worker
        self._selector.register(worker.channel, selectors.EVENT_READ, worker)

    def _become_worker(self, slot: Slot, channel: socket.socket) -> None:
        """The rest of a forked process' life: nothing of the supervisor's runs on."""
        code = 1
        try:
            self._signals.leave_to_worker()
            self._selector.close()
            # Else the others would not hear of the supervisor's end.
            for worker in self._workers.values():
                worker.channel.close()
            bound = self._listeners.keep_only(slot.number)
            address = self._listeners.address
            code = self._work(
                Post(slot.number, self._settings, address, bound, channel)
            )
        except BaseException:
            logger.exception("worker ended by an error")
        finally:
            logging.shutdown()
            os._exit(code)

    def _reap(self) -> None:
        while self._workers:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            worker = self._workers.get(pid)
            if worker is not None:
                self._bury(worker, os.waitstatus_to_exitcode(status))

    def _bury(self, worker: Worker, code: int) -> None:
        # Its last words are still in the channel.
        if worker.is_open:
            self._listen_to(worker)
            self._hang_up(worker)
        del self._workers[worker.pid]
        how = {"exit_code": code} if code >= 0 else {"signal": _name(-code)}
        facts = {"worker": worker.slot.number, "pid": worker.pid, **how}
        if self._is_stopping or worker.slot.worker is not worker:
            logger.info("worker ended", extra={"facts": facts})
            if self._is_stopping and code:
                self._exit_code = 1
        else:
            logger.warning("worker ended unasked", extra={"facts": facts})
            self._replace(worker, f"a worker ended at its start: {how}")

    def _replace(self, worker: Worker, reason: str) -> None:
        slot = worker.slot
        if not slot.has_served:
            # What fails at the first start fails at every one.
            text, exit_code = worker.failure or (reason, 1)
            self._failure = CommandProblem(text, exit_code)
            self._stop()
            return
        self._telemetry.worker_restarted()
        slot.lost(worker, time.monotonic())
        if slot.false_starts > 1:
            self._renew(slot)
        # Told last: whoever hears of it finds its sockets renewed.
        if worker.failure is not None:
            facts = {"worker": slot.number, "reason": worker.failure[0]}
            logger.error("worker could not start", extra={"facts": facts})

    def _renew(self, slot: Slot) -> None:
        try:
            self._listeners.renew(slot.number)
        except OSError:
            logger.exception("a slot's sockets could not be bound anew")

    # What happens.

    def _turn(self) -> None:
        for key, events in self._selector.select(self._wait_s()):
            if key.fileobj is self._signals:
                self._take_signals()
            elif key.data.is_open:
                if events & selectors.EVENT_WRITE:
                    key.data.channel.flush()
                    self._want(key.data)
                if events & selectors.EVENT_READ:
                    self._listen_to(key.data)
        self._look_at_clock()

    def _wait_s(self) -> float:
        due = [self._poll_at_s, self._census.ends_at_s, self._kill_at_s]
        due += [slot.due_s for slot in self._slots]
        nearest_s = min(at_s for at_s in due if at_s is not None)
        return max(0.0, nearest_s - time.monotonic())

    def _look_at_clock(self) -> None:
        now_s = time.monotonic()
        self._census.look_at_clock()
        if now_s >= self._poll_at_s:
            self._poll_at_s = now_s + POLL_S
            self._census.begin()
        if self._kill_at_s is not None and now_s >= self._kill_at_s:
            logger.warning("workers were still running at the end")
            self._kill_at_s = None
            self._kill(signal.SIGKILL)
        for slot in self._slots:
            if slot.due_s is not None and now_s >= slot.due_s:
                self._restart(slot, now_s)

    def _restart(self, slot: Slot, now_s: float) -> None:
        try:
            self._start(slot)
        except OSError:
            # No process or descriptor to be had, now. The others serve meanwhile.
            logger.exception("a worker could not be forked")
            slot.put_off(now_s)

    def _take_signals(self) -> None:
        for number in self._signals.read():
            if number in STOPPING and not self._is_stopping:
                facts = {"signal": number.name, "workers": len(self._workers)}
                logger.info("stopping", extra={"facts": facts})
                self._stop()
            elif number in STOPPING:
                self._kill(signal.SIGKILL)
                self._listeners.forget()
                end_by(number)
        # Several deaths may have come as one signal.
        self._reap()

    def _stop(self) -> None:
        self._is_stopping = True
        # First, or connections would queue where nobody accepts them any more.
        self._listeners.close()
        for slot in self._slots:
            slot.due_s = None
        drain_s = self._settings.drain_notice_s + self._settings.drain_timeout_s
        self._kill_at_s = time.monotonic() + drain_s + MARGIN_S
        self._kill(signal.SIGTERM)

    def _kill(self, number: signal.Signals) -> None:
        # None of them is reaped, so their numbers are still theirs.
        for pid in self._workers:
            os.kill(pid, number)

    # What workers say, and are told.

    def _listen_to(self, worker: Worker) -> None:
        messages, is_open = worker.channel.receive()
        for message in messages:
            self._hear(worker, message)
        if not is_open:
            self._hang_up(worker)

    def _hear(self, worker: Worker, message: OfWorker) -> None:
        match message:
            case Counted(round_number, snapshot):
                self._census.hear(worker.pid, round_number, bytes(snapshot))
            case Scrape(number):
                self._census.want(worker.pid, number)
            case Serving():
                self._census.join(worker.pid)
                worker.slot.serves(worker)
                self._greet()
            case Failed(text, exit_code):
                worker.failure = (text, exit_code)
            case Leaving():
                self._let_go(worker)

    def _greet(self) -> None:
        if not self._is_serving and all(slot.has_served for slot in self._slots):
            self._is_serving = True
            facts = facts_of(self._gateway, self._listeners.address)
            facts["workers"] = len(self._slots)
            logger.info("serving", extra={"facts": facts})
            warn_of_keys(self._gateway)

    def _let_go(self, worker: Worker) -> None:
        """It was told to stop by somebody else: its place need not wait for its end."""
        if not self._is_stopping and worker.slot.worker is worker:
            facts = {"worker": worker.slot.number, "pid": worker.pid}
            logger.warning("worker leaves unasked", extra={"facts": facts})
            self._replace(worker, "a worker was told to stop at its start")

    def ask(self, pid: int, round_number: int) -> None:
        self._send(self._workers[pid], Ask(round_number))

    def tell(self, pid: int, number: int, snapshot: msgspec.Raw) -> None:
        self._send(self._workers[pid], Totals(number, snapshot))

    def give_up(self, pid: int) -> None:
        """
        It hangs, and new connections with it: the kernel knows nothing of that.

        What it had begun is lost, and would have been at its clients' time-outs; its
        place is taken when it is buried.
        """
        worker = self._workers[pid]
        facts = {"worker": worker.slot.number, "pid": pid}
        logger.error("worker hangs and is killed", extra={"facts": facts})
        os.kill(pid, signal.SIGKILL)

    def _send(self, worker: Worker, message: ToWorker) -> None:
        # What one is owed that does not read must not pile up.
        if worker.channel.unsent_bytes >= MOST_BYTES:
            return
        try:
            worker.channel.send(message)
        except BrokenChannel as error:
            logger.error("a worker cannot be told: %s", error)
        self._want(worker)

    def _want(self, worker: Worker) -> None:
        """Look at what the worker says, and at room for what it has not been sent."""
        if worker.is_open:
            rest = selectors.EVENT_WRITE if worker.channel.unsent_bytes else 0
            self._selector.modify(worker.channel, selectors.EVENT_READ | rest, worker)

    def _hang_up(self, worker: Worker) -> None:
        """It ends; or cannot be understood, and drains when it hears of this."""
        if worker.is_open:
            worker.is_open = False
            self._selector.unregister(worker.channel)
            worker.channel.close()
            # It has said its last: nobody waits for it.
            self._census.leave(worker.pid)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
