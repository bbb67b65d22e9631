"""Machines, traffic and a rule for both, as a discrete-event simulation: what `scripts/simulate_cluster.py` tabulates.

Owns arrivals, queues, admission and the autoscaler's clock. Calls take no time and nothing fails.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import simpy

from app.cluster.autoscaling import replicas_wanted
from app.serving.queue import AGEING

HOUR = 3600.0
TICK = 10.0  # seconds between two looks of the autoscaler, and between two samples of its average


@dataclass(frozen=True)
class Kind:
    """A kind of machine. factor: seconds of work per second of audio in one slot; price: of an hour, an A10 is 1."""

    name: str
    factor: float
    price: float


KINDS = (Kind("A10", 0.05, 1.0), Kind("L4", 0.08, 0.7), Kind("T4", 0.16, 0.5), Kind("H100", 0.015, 4.0))
# Share, median seconds and spread (sigma of the logarithm) of what is sent; recordings are even between 20 min and 2 h.
DICTATION, MEETING, RECORDINGS = (0.85, 8.0, 0.6), (0.13, 300.0, 0.7), (0.02, 1200.0, 7200.0)


@dataclass(frozen=True)
class World:
    """What all rows share. demand: mean work as a part of the whole fleet; queue_jobs: 0 = no limit."""

    nodes: int = 12
    slots: int = 4
    cold_start: float = 60.0
    demand: float = 0.25
    wave: float = 0.6
    rush: float = 2.5
    rush_seconds: float = 300.0
    queue_seconds: float = 60.0
    queue_jobs: int = 0
    down_delay: float = 600.0
    look_back: float = 30.0
    start_replicas: int = 6
    warm_up: float = 1800.0
    hours: float = 4.5


@dataclass(frozen=True)
class Policy:
    """One row. ongoing: requests per replica, as Serve scales by default; else slots in use and queued seconds.
    routing: "queue" = jobs wait at the ingress for the fastest free slot; "two" = at the shorter of two replicas'
    queues, as Serve routes by default; priced: refuse by predicted wait, else by count."""

    name: str
    ongoing: float = 0.0
    utilisation: float = 0.75
    wait_seconds: float = 20.0
    up_delay: float = 5.0
    fixed: int = 0
    routing: str = "queue"
    priced: bool = True


@dataclass(eq=False)
class Replica:
    """A started machine. ready: seconds; waiting: its own jobs, where the routing gives it any."""

    kind: Kind
    ready: float
    free: int = 0
    leaving: bool = False
    waiting: deque[Job] = field(default_factory=deque)


@dataclass(eq=False)
class Job:
    audio: float
    arrived: float
    price: float = 0.0


@dataclass
class Tally:
    """What is counted after the warm-up. cost: hours of an A10."""

    waits: list[float] = field(default_factory=list)
    refused: int = 0
    audio: float = 0.0
    cost: float = 0.0

    def row(self, hours: float) -> dict[str, float]:
        waits, jobs = sorted(self.waits), len(self.waits) + self.refused
        return {
            "jobs": jobs,
            "p50_s": round(quantile(waits, 0.5), 2),
            "p95_s": round(quantile(waits, 0.95), 2),
            "p99_s": round(quantile(waits, 0.99), 2),
            "refused_percent": round(100 * self.refused / max(1, jobs), 3),
            "cost": round(self.cost / hours, 2),
            "per_1000_audio_hours": round(1000 * self.cost / max(1e-9, self.audio / HOUR), 1),
        }


def quantile(ordered: Sequence[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


def audio_length(random_: random.Random) -> float:
    """Seconds of one upload."""
    at = random_.random()
    if at < RECORDINGS[0]:
        return random_.uniform(*RECORDINGS[1:])
    _, median, spread = MEETING if at < RECORDINGS[0] + MEETING[0] else DICTATION
    return min(7200.0, max(0.5, random_.lognormvariate(math.log(median), spread)))


def mean_audio() -> float:
    """Seconds that an upload has in the mean."""
    lognormal = sum(share * median * math.exp(spread**2 / 2) for share, median, spread in (DICTATION, MEETING))
    return lognormal + RECORDINGS[0] * sum(RECORDINGS[1:]) / 2


class Cluster:
    """One run: arrivals, queues, machines that come and go."""

    def __init__(self, world: World, policy: Policy, seed: int) -> None:
        self.world, self.policy, self.random = world, policy, random.Random(seed)
        self.env = simpy.Environment()
        self.tally = Tally()
        self.kinds = [KINDS[index % len(KINDS)] for index in range(world.nodes)]
        self.spare = list(reversed(range(world.nodes)))
        self.replicas: list[Replica] = []
        self.node_of: dict[Replica, int] = {}
        self.queue: list[tuple[float, int, Job]] = []
        self.queued = self.running_until = 0.0  # seconds of priced work; sum of predicted ends
        self.active = self.slots = 0
        self.idle: dict[Kind, dict[Replica, None]] = {kind: {} for kind in sorted(KINDS, key=lambda kind: kind.factor)}
        self.factor = sum(kind.factor for kind in self.kinds) / world.nodes  # learnt from finished jobs
        self.samples: deque[tuple[float, float]] = deque(maxlen=max(1, round(world.look_back / TICK)))
        self.above = self.below = -1.0  # since when more, or fewer, replicas are wanted
        self.numbers = iter(range(1 << 62))

    # --- The machines ------------------------------------------------------------------------------------------------

    def add(self, cold: float) -> None:
        """Start the next machine."""
        node = self.spare.pop()
        replica = Replica(self.kinds[node], self.env.now + cold)
        self.replicas.append(replica)
        self.node_of[replica] = node
        self.env.timeout(cold).callbacks.append(lambda _: self.up(replica))

    def up(self, replica: Replica) -> None:
        if not replica.leaving:
            replica.free = self.world.slots
            self.slots += self.world.slots
            self.note_free(replica)
            self.serve()

    def note_free(self, replica: Replica) -> None:
        """Keep the list of machines that take a job."""
        if replica.free and not replica.leaving:
            self.idle[replica.kind][replica] = None
        else:
            self.idle[replica.kind].pop(replica, None)

    def remove(self) -> None:
        """End the machine with the fewest jobs once these are done."""
        staying = [replica for replica in self.replicas if not replica.leaving]
        replica = min(staying, key=lambda r: (r.ready <= self.env.now, len(r.waiting), self.busy(r)))
        replica.leaving = True
        if replica.ready <= self.env.now:
            self.slots -= self.world.slots
        self.note_free(replica)
        self.close_if_done(replica)

    def busy(self, replica: Replica) -> int:
        return self.world.slots - replica.free if replica.ready <= self.env.now else 0

    def close_if_done(self, replica: Replica) -> None:
        if replica.leaving and not replica.waiting and self.busy(replica) == 0 and replica in self.node_of:
            self.replicas.remove(replica)
            self.spare.append(self.node_of.pop(replica))

    # --- Jobs --------------------------------------------------------------------------------------------------------

    def predicted_wait(self, job: Job) -> float:
        """About what `Dispatcher.predicted_wait` finds: running work, and what goes before, over all slots."""
        if self.active < self.slots and not self.queue:
            return 0.0
        key = self.key(job)
        before = sum(entry[2].price for entry in self.queue if entry[0] <= key)
        running = max(0.0, self.running_until - self.active * self.env.now)
        return (running + before) / max(1, self.slots)

    def key(self, job: Job) -> float:
        """A job of less work goes first, and one that waits gets lighter: the same order at any moment."""
        return job.price + AGEING * job.arrived

    def refuses(self, job: Job) -> bool:
        if self.policy.routing == "two":
            return False  # at the replica
        if self.policy.priced:
            full = self.world.queue_jobs and len(self.queue) >= self.world.queue_jobs
            return bool(full) or self.predicted_wait(job) > self.world.queue_seconds
        return len(self.queue) >= 16 * max(1, self.slots)

    def arrive(self, job: Job) -> None:
        job.price = job.audio * self.factor
        if self.refuses(job):
            self.refuse()
        elif self.policy.routing == "two":
            self.to_shorter_of_two(job)
        else:
            heapq.heappush(self.queue, (self.key(job), next(self.numbers), job))
            self.queued += job.price
            self.serve()

    def refuse(self) -> None:
        self.tally.refused += self.env.now >= self.world.warm_up

    def to_shorter_of_two(self, job: Job) -> None:
        up = [r for r in self.replicas if r.ready <= self.env.now and not r.leaving]
        if not up:
            self.refuse()
            return
        pair = self.random.sample(up, min(2, len(up)))
        replica = min(pair, key=lambda r: self.busy(r) + len(r.waiting))
        work = sum(j.audio for j in replica.waiting) * replica.kind.factor / self.world.slots
        if self.policy.priced and not replica.free and work + job.price > self.world.queue_seconds:
            self.refuse()
        elif replica.free:
            self.begin(job, replica)
        else:
            replica.waiting.append(job)
            self.queued += job.price

    def serve(self) -> None:
        """Give waiting jobs to free slots, the fastest first."""
        while self.queue:
            fastest = next((bucket for bucket in self.idle.values() if bucket), None)
            if fastest is None:
                return
            job = heapq.heappop(self.queue)[2]
            self.queued -= job.price
            self.begin(job, next(iter(fastest)))

    def begin(self, job: Job, replica: Replica) -> None:
        replica.free -= 1
        self.note_free(replica)
        self.active += 1
        seconds, predicted = job.audio * replica.kind.factor, self.env.now + job.price
        self.running_until += predicted
        if job.arrived >= self.world.warm_up:
            self.tally.waits.append(self.env.now - job.arrived)
            self.tally.audio += job.audio
        self.env.timeout(seconds).callbacks.append(lambda _: self.end(job, replica, predicted))

    def end(self, job: Job, replica: Replica, predicted: float) -> None:
        replica.free += 1
        self.note_free(replica)
        self.active -= 1
        self.running_until -= predicted
        self.factor += 0.02 * (replica.kind.factor - self.factor)
        if replica.waiting:
            following = replica.waiting.popleft()
            self.queued -= following.price
            self.begin(following, replica)
        elif self.policy.routing == "queue":
            self.serve()
        self.close_if_done(replica)

    # --- The processes -----------------------------------------------------------------------------------------------

    def arrivals(self) -> Iterator[Any]:
        """Poisson, under a wave of two hours and a rush at the head of each hour."""
        capacity = sum(self.world.slots / kind.factor for kind in self.kinds)  # seconds of audio per second
        mean = self.world.demand * capacity / mean_audio()
        most = mean * (1 + self.world.wave) * self.world.rush
        while True:
            yield self.env.timeout(self.random.expovariate(most))
            rate = mean * (1 + self.world.wave * math.sin(2 * math.pi * self.env.now / (2 * HOUR)))
            rate *= self.world.rush if self.env.now % HOUR < self.world.rush_seconds else 1.0
            if self.random.random() < rate / most:
                self.arrive(Job(audio_length(self.random), self.env.now))

    def autoscaler(self) -> Iterator[Any]:
        while True:
            yield self.env.timeout(TICK)
            if self.env.now >= self.world.warm_up:
                self.tally.cost += sum(r.kind.price for r in self.replicas) * TICK / HOUR
            waiting = len(self.queue) + sum(len(r.waiting) for r in self.replicas)
            self.samples.append((self.active, waiting if self.policy.ongoing else max(0.0, self.queued)))
            if not self.policy.fixed:
                self.scale(self.wanted())

    def wanted(self) -> int:
        active, waiting = (sum(values) / len(self.samples) for values in zip(*self.samples, strict=True))
        if self.policy.ongoing:
            raw = (active + waiting) / self.policy.ongoing
        else:
            raw = replicas_wanted(
                active,
                waiting,
                self.world.slots,
                utilisation=self.policy.utilisation,
                wait_seconds=self.policy.wait_seconds,
            )
        return min(self.world.nodes, max(1, math.ceil(raw - 1e-9)))

    def scale(self, wanted: int) -> None:
        now, have = self.env.now, sum(not r.leaving for r in self.replicas)
        self.above = (self.above if self.above >= 0 else now) if wanted > have else -1.0
        self.below = (self.below if self.below >= 0 else now) if wanted < have else -1.0
        if wanted > have and now - self.above >= self.policy.up_delay - TICK:
            for _ in range(min(wanted - have, len(self.spare))):
                self.add(self.world.cold_start)
        elif wanted < have and now - self.below >= self.world.down_delay:
            for _ in range(have - wanted):
                self.remove()

    def run(self) -> Tally:
        for _ in range(self.policy.fixed or min(self.world.start_replicas, self.world.nodes)):
            self.add(0.0)
        self.env.process(self.arrivals())
        self.env.process(self.autoscaler())
        self.env.run(until=self.world.hours * HOUR)
        return self.tally
