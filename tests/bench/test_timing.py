"""The timers, as far as they can be tried without a GPU."""

from contextlib import contextmanager
from time import sleep

import pytest

from gpunet.bench.timing import EventTimer, HostTimer


class FakeTimer(EventTimer):
    """A device with a clock of its own.

    Args:
        milliseconds: of a run, by how many there were before it and the clock's seconds.
    """

    def __init__(self, milliseconds=lambda runs, now: 3.0):
        self.took = milliseconds
        self.now, self.runs, self.log = 0.0, 0, []

    def work(self):
        self.log.append("work")
        self.now += self.took(self.runs, 1e-3 * self.now)
        self.runs += 1

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

    def clear(self):
        pass


def test_events_are_recorded_between_runs_and_nothing_waits_before_the_last():
    timer = FakeTimer(lambda *_: 600.0)
    assert timer.seconds(timer.work, 3) == [0.6] * 3
    assert timer.log[-10:] == ["wait", "work", "event", "work", "event", "work", "event", "work", "event", "wait"]


def test_runs_are_timed_when_the_clock_has_risen():
    timer = FakeTimer(lambda runs, _: 10.0 if runs < 8 else 2.0)
    assert timer.seconds(timer.work, 10) == pytest.approx([0.002] * 200)


def test_timing_waits_for_a_clock_that_rises_late_and_in_steps():
    timer = FakeTimer(lambda _, now: 5.0 / (1 + min(int(now / 0.04), 9)))
    assert timer.seconds(timer.work, 10) == pytest.approx([0.0005] * 200)


def test_a_steady_turn_is_warmed_up_for_fifty_milliseconds_and_no_more_than_needed():
    timer = FakeTimer(lambda *_: 0.1)
    counted = len(timer.seconds(timer.work, 10))
    assert 0.05 < 1e-3 * timer.now - 0.0001 * counted < 0.1


def test_timing_waits_one_second_for_a_time_that_never_stops_falling():
    timer = FakeTimer(lambda runs, _: 10 / (1 + runs / 20))
    counted = sum(timer.seconds(timer.work, 10))
    assert 1 < 1e-3 * timer.now - counted < 1.2


def test_timing_ends_if_events_measure_no_difference():
    timer = FakeTimer(lambda *_: 0.0)
    assert timer.seconds(timer.work, 3) == [0.0] * 200


def test_noise_does_not_count_as_a_falling_time():
    timer = FakeTimer(lambda runs, _: 1.0 + 0.01 * (runs % 3))
    counted = sum(timer.seconds(timer.work, 10))
    assert 1e-3 * timer.now - counted < 0.1


@pytest.mark.parametrize(("each", "asked", "runs"), [(1.0, 10, 200), (1.0, 300, 300), (20.0, 10, 50), (500.0, 3, 3)])
def test_short_runs_are_repeated_for_up_to_a_second(each, asked, runs):
    timer = FakeTimer(lambda *_: each)
    assert len(timer.seconds(timer.work, asked)) == runs


def test_a_run_waits_for_earlier_work_and_for_its_own_end():
    timer = FakeTimer()
    timer.run(timer.work)
    assert timer.log == ["wait", "work", "wait"]


def test_the_hosts_clock_counts_what_the_host_waits_for_after_a_run_that_is_not_timed():
    timer, runs = HostTimer(lambda: sleep(0.01)), []
    times = timer.seconds(lambda: runs.append(1), 2)
    assert len(times) == 2
    assert len(runs) == 3
    assert min(times) >= 0.01
    work = object()
    assert timer.capture(work) is work
