import math

import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from models.heads import ClusterHeads, ClusteringModel, MLPHead, Standardize
from utils.errors import UserError


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# -- Standardize


def uneven(images, size=6):
    """Features (N, D) of all lengths, off the origin, with another variance along each axis; they drift."""
    features = 2 + random(images, size) * torch.arange(1, size + 1) + torch.linspace(0, 3, images)[:, None]
    return features * (0.1 + torch.rand(images, 1, generator=torch.Generator().manual_seed(1)))


def fitted(features, size):
    layer = Standardize(features.shape[1], size)
    layer.fit(features)
    return layer


@pytest.mark.parametrize("images", [50, 2**15 + 1], ids=["one block", "several"])
@pytest.mark.parametrize("size", [1, 4, 6])
def test_standardised_features_are_the_pca_of_unit_vectors_on_one_scale(size, images):
    features = uneven(images)
    found = fitted(features, size)(features)
    unit = features.double() / features.double().norm(dim=1, keepdim=True)
    expected = torch.from_numpy(PCA(size, svd_solver="full").fit_transform(unit.numpy()))
    expected = expected / expected.square().mean().sqrt()  # one factor for all axes: no whitening
    signs = (found * expected).sum(dim=0).sign()
    torch.testing.assert_close(found.double(), signs * expected, rtol=1e-3, atol=1e-4)


def test_standardised_features_have_mean_0_a_total_deviation_of_1_and_falling_variances():
    features = uneven(300)
    found = fitted(features, 4)(features)
    assert found.mean(dim=0).tolist() == pytest.approx([0] * 4, abs=1e-5)
    assert found.square().mean().item() == pytest.approx(1, abs=1e-5)
    variances = found.square().mean(dim=0).tolist()
    assert variances == sorted(variances, reverse=True) and variances[0] > 2 * variances[-1]


def test_one_axis_by_hand():
    layer = fitted(torch.tensor([[5.0, 0], [0, 0.1]]), 1)  # (1, 0) and (0, 1): the axis is x - y, the mean 0
    others = torch.tensor([[5.0, 0], [0, 0.1], [3, 3], [-2, 0], [3, -4]])
    found = layer(others).flatten().tolist()  # of unit length: (-1, 0) has -1, (3/5, -4/5) has 7/5
    assert found == pytest.approx([found[0] * each for each in (1, -1, 0, -1, 1.4)], abs=1e-6)
    assert abs(found[0]) == pytest.approx(1)


def test_an_image_is_standardised_by_the_training_images_whatever_its_batch_and_length():
    features = uneven(300)
    layer, others = fitted(features[:200], 4), features[200:]
    torch.testing.assert_close(layer(others[:1]), layer(others)[:1])
    assert torch.equal(layer(8 * others), layer(others))
    assert layer.training and not list(layer.parameters())


def test_more_axes_than_features_are_refused_naming_both():
    with pytest.raises(UserError, match=r"feature_pca 7 .* 6$"):
        Standardize(6, 7)


def test_the_state_dict_brings_the_axes_back():
    features = uneven(300)
    layer, resumed = fitted(features, 4), Standardize(6, 4)
    resumed.load_state_dict(layer.state_dict())
    assert torch.equal(resumed(features), layer(features)) and layer(features).abs().max() > 1


# -- MLPHead


def loop_logits(head, features):
    """Two layers with GELU between them; for each image and cluster the cosine, times its gain, over 0.1."""
    state = {name: value.double() for name, value in head.state_dict().items()}
    rows = []
    for x in features:
        x = state["mlp.0.weight"] @ x + state["mlp.0.bias"]  # (512,)
        x = torch.tensor([each * (1 + math.erf(each / math.sqrt(2))) / 2 for each in x.tolist()]).double()
        x = state["mlp.2.weight"] @ x + state["mlp.2.bias"]  # (256,)
        cosines = [x @ w / math.sqrt(x @ x) / math.sqrt(w @ w) for w in state["weight"]]
        rows.append([cosine * gain / 0.1 for cosine, gain in zip(cosines, state["gain"], strict=True)])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.fixture
def head():
    torch.manual_seed(0)
    return MLPHead(20, 7)


@pytest.mark.parametrize("state", ["at the start", "later"])
def test_mlp_logits_are_cosines_times_gain_over_the_temperature(state, head):
    if state == "later":
        for parameter in head.parameters():
            nn.init.normal_(parameter, std=0.5)
    features = random(4, 20).double()
    torch.testing.assert_close(head.double()(features), loop_logits(head, features))


def test_an_mlp_starts_with_normal_weights_of_deviation_0_02_biases_of_0_and_gains_of_1(head):
    first, second = head.mlp[0], head.mlp[2]
    assert (first.weight.shape, second.weight.shape) == ((512, 20), (256, 512))
    for layer in (first, second):
        inside = (layer.weight.abs() < 0.02).double().mean().item()
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.03)
        assert layer.weight.mean().item() == pytest.approx(0, abs=1e-3)
        assert inside == pytest.approx(0.683, abs=0.02)  # within one deviation
        assert layer.bias.tolist() == [0] * len(layer.bias)
    assert head.gain.tolist() == [1] * 7 and head.weight.shape == (7, 256)


def test_of_a_clusters_direction_the_length_does_not_count_but_its_gain_does(head):
    features = random(4, 20)
    before = head(features)
    with torch.no_grad():
        head.weight[2] *= 5
        torch.testing.assert_close(head(features), before)
        head.gain[2] = 3
        expected = before * torch.tensor([1, 1, 3, 1, 1, 1, 1])
    torch.testing.assert_close(head(features), expected)


def test_every_part_of_an_mlp_head_learns(head):
    head(random(4, 20)).logsumexp(dim=1).sum().backward()
    assert len(list(head.parameters())) == 6
    assert all(parameter.grad.abs().max() > 0 for parameter in head.parameters())


# -- ClusterHeads, ClusteringModel

FORMS = pytest.mark.parametrize("form, kind", [("linear", nn.Linear), ("mlp", MLPHead)])


@FORMS
def test_cluster_heads_give_the_logits_of_each_head_which_start_differently(form, kind):
    heads = ClusterHeads(20, 7, 3, form)
    found = heads(random(4, 20))
    assert len(found) == 3 and all(type(head) is kind for head in heads)
    for head, logits in zip(heads, found, strict=True):
        torch.testing.assert_close(logits, head(random(4, 20)))
        assert logits.shape == (4, 7)
    assert not torch.allclose(found[0], found[1])


class Pooled(nn.Module):
    """A backbone of three features: the mean of each channel."""

    features_dim = 3

    def forward(self, images):
        return images.mean(dim=(2, 3))


@FORMS
@pytest.mark.parametrize("feature_pca", [0, 2])
def test_one_head_of_a_model_takes_the_backbones_features_to_the_models_logits(feature_pca, form, kind):
    model, images = ClusteringModel(Pooled(), 5, 3, form, feature_pca), random(4, 3, 2, 2)
    features = Pooled()(images)
    if feature_pca:
        model.standardize.fit(features)
    outputs = model(images)
    assert len(outputs) == 3
    for k, logits in enumerate(outputs):
        torch.testing.assert_close(model.head(k)(features), logits)
        given = fitted(features, 2)(features) if feature_pca else features
        torch.testing.assert_close(model.cluster_head[k](given), logits)
