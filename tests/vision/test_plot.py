"""Pictures: drawn without a display and without matplotlib's global state; what they hold, not how they look."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpunet as gp
from gpunet.vision import inspect, plot

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def drawable():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")


def titles(figure):
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


@pytest.fixture
def saved(tmp_path):
    def save(figure):
        figure.savefig(tmp_path / "picture.png", dpi=40)
        assert (tmp_path / "picture.png").stat().st_size > 500

    return save


@pytest.mark.usefixtures("drawable")
def test_images_stand_in_a_grid_with_their_titles(rng, saved):
    figure = plot.images(
        [rng.normal(size=(4, 5, 3)), np.zeros((4, 5), np.uint8), rng.normal(size=(4, 5, 1))], "abc", columns=2
    )
    assert titles(figure) == ["a", "b", "c"]
    assert len(figure.axes) == 4
    saved(figure)


@pytest.mark.parametrize("channels", [1, 3, 7])
@pytest.mark.usefixtures("drawable")
def test_each_filter_is_a_tile(rng, saved, channels):
    figure = plot.filters(rng.normal(size=(3, 2, channels, 5)))
    assert titles(figure) == list("01234")
    saved(figure)


@pytest.mark.usefixtures("drawable")
def test_what_a_network_sees_is_drawn(rng, saved):
    model, images = gp.models.lenet((16, 20, 1)), rng.normal(size=(4, 16, 20, 1)).astype(np.float32)
    maps = inspect.feature_maps(model, images[0])
    saved(plot.feature_maps(images[0], {name: values[0] for name, values in maps.items()}, max_channels=4))
    fields = inspect.receptive_fields(model, (16, 20, 1))
    figure = plot.receptive_fields(images[0], fields)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == [
        "0: 5x5, stride 1", "1: 6x6, stride 2", "2: 14x14, stride 2", "3: 16x16, stride 4",
    ]  # fmt: skip
    saved(figure)
    found = {
        "unit 2": inspect.top_patches(model, images, "2", 2, 3),
        "unit 5": inspect.top_patches(model, images, "2", 5, 2),
    }
    saved(plot.patches(found))
    saved(plot.patches(found, {name: rng.normal(size=each.patches.shape) for name, each in found.items()}))
    figure = plot.heatmaps(
        images, {"a": inspect.saliency(model, images), "b": np.zeros((4, 2, 2))}, "wxyz", title="maps"
    )
    assert titles(figure)[:4] == list("wxyz")
    assert titles(figure)[-1] == "0"
    saved(figure)


@pytest.mark.usefixtures("drawable")
def test_translation_says_where_each_net_is_half_way(saved):
    figure = plot.translation([0, 1, 2], {"net": [0, 1, 1.2], "still": [0, 0, 0.1]})
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["net: half way at 0.5 pixels", "still: never half way"]
    saved(figure)


@pytest.mark.usefixtures("drawable")
def test_a_notebook_shows_a_figure_without_pyplot():
    figure = plot.images([np.zeros((2, 2))])
    assert figure._repr_png_().startswith(b"\x89PNG")


@pytest.mark.usefixtures("drawable")
def test_bad_input_raises_an_error_of_one_line():
    with pytest.raises(ValueError, match="images: takes a title for each of 2 images, got 1"):
        plot.images([np.zeros((2, 2))] * 2, ["a"])
    with pytest.raises(ValueError, match="images: takes at least one image"):
        plot.images([])
    with pytest.raises(ValueError, match=r"plot: an image has shape \(2, 2, 5\) but takes"):
        plot.images([np.zeros((2, 2, 5))])
    with pytest.raises(ValueError, match=r"filters: weight has shape \(3, 3\) but takes"):
        plot.filters(np.zeros((3, 3)))


def test_matplotlib_is_imported_only_to_draw_and_asked_for_in_one_line():
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.modules['matplotlib'] = None\n"
        "import numpy as np; from gpunet.vision import plot\n"
        "try: plot.images([np.zeros((2, 2))])\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == 'plot: drawing needs matplotlib: pip install "gpunet[examples]"\n'
