"""The launches of a captured step."""

import numpy as np
import pytest
from helpers.capturing import STEPS, Each, counts_of

import gpunet as gp
from gpunet import data, models, nn, optim
from gpunet.train import Trainer

pytestmark = pytest.mark.usefixtures("short_graphs")


LENET_STEP = (
    # forward: convolution, bias, ReLU and pool at once
    ["conv2d_depthwise_forward", "conv2d_forward_tiled"]
    + ["matmul_tiled"] * 2
    # the last dense layer, the loss, the count of correct labels, and the gradients of both
    + ["linear_cross_entropy"]
    # backward
    + ["matmul_tiled"] * 2
    + ["max_pool2d_backward", "conv2d_weight_grad_tiled", "conv2d_input_grad_tiled"]
    + ["max_pool2d_backward", "conv2d_depthwise_weight_grad"]
    # the weight gradients of all dense layers
    + ["linear_weight_grads_tiled"]
    # the update, which writes its report
    + ["update"]
)


def test_a_lenet_step_launches_this_and_nothing_else(graphs_of):
    backend, graphs = graphs_of
    gp.seed(0)
    model = models.lenet((28, 28, 1), 10)
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    rng = np.random.default_rng(0)
    loader = data.DataLoader(
        data.ArrayDataset(rng.normal(size=(512, 28, 28, 1)).astype(np.float32), rng.integers(0, 10, 512)), 128
    )
    trainer = Trainer(model, optimizer, backend=backend, capture=True, progress=False, callbacks=[Each()])
    trainer.fit(loader, 1)
    (kernels,) = graphs
    names = [kernel.partition("<")[0] for kernel in kernels]
    print(f"\nlaunches of a LeNet step: {len(names)}")
    assert names == LENET_STEP
    assert len(names) == 14


def test_batches_of_a_device_loader_are_made_inside_the_graph(graphs_of):
    backend, graphs = graphs_of
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (23, 8, 8, 1), dtype=np.uint8), rng.integers(0, 3, 23)
    transform = data.Compose([data.RandomCrop(8, padding=2), data.RandomHorizontalFlip(), data.Normalize(0.5, 0.25)])
    weights = []
    for capture in (False, True):
        gp.seed(3)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3))
        loader = data.DeviceLoader(
            data.ArrayDataset(images, labels), 4, backend=backend, shuffle=True, transform=transform
        )
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        trainer = Trainer(model, optimizer, backend=backend, capture=capture, progress=False)
        trainer.fit(loader, 3, valid=loader)
        weights.append(
            [*model.state_dict().values(), *([row["loss"], row["accuracy"]] for row in trainer.history.rows)]
        )
    for eager, captured in zip(*weights, strict=True):
        np.testing.assert_array_equal(eager, captured)
    made = [sum("gather_augment" in kernel for kernel in kernels) for kernels in graphs]
    assert sorted(made) == counts_of(trainer)
    assert STEPS in made
