"""Batches of JPEG images, from folders too small to measure anything."""

import sys

import pytest

from gpunet.bench import NotMeasuredError
from gpunet.bench.commands.loading import same_images
from gpunet.bench.contenders import Spec
from gpunet.bench.loading import GpunetLoading, TorchLoading, write_images

pytest.importorskip("PIL", reason="Pillow is not installed")
SMALL = ["loading", "--side", "40", "--size", "16", "--images", "6", "--batch", "4", "--rounds", "1", "--repeats", "2"]


def test_each_side_is_measured(bench):
    record, text = bench(*SMALL, "--side", "32", "48")
    assert [row["case"]["side"] for row in record["rows"]] == [32, 48]
    assert record["rows"][0]["times"]["gpunet"]["median_ms"] > 0
    assert "| side | size | images | batch | gpunet, ms |" in text


@pytest.mark.parity
def test_the_rival_loads_the_same_images(bench):
    pytest.importorskip("torch")
    record, _ = bench(*SMALL, "--against", "torch")
    (row,) = record["rows"]
    assert row["checked"]["level_difference"] < 1
    assert row["ratios"]["torch-eager"]["median"] > 0


def test_missing_pytorch_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(NotMeasuredError, match="PyTorch cannot be imported"):
        TorchLoading(Spec("loading", "torch-eager", "numpy", 1))


def test_missing_pillow_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(NotMeasuredError, match="Pillow cannot be imported"):
        GpunetLoading(Spec("loading", "gpunet", "numpy", 1))


def test_a_pass_takes_every_image_once(tmp_path):
    contender = GpunetLoading(Spec("loading", "gpunet", "numpy", 1))
    case = {"side": 32, "size": 32, "images": 5, "batch": 2}
    first, again = (contender.prepare(case)["means"] for _ in range(2))
    assert first == pytest.approx(again, abs=1e-9)
    write_images(tmp_path, 32, 5)
    assert len(list(tmp_path.glob("*/*.jpg"))) == 5
    assert min(contender.time(2)) > 0


def test_other_images_are_wrong():
    assert same_images({"a": {"means": [1, 2, 3]}, "b": {"means": [1, 2, 4]}}).wrong == {}
    assert set(same_images({"a": {"means": [1, 2, 3]}, "b": {"means": [1, 2, 6]}}).wrong) == {"a", "b"}
