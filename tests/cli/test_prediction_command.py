"""`gp.plan(…, gpu=…)` and `gpunet kernels --predict`."""

from dataclasses import replace

import pytest

import gpunet as gp
from gpunet import models, nn, optim
from gpunet.cli import main, prediction
from gpunet.cli.prediction import Case
from gpunet.cuda.prediction import model as model_of_time
from gpunet.cuda.prediction.model import Prediction, Turn
from gpunet.nvrtc.source import kernels_folder
from gpunet.report import plan as planning

needs_compiler = pytest.mark.skipif(bool(model_of_time.why_unavailable()), reason=model_of_time.why_unavailable())
COMMAND = "kernels", "--predict"
README = kernels_folder() / "README.md"


@pytest.fixture
def predicted(monkeypatch):
    """Let each launch take 10 microseconds, so that nothing is compiled."""

    def predict(launches, gpu):
        return tuple(
            Prediction(
                "64x64" if x.work.turns else "",
                x.work.splits,
                x.grid[0],
                2,
                x.grid[0] / 264,
                x.work.turns,
                10.0,
                "node",
            )
            for x in launches
        )

    monkeypatch.setattr(planning.model_of_time, "predict", predict)
    monkeypatch.setattr(planning.model_of_time, "why_unavailable", lambda: "")


def test_a_plan_for_a_gpu_says_what_is_predicted(predicted):
    model = models.cnn((8, 8, 1))
    plan = gp.plan(model, (8, 8, 1), gpu="h200", batch_size=4, optimizer=lambda p: optim.SGD(p, lr=0.1))
    assert (plan.gpu, plan.backend) == ("H200", "H200, not run")
    assert len(plan.predictions) == len(plan.launches) == 18
    assert plan.microseconds == 180
    head, _, _, second, *_, total, note = str(plan).splitlines()
    assert head.split()[-8:] == ["waves", "turns", "predicted", "us", "of", "the", "peak", "bound"]
    assert second.split()[-3:] == ["3", "10.0", "node"]
    assert total.split()[-1] == "180.0"
    assert note.endswith("times on an H200 are predicted, not measured")
    assert model[0].weight.backend.name == "numpy"


def test_layers_of_all_kinds_are_planned_without_memory(predicted):
    large = nn.Sequential(
        nn.Conv2d(3, 64, 7, stride=2, padding=3), nn.BatchNorm2d(64, activation="relu"), nn.MaxPool2d(3, stride=2, padding=1),
        nn.AvgPool2d(2), nn.Dropout(0.5), nn.GELU(), nn.GlobalAvgPool2d(), nn.Flatten(), nn.Linear(64, 1000),
    )  # fmt: skip
    for precision in ("float32", "float16", "bfloat16"):
        plan = gp.plan(large, (512, 512, 3), gpu="A100", batch_size=1024, precision=precision)
        assert plan.allocated > 2**34  # more than this machine may have
        assert plan.read > 2**34


def test_a_plan_for_a_gpu_needs_no_other_device(predicted, monkeypatch):
    monkeypatch.setattr(planning, "why_unavailable", lambda name: f"no {name}")
    assert len(gp.plan(nn.Sequential(nn.Linear(3, 2)), (3,), training=False, gpu="T4").launches) == 1


