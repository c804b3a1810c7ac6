"""The table and the page that describe a record."""

from gpunet.check import report
from gpunet.check.record import BEGIN, END, SOME_FAILED, Result


def agreed(what, kernels, ulp=1, error=1e-7, ok=True, same=True):
    numbers = {"ulp": ulp, "error": error, "allowed": 4e-6, "same bits": same, "kernels": kernels}
    return Result("agreement", what, ok, numbers, 0.1, "" if ok else "the results differ by more than rounding")


RESULTS = [
    Result(BEGIN, "cuda", None, {"when": "2026-11-28T01:02:03+00:00", "command": "gpunet check --minutes 9"}),
    Result("environment", "device", True, {"device": "a GPU | of ours", "driver": "13.0"}, 0.1),
    Result("environment", "clocks", None, {}, 0.0, "nvidia-smi is not on the path"),
    Result("environment", END, True, {}, 1.25),
    agreed("a", ["matmul_tiled<float, 64>", "fill<float>"], ulp=3, error=2e-7),
    agreed("b", ["matmul_tiled<float, 128>"], ulp=1, error=3e-7, ok=False),
    agreed("c", ["matmul_tiled<half, 64>"], same=False),
    Result("agreement", END, False, {}, 2.0, SOME_FAILED),
    Result("training", END, False, {}, 60.0, "it did not end within 60 s"),
    Result("speed", "step: lenet 128", True, {"gpunet, ms": 0.125, "row": {"case": {}}}, 3.0),
]


def test_the_summary_counts_each_stage_and_names_what_failed():
    lines = report.summary(RESULTS).splitlines()
    assert lines[0].split() == ["stage", "passed", "failed", "skipped", "seconds"]
    assert lines[1].split() == ["environment", "1", "0", "1", "1.2", "passed"]
    assert lines[2].split()[:5] == ["agreement", "2", "1", "0", "2.0"]
    assert lines[3].split()[:5] == ["training", "0", "0", "0", "60.0"]
    assert "it has no end in the record" in lines[4]
    assert lines[6:] == [
        "failed:",
        "  agreement: b: the results differ by more than rounding",
        f"  training: {END}: it did not end within 60 s",
        "",
        "2 things are wrong on a GPU | of ours: gpunet may compute wrong results or stop there. See what failed, above.",
    ]


def test_the_verdict_says_whether_a_gpu_works():
    well = [RESULTS[0], RESULTS[1], RESULTS[3]]
    assert report.verdict(well) == "All is well on a GPU | of ours: 1 of 1 stages passed."
    assert (
        report.verdict(RESULTS[:3]) == "The check was not finished. What was looked at on a GPU | of ours is in order."
    )
    assert report.verdict([*well, Result("contract", END, None, error="it was interrupted")]).startswith(
        "The check was not"
    )
    emulated = [Result(BEGIN, "emulated", None), Result("contract", "a", False, error="b"), *well[1:]]
    assert report.verdict(emulated).startswith("No GPU was checked. 1 thing is wrong on the emulated device")
    assert report.verdict([Result(BEGIN, "cuda:1", None), well[2]]) == "All is well on cuda:1: 1 of 1 stages passed."


def test_equal_failures_share_one_line():
    same = [Result("contract", f"check {i}", False, error="no cache") for i in range(14)]
    assert "  contract: check 0 and 13 more: no cache" in report.summary([RESULTS[0], *same])


def test_the_page_says_what_ran_where_and_what_failed(tmp_path):
    page = report.write(tmp_path, RESULTS).read_text()
    assert page.startswith("# gpunet check, 2026-11-28T01:02:03+00:00\n\n2 things are wrong on a GPU | of ours: ")
    assert "\n`gpunet check --minutes 9` on a GPU | of ours.\n" in page
    assert "| environment | 1 | 0 | 1 | 1.2 | passed |" in page
    assert "| environment | clocks | nvidia-smi is not on the path |" in page
    assert "| agreement | b | the results differ by more than rounding |" in page
    assert "| device | ok | device a GPU \\| of ours, driver 13.0 | 0.1 |" in page
    assert "| step: lenet 128 | ok | gpunet, ms 0.125 | 3.0 |" in page


def test_agreement_is_listed_by_kernel_and_dtype():
    head, *rows = report.agreement(RESULTS)
    assert head[0] == "kernel"
    assert rows == [
        ("matmul_tiled<float>", "3", "3.0e-07", "8%", "2", "yes"),
        ("fill<float>", "3", "2.0e-07", "5%", "1", "yes"),
        ("matmul_tiled<half>", "1", "1.0e-07", "2%", "1", "no"),
    ]
    assert report.agreement(RESULTS[:4]) == []


def test_a_record_without_a_begin_line_can_be_described():
    assert report.summary(RESULTS[1:4]).splitlines()[1].startswith("environment")
