import pytest
import torch
from easydict import EasyDict
from sklearn.cluster import KMeans
from torch import nn

from data.augment.steps import Normalize
from data.dataset import ResidentDataset
from data.loader.build import eval_loader
from models import head_start
from models.head_start import prepare_heads, start_from_kmeans
from models.heads import ClusterHeads, ClusteringModel, Standardize
from utils.features import extract_features


def scattered(images=400, size=6, scale=1.0):
    """Features (N, D) without clear clusters, so that each k-means finds others; off 0, as after a ReLU."""
    return scale * (3 + torch.randn(images, size, generator=torch.Generator().manual_seed(0)))


def started(features, seed=0, num_heads=1):
    heads = ClusterHeads(features.shape[1], 5, num_heads)
    start_from_kmeans(heads, features, seed)
    return heads


def clusters_of(head, features):
    return head(features).argmax(dim=1)


def confidence(head, features):
    return head(features).softmax(dim=1).amax(dim=1).mean().item()


@pytest.fixture
def fits(monkeypatch):
    """scikit-learn's own k-means for each that was asked for: one start, the same seed."""
    models, fit = [], head_start.fit_kmeans

    def noted(features, num_clusters, seed, **options):
        models.append(KMeans(num_clusters, n_init=1, random_state=seed).fit(features.numpy()))
        return fit(features, num_clusters, seed, **options)

    monkeypatch.setattr(head_start, "fit_kmeans", noted)
    return models


# -- start_from_kmeans

SCALES = pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])


@SCALES
def test_the_likeliest_cluster_is_that_of_the_nearest_centre(scale, fits):
    features = scattered(scale=scale)
    heads = started(features, num_heads=3)
    others = scattered(500, scale=scale)[400:]  # which k-means has not seen
    for head, kmeans in zip(heads, fits, strict=True):
        for each in (features, others):
            assert clusters_of(head, each).tolist() == kmeans.predict(each.numpy()).tolist()


@SCALES
def test_the_weight_is_s_times_the_centre_and_the_bias_minus_s_times_half_its_square(scale, fits):
    (head,) = started(scattered(scale=scale))
    centres = torch.from_numpy(fits[0].cluster_centers_)  # (K, D)
    s = head.weight[0, 0].item() / centres[0, 0]
    torch.testing.assert_close(head.weight.detach(), s * centres)
    torch.testing.assert_close(head.bias.detach(), -s * (centres * centres).sum(dim=1) / 2)


@SCALES
@pytest.mark.parametrize("spread", [0.05, 1.0], ids=["clear clusters", "none"])
def test_the_mean_largest_probability_is_0_9_whatever_the_features_size(scale, spread):
    features = scale * (torch.eye(6)[torch.arange(400) % 5] + spread * scattered() / 3)
    for head in started(features, num_heads=2):
        assert confidence(head, features) == pytest.approx(0.9, abs=1e-4)


def test_of_many_images_the_first_2000_have_it_and_the_others_do_not_matter():
    features = scattered(3000)
    features[1000:2000] = 3 + 2 * (features[1000:2000] - 3)
    features[2000:] = 3 + 5 * (features[2000:] - 3)
    (head,) = started(features)
    assert confidence(head, features[:2000]) == pytest.approx(0.9, abs=1e-4)
    for part in (features, features[:1000], features[1000:2000], features[2000:]):
        assert abs(confidence(head, part) - 0.9) > 1e-3


def test_k_means_learns_from_all_images():
    features = torch.cat([scattered(2000), scattered(50) + 50])
    (head,) = started(features)
    far = clusters_of(head, features[2000:])
    assert not set(far.tolist()) & set(clusters_of(head, features[:2000]).tolist())


def partition(head, features):
    """For each image, the first image of its cluster."""
    clusters = clusters_of(head, features).tolist()
    return [clusters.index(each) for each in clusters]


