"""`unfreeze` undoes `freeze`, and no more."""

import pytest

from gpunet import nn
from gpunet.nn.module import in_eval_mode


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm2d(4), nn.Dropout())


def needs(model):
    return [p.requires_grad for p in model.parameters()]


def modes(model):
    return [module.training for _, module in model.named_modules()]


@pytest.mark.parametrize("mode", [True, False])
def test_unfreezing_restores_gradients_and_modes(mode):
    model = net().train(mode)
    model[0].requires_grad_(False)
    model[2].eval()
    before = needs(model), modes(model)
    model.freeze()
    assert not any(needs(model) + modes(model))
    model.freeze()  # again, which takes nothing more
    model.unfreeze()
    assert (needs(model), modes(model)) == before


def test_unfreezing_a_model_that_is_not_frozen_changes_nothing():
    model = net()
    model[0].requires_grad_(False)
    before = needs(model)
    model.unfreeze()
    assert needs(model) == before


def test_modes_asked_for_while_frozen_hold_afterwards():
    model = net().train()
    model.freeze()
    model.eval()
    assert not any(modes(model.unfreeze()))
    model.freeze()
    assert not any(modes(model.train()))
    with in_eval_mode(model):  # as evaluation does
        pass
    assert all(modes(model.unfreeze()))


def test_parts_unfreeze_by_themselves_and_with_the_whole():
    model = net()
    model[0].freeze()
    model.freeze()
    model[1].unfreeze()
    assert needs(model) == [False, False, True, True]
    assert modes(model) == [False, False, True, False]
    model.unfreeze()
    assert all(needs(model) + modes(model))


def test_a_parameter_shared_by_two_layers_unfreezes_with_either():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model.freeze()
    model[1].unfreeze()
    assert model[0].weight.requires_grad
    assert not model[0].bias.requires_grad
