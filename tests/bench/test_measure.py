"""Turns, ratios and refusals, with contenders that only return times."""

from argparse import Namespace

import pytest

from gpunet.bench import ContenderError, NotMeasuredError
from gpunet.bench.measure import in_turns, measure, same_losses, small_errors
from gpunet.bench.record import line, number, table

OPTIONS = Namespace(rounds=3, repeats=2)


class Scripted:
    """A contender that takes so many seconds per run. It may not be measured (`why`), or fail (`how`)."""

    def __init__(self, name, seconds, log, *, losses=(2.0, 1.0), why="", how="", turns=99):
        self.name, self.seconds, self.log, self.losses, self.why = name, seconds, log, losses, why
        self.how, self.turns = how, turns

    def prepare(self, case):
        if self.why:
            raise NotMeasuredError(self.why)
        if self.how:
            raise ContenderError(self.how)
        return {"losses": list(self.losses)}

    def time(self, repeats):
        self.log.append(self.name)
        if self.log.count(self.name) == self.turns:
            raise ContenderError("the process ended by SIGSEGV")
        return [self.seconds] * repeats


def row(*contenders, ours="ours"):
    workers = {c.name: c for c in contenders}
    return measure({"net": "lenet", "batch": 4}, workers, ours, OPTIONS, same_losses)


def record(*rows):
    return {
        "benchmark": "step", "command": "gpunet bench step", "when": "2026-01-02T03:04:05", "ours": "ours",
        "machine": {"cores": 2}, "contenders": {"ours": {"gpunet": "1"}}, "rows": list(rows),
    }  # fmt: skip


def test_a_slower_rival_makes_a_ratio_above_one():
    found = row(Scripted("ours", 0.002, []), Scripted("rival", 0.005, []))
    assert found["ratios"] == {"rival": {"p10": 2.5, "median": 2.5, "p90": 2.5}}
    assert found["times"]["ours"] == {"p10_ms": 2.0, "median_ms": 2.0, "p90_ms": 2.0}
    assert "| lenet | 4 | 2.000 | 5.000 | 2.50 (p10 2.50, p90 2.50) |" in table(record(found), "Steps")


def test_the_order_is_reversed_each_round_and_the_first_turn_is_not_counted():
    log = []
    seconds, ratios, failed = in_turns({"a": Scripted("a", 1.0, log), "b": Scripted("b", 2.0, log)}, "a", 3, 2)
    assert failed == {}
    assert log == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert {name: len(values) for name, values in seconds.items()} == {"a": 6, "b": 6}
    assert ratios == {"b": [2.0, 2.0, 2.0]}


def test_a_contender_that_cannot_be_measured_says_why_and_keeps_its_place():
    found = row(Scripted("ours", 1.0, []), Scripted("absent", 1.0, [], why="no GPU"), Scripted("rival", 2.0, []))
    assert list(found["times"]) == ["ours", "absent", "rival"]
    assert found["times"]["absent"] == {"not_measured": "no GPU"}
    assert list(found["ratios"]) == ["rival"]
    text = table(record(found, row(Scripted("ours", 1.0, []), Scripted("other", 1.0, [], why="no GPU"))), "Steps")
    assert (
        "| lenet | 4 | 1000 | not measured | 2000 | not measured | not measured | 2.00 (p10 2.00, p90 2.00) | not measured |"
        in text
    )
    assert "- not measured: absent, other: no GPU\n" in text


def test_without_ours_there_are_times_but_no_ratios():
    found = row(Scripted("ours", 1.0, [], why="no GPU"), Scripted("rival", 2.0, []))
    assert found["ratios"] == {}
    assert found["times"]["rival"]["median_ms"] == 2000


def test_a_contender_that_fails_says_how_and_the_others_are_measured():
    found = row(
        Scripted("ours", 1.0, []),
        Scripted("broken", 1.0, [], how="OutOfMemoryError: 80 GB"),
        Scripted("rival", 2.0, []),
    )
    assert found["times"]["broken"] == {"error": "OutOfMemoryError: 80 GB"}
    assert list(found["ratios"]) == ["rival"]
    text = table(record(found), "Steps")
    assert "| lenet | 4 | 1000 | failed | 2000 | failed | 2.00 (p10 2.00, p90 2.00) |" in text
    assert "- failed: broken: OutOfMemoryError: 80 GB\n" in text
    assert "broken failed (OutOfMemoryError: 80 GB), rival 2000 ms" in line(found, "ours")


@pytest.mark.parametrize("turns", [1, 3])
def test_a_contender_that_fails_in_its_turn_is_left_out_of_the_rest(turns):
    log = []
    found = row(Scripted("ours", 1.0, log), Scripted("rival", 2.0, log), Scripted("broken", 1.0, log, turns=turns))
    assert found["times"]["broken"] == {"error": "the process ended by SIGSEGV"}
    assert list(found["ratios"]) == ["rival"]
    assert [log.count(name) for name in ("ours", "rival", "broken")] == [4, 4, turns]


def test_where_ours_fails_in_its_turn_the_rivals_have_times_but_no_ratios():
    log = []
    found = row(Scripted("ours", 1.0, log, turns=2), Scripted("rival", 2.0, log))
    assert found["times"]["ours"] == {"error": "the process ended by SIGSEGV"}
    assert found["times"]["rival"]["median_ms"] == 2000
    assert found["ratios"] == {}


@pytest.mark.parametrize(("last", "difference"), [(2.0, "5.0e-01"), (float("nan"), "nan")])
def test_contenders_whose_losses_differ_are_not_timed(last, difference):
    log = []
    found = row(Scripted("ours", 1.0, log), Scripted("rival", 1.0, log, losses=(2.0, last)))
    why = f"the contenders' losses differ by {difference}, so they do not do the same work: here they are"
    assert found["times"] == {"ours": {"error": f"{why} 2, 1"}, "rival": {"error": f"{why} 2, {last:g}"}}
    assert found["checked"] == found["ratios"] == {}
    assert log == []


@pytest.mark.parametrize("error", [2e-4, float("nan")])
def test_a_result_too_far_from_float64_is_wrong_and_the_others_are_not(error):
    good, bad = {"error": 1e-7, "tolerance": 1e-4}, {"error": error, "tolerance": 1e-4}
    assert small_errors({"gpunet": good, "torch": good}) == ({"gpunet_error": 1e-7, "torch_error": 1e-7}, {})
    assert small_errors({"gpunet": good, "torch": bad}) == (
        {"gpunet_error": 1e-7},
        {"torch": f"its result differs from float64 by {error:.1e}, more than 1e-04"},
    )


def test_numbers_have_four_digits_and_no_exponent():
    assert [number(v) for v in (0, 0.00012345, 0.5, 9.87654, 123.45, 123456.7)] == [
        "0", "0.0001234", "0.5000", "9.877", "123.5", "123457",
    ]  # fmt: skip