def test_each_head_has_clusters_of_its_own_and_so_has_each_seed_but_the_same_seed_the_same():
    features = scattered()
    first, again, other = started(features, 0, 3), started(features, 0, 3), started(features, 1, 3)
    found = [tuple(partition(head, features)) for head in (*first, *other)]
    assert len(set(found)) == 6
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())


def test_a_head_has_the_same_start_among_more_heads():
    features = scattered()
    few, many = started(features, num_heads=1), started(features, num_heads=3)
    assert torch.equal(few[0].weight, many[0].weight)


def test_the_start_can_be_trained_on():
    (head,) = started(scattered())
    head(scattered()).sum().backward()
    assert isinstance(head.weight, nn.Parameter) and head.weight.grad.abs().max() > 0


# -- prepare_heads


class Backbone(nn.Module):
    """The pixels of an image of 2 x 2, times a weight."""

    features_dim = 12

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, images):
        return self.weight * images.flatten(1)


@pytest.fixture
def loader():
    images = torch.randint(256, (40, 3, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    dataset = ResidentDataset(images, torch.arange(40) % 4, list("abcd"))
    return eval_loader(dataset, (Normalize([0.0] * 3, [1.0] * 3),), "cpu")


def parameters_before(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(model, before):
    """The parts of the model that are not as before."""
    after = model.state_dict()
    return {name.split(".")[0] for name in before if not torch.equal(after[name], before[name])}


@pytest.mark.parametrize("form, options", [("linear", {"head_start": "random"}), ("mlp", {})])
def test_random_heads_without_feature_pca_stay_and_no_features_are_read(form, options):
    model = ClusteringModel(Backbone(), 4, 2, form)
    before = parameters_before(model)
    prepare_heads(
        EasyDict(augmentation_strategy="plain", **options), model, loader=None
    )  # nor is there a folder for features
    assert changed(model, before) == set()


@pytest.mark.parametrize("options", [{}, {"head_start": "kmeans"}], ids=["default", "kmeans"])
def test_linear_heads_start_by_k_means_of_the_backbones_features_with_the_runs_seed(
    options, loader, tmp_path
):
    model = ClusteringModel(Backbone(), 4, 2)
    prepare_heads(
        EasyDict(augmentation_strategy="plain", pretext_dir=str(tmp_path), seed=3, **options), model, loader
    )
    expected = ClusterHeads(12, 4, 2)
    start_from_kmeans(expected, extract_features(model.backbone, loader), seed=3)
    found = model.cluster_head.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in expected.state_dict().items())
    assert [path.name[:15] for path in tmp_path.glob("*.npy")] == ["features-train-"]  # as `plain` reads them


def test_with_feature_pca_the_features_are_standardised_first(loader, tmp_path):
    model = ClusteringModel(Backbone(), 4, 2, feature_pca=5)
    prepare_heads(
        EasyDict(augmentation_strategy="plain", pretext_dir=str(tmp_path), seed=3, feature_pca=5),
        model,
        loader,
    )
    features, standardize, heads = (
        extract_features(model.backbone, loader),
        Standardize(12, 5),
        ClusterHeads(5, 4, 2),
    )
    standardize.fit(features)
    start_from_kmeans(heads, standardize(features), seed=3)
    torch.testing.assert_close(model.standardize.state_dict(), standardize.state_dict())
    torch.testing.assert_close(model.cluster_head.state_dict(), heads.state_dict())


@pytest.mark.parametrize("form, options", [("linear", {"head_start": "random"}), ("mlp", {})])
def test_random_heads_behind_feature_pca_stay_but_the_features_are_standardised(
    form, options, loader, tmp_path
):
    model = ClusteringModel(Backbone(), 4, 2, form, feature_pca=5)
    before = parameters_before(model)
    prepare_heads(
        EasyDict(augmentation_strategy="plain", pretext_dir=str(tmp_path), seed=3, feature_pca=5, **options),
        model,
        loader,
    )
    assert changed(model, before) == {"standardize"}
    found = model.standardize(extract_features(model.backbone, loader))
    assert found.square().mean().item() == pytest.approx(1, abs=1e-4)
