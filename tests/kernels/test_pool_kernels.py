import numpy as np
import pytest
from recording import recording_backend

from gpunet.geometry import Geometry

POOLS = [
    ((2, 8, 8, 4), 2, {}),
    ((2, 7, 9, 3), 2, {}),
    ((2, 9, 8, 8), 3, {"stride": 2, "padding": 1}),
    ((1, 9, 10, 5), (3, 2), {"stride": (1, 2), "padding": ((2, 1), (0, 1))}),
    ((2, 11, 7, 4), 3, {"stride": 4}),
    ((2, 5, 6, 4), 3, {"stride": 2, "padding": "same"}),
    ((2, 11, 12, 8), (5, 4), {"stride": 3, "padding": ((2, 1), (3, 2))}),  # from here on, threads share a window
    ((2, 12, 13, 136), (6, 5), {}),
    ((3, 7, 7, 3), 7, {}),
    ((1, 17, 18, 4), (17, 16), {"stride": 1}),  # 272 positions: a mask of 16 bits
    ((1, 260, 259, 1), (258, 258), {"stride": 1}),  # 66564 positions: a mask of 32 bits
    ((1, 257, 260, 4), (257, 257), {"stride": 2}),
]


@pytest.fixture(params=range(len(POOLS)), ids=lambda i: str(POOLS[i]))
def geometry(request):
    x_shape, window, options = POOLS[request.param]
    return Geometry.pool(x_shape, window, **options)


def test_max_pool_agrees_with_the_reference(device_backend, reference, geometry, rng, agrees):
    x = rng.integers(0, 9, size=geometry.x_shape).astype(np.float32)  # ties everywhere
    dy = rng.normal(size=geometry.y_shape).astype(np.float32)
    y, mask = device_backend.max_pool2d_forward(device_backend.asarray(x), geometry)
    expected, expected_mask = reference.max_pool2d_forward(x, geometry)
    np.testing.assert_array_equal(device_backend.to_numpy(y), expected)
    np.testing.assert_array_equal(device_backend.to_numpy(mask), expected_mask)
    assert mask.dtype == expected_mask.dtype
    dx = device_backend.max_pool2d_backward(device_backend.asarray(dy), mask, geometry)
    agrees(dx, reference.max_pool2d_backward(dy, expected_mask, geometry))


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("window", [3, (5, 6)])
def test_nan_wins_first_and_padding_never(device_backend, reference, channels, window, normal, agrees):
    geometry = Geometry.pool((2, 7, 6, channels), window, stride=2, padding=1)
    x = normal(2, 7, 6, channels)
    x[0, 2:4, 3, 0] = np.nan
    x[0, 5, 4, 1] = np.inf
    x[1] = -np.inf
    x[1, 0, 0, 1] = np.nan
    y, mask = device_backend.max_pool2d_forward(device_backend.asarray(x), geometry)
    expected, expected_mask = reference.max_pool2d_forward(x, geometry)
    agrees(y, expected)
    np.testing.assert_array_equal(device_backend.to_numpy(mask), expected_mask)


@pytest.mark.parametrize("count_padding", [False, True])
def test_avg_pool_agrees_with_the_reference(device_backend, reference, geometry, count_padding, normal, agrees):
    x, dy = normal(*geometry.x_shape), normal(*geometry.y_shape)
    on, options = device_backend.asarray, (geometry, count_padding)
    agrees(device_backend.avg_pool2d_forward(on(x), *options), reference.avg_pool2d_forward(x, *options), 1e-5)
    agrees(device_backend.avg_pool2d_backward(on(dy), *options), reference.avg_pool2d_backward(dy, *options), 1e-5)


@pytest.mark.parametrize("window", [2, 5])
def test_avg_pool_passes_nan(device_backend, reference, window, normal, agrees):
    geometry = Geometry.pool((1, 6, 6, 3), window)
    x = normal(1, 6, 6, 3)
    x[0, 3, 3, 1] = np.nan
    options = (geometry, True)
    agrees(
        device_backend.avg_pool2d_forward(device_backend.asarray(x), *options),
        reference.avg_pool2d_forward(x, *options),
    )


@pytest.mark.parametrize(
    ("window", "kernel"),
    [
        (3, "max_pool2d_forward<float, uint8, 4>"),
        (4, "max_pool2d_forward_long<float, uint8, 4>"),
        (17, "max_pool2d_forward_long<float, uint16, 4>"),
    ],
)
def test_large_windows_are_shared_while_they_are_few(window, kernel):
    backend = recording_backend()
    x = backend.empty((2, 40, 40, 8), np.float32)
    backend.max_pool2d_forward(x, Geometry.pool(x.shape, window))
    backend.avg_pool2d_forward(x, Geometry.pool(x.shape, window), True)
    average = kernel.replace("max", "avg").replace("uint8, ", "").replace("uint16, ", "")
    assert backend.launcher.kernels == [kernel, average]
    many = Geometry.pool((513, 8, 64, 64), 4)  # 2^18 windows of four channels: a thread takes one
    x = np.broadcast_to(x[:1, :1, :1, :1], many.x_shape)
    with pytest.raises(TypeError, match=r"max_pool2d_forward<float, uint8, 4>: x must be C-contiguous"):
        backend.max_pool2d_forward(x, many)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("window", [2, 5])
def test_any_alignment_is_taken(device_backend, reference, shift, window, normal):
    geometry = Geometry.pool((1, 6, 6, 4), window)
    flat = normal(shift + 144)
    x = device_backend.asarray(flat)[shift:].reshape(1, 6, 6, 4)
    y, _ = device_backend.max_pool2d_forward(x, geometry)
    expected, _ = reference.max_pool2d_forward(flat[shift:].reshape(1, 6, 6, 4), geometry)
    np.testing.assert_array_equal(device_backend.to_numpy(y), expected)
