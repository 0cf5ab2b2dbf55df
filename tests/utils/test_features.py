import math

import pytest
import torch
from torch import nn

from data.augment_steps import Normalize
from data.dataset import ResidentDataset
from utils.features import EVAL_BATCH_SIZE, eval_loader, extract_features, predict

COUNT = EVAL_BATCH_SIZE + 1  # the last batch is a single image
TO_UNIT = (Normalize(mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0]),)


def numbered_images():
    """Image i is all i // 256 in red, i % 256 in green and 0 in blue."""
    number = torch.arange(COUNT)
    colors = torch.stack([number // 256, number % 256, torch.zeros_like(number)], dim=1)  # (N, 3)
    return colors[:, :, None, None].expand(-1, -1, 2, 2).to(torch.uint8)


@pytest.fixture
def loader():
    return eval_loader(ResidentDataset(numbered_images(), None, []), TO_UNIT, "cpu")


class Backbone(nn.Module):
    """The colours (B, 3) of uniform images, through layers that act otherwise in train mode; notes how it is called."""

    features_dim = 3

    def __init__(self):
        super().__init__()
        self.norm, self.dropout, self.frozen = nn.BatchNorm1d(3), nn.Dropout(0.5), nn.BatchNorm1d(3)
        self.calls = []

    def forward(self, images):
        flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        self.calls.append((len(images), self.training, torch.is_grad_enabled(), *flags))
        return self.frozen(self.dropout(self.norm(255 * images.mean(dim=(2, 3)))))


class Heads(nn.Module):
    """Two heads over the colours, the second in bfloat16."""

    def __init__(self):
        super().__init__()
        self.backbone = Backbone()

    def forward(self, images):
        colors = self.backbone(images) / 32
        return [colors, -colors.bfloat16()]


@pytest.fixture(params=[extract_features, predict], ids=["extract_features", "predict"])
def network_and_call(request):
    """The network, the backbone in it, and the function that runs it over a loader."""
    network = Backbone() if request.param is extract_features else Heads()
    return network, getattr(network, "backbone", network), request.param


def colors_of_all():
    return [[i // 256, i % 256, 0] for i in range(COUNT)]


def test_features_hold_every_image_once_in_order_the_last_odd_one_too(loader):
    features = extract_features(Backbone(), loader)
    assert features.dtype == torch.float32 and features.device.type == "cpu" and not features.requires_grad
    assert features.round().tolist() == colors_of_all()


def test_predictions_are_the_softmax_of_every_image_for_each_head(loader):
    first, second = predict(Heads(), loader)
    for head, sign in ((first, 1), (second, -1)):
        assert head.dtype == torch.float32 and head.shape == (COUNT, 3) and not head.requires_grad
        torch.testing.assert_close(head.sum(dim=1), torch.ones(COUNT), rtol=0, atol=1e-6)
        for image in (0, 1, 255, 256, COUNT - 1):
            powers = [math.exp(sign * color / 32) for color in colors_of_all()[image]]
            expected = [power / sum(powers) for power in powers]
            assert head[image].tolist() == pytest.approx(expected, rel=0.05 if sign < 0 else 1e-4)  # bfloat16: 3 digits


def test_the_network_is_called_in_eval_mode_without_gradients_and_tf32(network_and_call, loader):
    network, backbone, call = network_and_call
    call(network, loader)
    assert backbone.calls == [(EVAL_BATCH_SIZE, False, False, False, False), (1, False, False, False, False)]


def test_batch_norm_buffers_do_not_move(network_and_call, loader):
    network, _, call = network_and_call
    network.train()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    call(network, loader)
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


@pytest.fixture(params=[(True, False), (False, True)], ids=str)
def tf32(request):
    """The settings for matrix products and convolutions, as a user left them."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32, convolutions.allow_tf32 = request.param
    yield request.param
    products.allow_tf32, convolutions.allow_tf32 = before


@pytest.mark.parametrize("fails", [False, True], ids=["ends well", "raises"])
def test_every_modules_mode_and_the_tf32_settings_are_put_back(network_and_call, loader, tf32, fails):
    network, backbone, call = network_and_call
    network.train()
    backbone.frozen.eval()  # frozen inside a network in training
    before = {name: module.training for name, module in network.named_modules()}
    if fails:
        backbone.dropout.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            call(network, loader)
    else:
        call(network, loader)
    assert {name: module.training for name, module in network.named_modules()} == before
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == tf32
    assert torch.is_grad_enabled()
