"""The board, played at random with a ledger that grants as it likes: nothing is lost, nor runs twice, nor too many."""

from __future__ import annotations

import random
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from prefect_slots.model.gpu import Gpu
from prefect_slots.model.request import Request
from prefect_slots.model.requirement import declare
from prefect_slots.pool.dispatch import Ask, Dispatcher, Fail, Job, Queue, Retire, Start, Withdraw
from prefect_slots.pool.grants import PoolGrant
from prefect_slots.pool.process import Pin
from prefect_slots.pool.task import Task, TaskFuture
from prefect_slots.pool.wire import Packed, pack, unpack
from prefect_slots.pool.worker import Worker

NEEDS = (None, declare(cpus=1), declare(license="ansys"))
PINS = (Pin(), Pin(cores=1), Pin((Gpu("GPU-0"),)))


class Chair(Worker):
    """A process, as far as a board knows one."""

    def __init__(self, pin: Pin) -> None:
        self.pin = pin


class Game:
    """A board, and all that it has asked for."""

    def __init__(self, most: int | None, free: int) -> None:
        self.most, self.free = most, free
        self.dispatcher = Dispatcher(most, free, Chair)
        self.asked: dict[str, Queue] = {}
        self.running: dict[Job, Worker] = {}
        self.chairs: set[Worker] = set()
        self.tasks: list[Task] = []
        self.ended: list[Task] = []

    def do(self) -> None:
        for act in self.dispatcher.take():
            match act:
                case Ask(queue=queue, ticket=ticket):
                    assert queue not in self.asked.values(), "a queue waits twice"
                    self.asked[ticket] = queue
                case Withdraw(ticket=ticket):
                    self.asked.pop(ticket, None)
                case Start(job=job, worker=worker):
                    assert job.task not in self.ended
                    assert worker not in self.running.values()
                    assert worker.pin == job.grant.pin
                    self.chairs.add(worker)
                    self.running[job] = worker
                case Retire(worker=worker):
                    assert worker not in self.running.values()
                    self.chairs.remove(worker)
                case Fail(task=task, error=error):
                    task.future.fail(error)
        counted = [job for job in self.running if not job.extra]
        assert self.most is None or len(counted) <= self.most
        assert sum(job.queue.shape.requirement is None for job in counted) <= self.free
        assert self.dispatcher.workers == self.chairs
        assert set(self.dispatcher.jobs.values()) == set(self.running)

    def cancelled(self, task: Task) -> None:
        self.dispatcher.drop(task)
        self.do()

    def submit(self, chance: random.Random) -> None:
        within = chance.choice([None, *(job.task for job in self.running)])
        request = Request(requirement=chance.choice(NEEDS), priority=chance.choice([0, 1]))
        task = Task(request=request, call=Packed(b""), read=unpack, under=PoolGrant(), within=within)
        task.future = TaskFuture(partial(self.cancelled, task))
        self.tasks.append(task)
        self.dispatcher.add(task)
        self.do()

    def grant(self, chance: random.Random) -> None:
        if self.asked:
            ticket = chance.choice(list(self.asked))
            queue = self.asked.pop(ticket)
            self.dispatcher.granted(queue, ticket, PoolGrant(pin=chance.choice(PINS), id=ticket))
            self.do()

    def refuse(self, chance: random.Random) -> None:
        if self.asked:
            ticket = chance.choice(list(self.asked))
            self.dispatcher.refused(self.asked.pop(ticket), ticket, LookupError())
            self.do()

    def end(self, chance: random.Random) -> None:
        if self.running:
            job = chance.choice(list(self.running))
            for inner in list(job.task.inner):
                inner.future.cancel()
            chair = self.running.pop(job)
            self.ended.append(job.task)
            job.task.future.settle(unpack, pack(None), None)
            following = self.dispatcher.next_of(job) if chance.random() < 0.5 else None
            if following is not None:
                self.running[following] = chair
            elif chance.random() < 0.7:
                self.dispatcher.ended(job, chair, is_fit=True)
                self.do()
            else:
                self.chairs.remove(chair)
                self.dispatcher.ended(job, chair, is_fit=False)
                self.do()

    def cancel(self, chance: random.Random) -> None:
        waiting = self.dispatcher.waiting()
        if waiting:
            chance.choice(waiting).future.cancel()


@given(st.integers(0, 2**32), st.sampled_from([None, 1, 2, 3]), st.integers(1, 3), st.integers(1, 60))
def test_whatever_happens_every_task_ends_and_no_more_run_than_may(
    seed: int, most: int | None, free: int, steps: int
) -> None:
    chance = random.Random(seed)
    game = Game(most, free if most is None else most)
    for _ in range(steps):
        chance.choice([game.submit, game.submit, game.grant, game.end, game.cancel, game.refuse])(chance)
    for _ in range(20 * len(game.tasks) + 20):
        game.grant(chance)
        game.end(chance)
    assert game.dispatcher.is_empty
    assert not game.asked
    assert all(task.future.done() for task in game.tasks)
    assert len(game.ended) == len(set(game.ended))
    game.dispatcher.retire_all()
    game.do()
    assert not game.chairs
    assert not game.dispatcher.queues