def test_errors_name_what_is_wrong(monkeypatch):
    model = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="plan: gpu is 'H300' but takes one of H200, H100, A100"):
        gp.plan(model, (3,), gpu="H300")
    with pytest.raises(ValueError, match="plan: takes backend or gpu, got 'cuda' and 'H200'"):
        gp.plan(model, (3,), gpu="H200", backend="cuda")
    monkeypatch.setattr(model_of_time, "why_unavailable", lambda: "no compiler: install one")
    with pytest.raises(gp.BackendError, match="plan: gpu is 'H200', but nothing can be predicted here: no compiler"):
        gp.plan(model, (3,), gpu="H200")
    with pytest.raises(gp.BackendError, match="predict: machine code cannot be read here: no compiler"):
        model_of_time.predict((), model_of_time.Gpu("own", "sm_90", 1, 1.0, 1.0, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--gpu", "H300"), "gpunet kernels: plan: gpu is 'H300' but takes one of H200"),
        (("--net", "lenett"), "gpunet kernels: kernels: --net is lenett but takes one of lenet, cnn, resnet9"),
        (("--batch", "3"), "gpunet kernels: kernels: --batch takes a net"),
        (("--net", "lenet", "--batch", "0"), "gpunet kernels: plan: batch_size must be at least 1, got 0"),
    ],
)
def test_the_command_reports_errors_in_one_line(predicted, capsys, options, message):
    assert main([*COMMAND, *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_the_command_prints_each_launch_and_a_summary(predicted, capsys):
    assert main([*COMMAND, "--net", "lenet", "--batch", "16", "--gpu", "L4"]) == 0
    title, head, _, *rows = capsys.readouterr().out.splitlines()
    assert title == "lenet, a training step of 16 images on an L4, predicted, not measured"
    assert (
        " ".join(head.split())
        == "pass layer or operation kernel tile split blocks waves turns predicted us of the peak bound"
    )
    assert rows[1].split()[-8:] == ["conv2d_forward_tiled", "64x64", "4", "52", "0.20", "3", "10.0", "node"]
    assert rows[-3].split()[-4:] == ["14", "70", "0%", "140"]  # launches; seven of convolutions
    assert rows[-1].strip() == "predicted, not measured"


def test_the_command_computes_in_the_precision_that_it_is_given(predicted, monkeypatch, capsys):
    planned = []
    monkeypatch.setattr(
        prediction, "plan", lambda *given, **options: planned.append(gp.plan(*given, **options)) or planned[-1]
    )
    command = *COMMAND, "--net", "lenet", "--batch", "16"
    assert main([*command, "--precision", "bfloat16"]) == main(command) == 0
    stored = [any("<bfloat16" in launch.kernel for launch in made.launches) for made in planned]
    assert stored == [True, False]
    capsys.readouterr()
    assert main([*command, "--precision", "float8"]) == 2
    assert "precision" in capsys.readouterr().err


def test_the_share_of_the_peak_is_printed_for_products(predicted, monkeypatch, capsys):
    def predict(launches, gpu):
        return tuple(
            Prediction("", 1, 1, 1, 1.0, 1, 10.0, "node", "tf32", 0.414 * (x.work.flops > 0)) for x in launches
        )

    monkeypatch.setattr(planning.model_of_time, "predict", predict)
    assert main([*COMMAND, "--net", "lenet", "--batch", "16"]) == 0
    _, _, _, *rows = capsys.readouterr().out.splitlines()
    cells = ["41% of tf32" in row for row in rows]
    assert 5 < sum(cells) < len(rows) - 5
    assert rows[-3].split()[-2] == "30%"  # of seven launches of convolutions, five have a product


def test_turns_of_main_loops_are_listed(monkeypatch, capsys):
    def turns(names, gpu):
        return [Turn(name, 127, 256, 2, 2667.4, 4913.2, "float32", 0.834, 7.2, "issue") for name in names]

    monkeypatch.setattr(prediction, "turns", turns)
    assert main(["kernels", "--turns", "conv2d_forward_tiled<float, 128, 16", "--gpu", "A100"]) == 0
    head, _, first, *_, note = capsys.readouterr().out.splitlines()
    assert head.split() == [
        "instance",
        "registers",
        "threads",
        "held",
        "alone",
        "together",
        "of",
        "the",
        "peak",
        "L2",
        "bytes",
        "bound",
    ]
    assert first.startswith("conv2d_forward_tiled<float, 128, 16, 4, 2, 1, 1")
    assert first.split()[-10:] == ["127", "256", "2", "2667", "4913", "83%", "of", "float32", "7", "issue"]
    assert note.startswith("cycles of a turn on a multiprocessor of an A100, without a gate")
    assert main(["kernels", "--turns", "fill"]) == 2
    assert capsys.readouterr().err.startswith(
        "gpunet kernels: kernels: --turns is fill but takes the start of the name"
    )


def test_the_nets_of_benchmarks_are_predicted_by_default(predicted, capsys):
    assert main([*COMMAND, "--markdown"]) == 0
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head == "| on an H200, predicted | launches | convolutions, µs | in all, µs | most of it |"
    assert rows == [
        "| lenet, a training step of 128 images | 14 | 70 | 140 | node 100% |",
        "| cnn, a training step of 128 images | 18 | 130 | 180 | node 100% |",
        "| resnet9, a training step of 512 images | 88 | 250 | 880 | node 100% |",
        "| dense layer 3136 to 128, forward pass of 128 | 1 |  | 10 | node 100% |",
    ]


# ---- with the kernels' machine code


@needs_compiler
@pytest.mark.slow
def test_the_table_of_the_kernels_readme_is_what_the_command_prints(capsys):
    """The times may move a little with another release of the compiler."""
    assert main([*COMMAND, "--markdown"]) == 0
    printed = _cells(capsys.readouterr().out)
    text = README.read_text(encoding="utf-8")
    written = _cells(text[text.index("| on an H200, predicted") :].partition("\n\n")[0])
    assert [row[:2] for row in printed] == [row[:2] for row in written]
    for new, old in zip(printed[1:], written[1:], strict=True):
        assert _numbers(new[2:4]) == pytest.approx(_numbers(old[2:4]), rel=0.05), new[0]


def _cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if "---" not in line]


def _numbers(cells):
    return [float(cell.replace(",", "")) for cell in cells if cell]


@needs_compiler
@pytest.mark.slow
def test_sixteen_bits_and_another_architecture_are_predicted():
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10))
    plans = [gp.plan(model, (8, 8, 8), gpu="T4", precision=p) for p in ("float32", "float16")]
    for plan in plans:
        assert plan.microseconds == sum(p.microseconds for p in plan.predictions) > 1.3 * len(plan.launches)
        assert {p.turns > 0 for p in plan.predictions} == {True, False}
    assert any("<half" in launch.kernel for launch in plans[1].launches)


def test_only_convolutions_count_as_convolutions(predicted):
    plan = gp.plan(models.lenet(), (28, 28, 1), gpu="H200", batch_size=2)
    assert Case("", plan).convolutions == 70
    assert Case("", replace(plan, launches=plan.launches[2:], predictions=plan.predictions[2:])).convolutions == 50
