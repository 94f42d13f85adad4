"""Continuous batching: one thread owns the model, and every turn of its loop moves all requests on by a little.

    submit --> waiting --(a slot is free: prefill)--> running --(one token a turn)--> finished
    run    --> jobs    --(one step of one job a turn)

    turn:  one step of a job | cancelled requests leave | one prefill | one decoding step of every batch | adapters that may go, go

Requests whose adapters mix stand in one batch, whatever their adapters, and each leaves it at its own end. An adapter that does not mix
(a prefix, a prompt, a bottleneck) has a batch of its own, through its own model. A prefill takes several prompts at once up to
`prefill_tokens`, so that the others wait for no more than that (or for one prompt that is longer). Nothing else touches the model:
loading, unloading, predictions and embeddings are jobs on the same thread, cut into steps, between which the batches go on.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from typing import Any

import torch

from tunesmith.errors import UserError
from tunesmith.serve.batches import Batch, batch_of
from tunesmith.serve.metrics import Metrics
from tunesmith.serve.refusals import Refused
from tunesmith.serve.sampling import choose
from tunesmith.serve.work import Busy, Gone, Group, Job, Stopped, Ticket
from tunesmith.serve.writing import Piece, Request, Writer

log = logging.getLogger("tunesmith.serve")

MIXED = ""  # the batch of all adapters that mix; no adapter has this name
LONGEST_WAIT = 60  # seconds that a client is told to wait at most


class Engine:
    """The scheduler.

    Args:
        bank: the model and its adapters (`artifacts.switch.AdapterBank`).
        slots: texts that are written at the same time.
        max_queue: requests and jobs that may wait beside them.
        prefill_tokens: prompt tokens, padding included, that are read in one pass.
        metrics: where to count.
    """

    def __init__(
        self, bank: Any, *, slots: int = 16, max_queue: int = 64, prefill_tokens: int = 1024, metrics: Metrics | None = None
    ) -> None:  # fmt: skip
        self.bank, self.slots, self.max_queue, self.prefill_tokens = bank, slots, max_queue, prefill_tokens
        self.metrics = metrics or Metrics()
        self._wake = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._jobs: deque[Job] = deque()
        self._leaving: dict[str, Future[None]] = {}
        self._groups: dict[str, Group] = {}
        self._stopping = False
        self._seconds = 1.0  # how long a text takes, smoothed
        self._thread = threading.Thread(target=self._work, name="tunesmith-model", daemon=True)
        self.metrics.gauge("running", lambda: self.running)
        self.metrics.gauge("waiting", lambda: self.waiting)
        self.metrics.gauge("slots", lambda: self.slots)
        self.metrics.gauge("adapters", lambda: len(self.bank.names))

    # ---- what other threads call

    @property
    def alive(self) -> bool:
        """Whether it works."""
        return self._thread.is_alive() and not self._stopping

    @property
    def running(self) -> int:
        """Texts that are being written."""
        return sum(len(group.tickets) for group in list(self._groups.values()))

    @property
    def waiting(self) -> int:
        """Requests and jobs in the queue."""
        return len(self._waiting) + sum(job.counted for job in list(self._jobs))

    def start(self) -> Engine:
        """Begin to work."""
        self._thread.start()
        return self

    def stop(self, timeout: float = 10.0) -> None:
        """Stop working; what is not finished fails with `Stopped`."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def submit(self, requests: Sequence[tuple[Request, Callable[[Piece], None]]]) -> list[Ticket]:
        """Queue requests, all or none; `deliver` is called with each piece, on the engine's thread.

        Raises:
            Busy: they do not fit.
            Gone: an adapter is not there any more.
        """
        tickets = [Ticket(request, deliver, Writer(request)) for request, deliver in requests]
        with self._wake:
            self._check_room(len(tickets))
            for ticket in tickets:
                self._check_there(ticket.request.adapter)
            self._waiting += tickets
            self._wake.notify()
        return tickets

    def cancel(self, tickets: Sequence[Ticket]) -> None:
        """Let go of requests at the next turn; nothing more is delivered for them."""
        with self._wake:
            for ticket in tickets:
                ticket.cancelled = True
            self._wake.notify()

    def run(self, steps: Generator[None, None, Any], *, adapter: str | None = None, counted: bool = True) -> Job:
        """Queue a job.

        Args:
            steps: what is to be done on the engine's thread.
            adapter: which one it uses, so that this one stays until the job is done.
            counted: whether it takes a place in the queue.

        Raises:
            Busy: there is none.
            Gone: the adapter is not there any more.
        """
        job = Job(steps, _promise(), adapter, counted)
        with self._wake:
            if counted:
                self._check_room(1)
            self._check_there(adapter)
            self._jobs.append(job)
            self._wake.notify()
        return job

    def drop_job(self, job: Job) -> None:
        """Take no further step of a job."""
        with self._wake:
            job.cancelled = True
            self._wake.notify()

    def remove(self, name: str) -> Future[None]:
        """Unload an adapter when the last request that uses it is done; the caller sees to it that no further one comes."""
        with self._wake:
            future = self._leaving.setdefault(name, _promise())
            self._wake.notify()
        return future

    def _check_there(self, adapter: str | None) -> None:
        """What is queued can be done: an adapter stays while somebody waits for it."""
        if adapter is not None and (adapter in self._leaving or adapter not in self.bank.names):
            raise Gone(f"the adapter `{adapter}` was unloaded.")

    def _check_room(self, count: int) -> None:
        if self._stopping:
            raise Stopped("the server is stopping.")
        free = max(0, self.slots - self.running)
        if self.waiting + count > self.max_queue + free:
            self.metrics.count("refused_total")
            turns = (self.waiting + self.running) / self.slots
            raise Busy(min(LONGEST_WAIT, max(1, math.ceil(turns * self._seconds))))

    # ---- the engine's own thread

    def _work(self) -> None:
        try:
            while True:
                with self._wake:
                    while not (self._stopping or self._waiting or self._jobs or self._groups or self._leaving):
                        self._wake.wait()
                    if self._stopping:
                        break
                self._turn()
        finally:
            self._stopping = True
            self._give_up()

    def _turn(self) -> None:
        with torch.inference_mode():
            self._let_go()
        self._step_job()  # not in inference mode: an adapter that is loaded makes tensors that stay
        with torch.inference_mode():
            tickets = self._next_prompts()
            if tickets:
                self._prefill(tickets)
            for key, group in list(self._groups.items()):
                self._decode(key, group)
        self._unload()

    def _let_go(self) -> None:
        """Take cancelled requests and jobs out."""
        with self._wake:
            dead = [job for job in self._jobs if job.cancelled]
            self._jobs = deque(job for job in self._jobs if not job.cancelled)
            gone = sum(ticket.cancelled for ticket in self._waiting)
            if gone:
                self._waiting = deque(ticket for ticket in self._waiting if not ticket.cancelled)
                self.metrics.count("finished_total", gone, reason="cancelled")
        for job in dead:
            job.steps.close()
            job.future.set_exception(Stopped("nobody waits for it any more."))
        for key, group in list(self._groups.items()):
            self._free(key, group, [row for row, ticket in enumerate(group.tickets) if ticket.cancelled], "cancelled")

    def _step_job(self) -> None:
        if not self._jobs:
            return
        job = self._jobs[0]
        try:
            next(job.steps)
            return
        except StopIteration as end:
            job.future.set_result(end.value)
        except Exception as error:
            if not isinstance(error, (UserError, Refused)):
                log.exception("a job failed")
            job.future.set_exception(error)
        with self._wake:
            self._jobs.popleft()

    def _next_prompts(self) -> list[Ticket]:
        """Requests of one batch, the oldest first, for which there are slots; all their prompts are read in one pass."""
        with self._wake:
            free = self.slots - self.running
            if not self._waiting or free <= 0:
                return []
            key, longest = self._key(self._waiting[0]), 0
            found: list[Ticket] = []
            for ticket in self._waiting:
                longest_then = max(longest, len(ticket.request.prompt))
                fits = not found or longest_then * (len(found) + 1) <= self.prefill_tokens
                if len(found) < free and fits and self._key(ticket) == key:
                    found.append(ticket)
                    longest = longest_then
            self._waiting = deque(ticket for ticket in self._waiting if ticket not in found)
        return found

    def _key(self, ticket: Ticket) -> str:
        name = ticket.request.adapter
        return MIXED if name is None or self.bank.mixes(name) else name

    def _batch(self, name: str | None) -> Batch:
        if name is None or self.bank.mixes(name):
            return batch_of(self.bank.model, self.bank.rows)
        return batch_of(self.bank.select(name).opened.loaded.model, lambda names: nullcontext())  # the first head's

    def _prefill(self, tickets: list[Ticket]) -> None:
        key, now = self._key(tickets[0]), time.monotonic()
        group = self._groups.setdefault(key, Group())
        for ticket in tickets:
            ticket.started = now
            self.metrics.observe("queue_seconds", now - ticket.arrived)
            self.metrics.count("prompt_tokens_total", len(ticket.request.prompt), adapter=ticket.request.adapter or "")
        first = len(group.tickets)
        group.tickets += tickets
        try:
            if group.batch is None:
                group.batch = self._batch(tickets[0].request.adapter)
            logits = group.batch.prefill([t.request.adapter for t in tickets], [t.request.prompt for t in tickets])
            self._take(key, group, range(first, len(group.tickets)), logits)
        except Exception as error:
            intact = first and group.batch.intact and len(group.batch.names) == first
            self._fail(key, group, error, group.tickets[first:] if intact else None)
            return
        now = time.monotonic()
        for ticket in tickets:
            self.metrics.observe("first_token_seconds", now - ticket.arrived)

    def _decode(self, key: str, group: Group) -> None:
        try:
            logits = group.batch.step([ticket.token for ticket in group.tickets])
            self.metrics.count("steps_total")
            self._take(key, group, range(len(group.tickets)), logits)
        except Exception as error:
            self._fail(key, group, error)

    def _take(self, key: str, group: Group, rows: range, logits: torch.Tensor) -> None:
        """Choose a token for each of these rows, hand out what it says, and free the rows that are done."""
        tickets = [group.tickets[row] for row in rows]
        done = []
        for row, ticket, chosen in zip(rows, tickets, choose(logits, [t.writer.sampler for t in tickets]), strict=True):
            ticket.token = chosen.token
            self.metrics.count("written_tokens_total", adapter=ticket.request.adapter or "")
            piece = ticket.writer.add(chosen)
            if piece is not None:
                self._deliver(ticket, piece)
                if piece.last:
                    done.append(row)
                    self.metrics.count("finished_total", reason=str(piece.finish))
                    self._seconds += 0.1 * (time.monotonic() - ticket.started - self._seconds)
        self._free(key, group, done)

    def _deliver(self, ticket: Ticket, piece: Piece) -> None:
        if ticket.cancelled:
            return
        try:
            ticket.deliver(piece)
        except Exception:  # nobody is there to take it (a loop that is closed)
            ticket.cancelled = True

    def _free(self, key: str, group: Group, rows: Sequence[int], reason: str = "") -> None:
        """Drop rows, and the batch with the last of them."""
        for row in sorted(rows, reverse=True):  # the last row takes the place, and it is not among those that are left
            group.batch.drop(row)
            group.tickets[row] = group.tickets[-1]
            group.tickets.pop()
            if reason:
                self.metrics.count("finished_total", reason=reason)
        if not group.tickets:
            self._groups.pop(key, None)

    def _fail(self, key: str, group: Group, error: Exception, tickets: Sequence[Ticket] | None = None) -> None:
        """A batch whose pass failed is given up, because its cache cannot be trusted; or these tickets, which had not joined it yet."""
        log.exception("a pass of the model failed")
        if tickets is None:
            self._groups.pop(key, None)
            tickets, group.tickets = group.tickets, []
        else:
            group.tickets = group.tickets[: len(group.tickets) - len(tickets)]
        for ticket in tickets:
            self.metrics.count("finished_total", reason="error")
            self._deliver(ticket, Piece(error=error, written=ticket.writer.written))

    def _unload(self) -> None:
        """Remove adapters that are to leave and that nothing uses any more."""
        if not self._leaving:
            return
        with self._wake:
            used = {t.request.adapter for t in self._waiting} | {job.adapter for job in self._jobs}
            used |= {t.request.adapter for group in self._groups.values() for t in group.tickets}
            free = {name: future for name, future in self._leaving.items() if name not in used}
            for name in free:
                del self._leaving[name]
        for name, future in free.items():
            try:
                self.bank.remove(name)
                future.set_result(None)
            except Exception as error:
                future.set_exception(error)

    def _give_up(self) -> None:
        """Tell everybody who still waits that nothing will come."""
        stopped = Stopped("the server stopped before the answer was complete.")
        with self._wake:
            tickets = [*self._waiting, *(t for group in self._groups.values() for t in group.tickets)]
            jobs, leaving = list(self._jobs), list(self._leaving.values())
            self._waiting.clear()
            self._jobs.clear()
            self._groups.clear()
            self._leaving.clear()
        for ticket in tickets:
            self._deliver(ticket, Piece(error=stopped, written=ticket.writer.written))
        for future in [*(job.future for job in jobs), *leaving]:
            future.set_exception(stopped)


def _promise() -> Future[Any]:
    """A future that whoever awaits it cannot cancel under the engine's hands."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future
