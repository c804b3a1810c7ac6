"""The timers, as far as they can be tried without a GPU."""

from contextlib import contextmanager
from time import sleep

from gpunet.bench.timing import EventTimer, HostTimer


class FakeTimer(EventTimer):
    """A device whose clock goes on by 3 ms a run, and a little while the host waits."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def work(self):
        self.log.append("work")
        self.now += 3.0

    @contextmanager
    def stream(self):
        self.log.append("wait")
        yield
        self.log.append("wait")

    def record(self):
        self.log.append("event")
        return self.now

    def milliseconds(self, first, second):
        return second - first

    def capture(self, work):
        return work


def test_events_stand_between_the_runs_and_nothing_waits_before_the_last():
    timer = FakeTimer()
    assert timer.seconds(timer.work, 3) == [0.003] * 3
    assert timer.log == ["wait", "work", "event", "work", "event", "work", "event", "work", "event", "wait"]


def test_a_run_waits_for_what_came_before_and_for_its_own_end():
    timer = FakeTimer()
    timer.run(timer.work)
    assert timer.log == ["wait", "work", "wait"]


def test_the_hosts_clock_counts_what_the_host_waits_for():
    timer = HostTimer(lambda: sleep(0.01))
    times = timer.seconds(lambda: None, 2)
    assert len(times) == 2
    assert min(times) >= 0.01
    work = object()
    assert timer.capture(work) is work
