"""Networks of timm and torchvision as backbones: which there are, what they see, which weights they take."""

import sys
from itertools import product
from urllib.error import URLError

import pytest
import timm
import torch
import torchvision
from easydict import EasyDict
from safetensors.torch import save_file
from torch.nn import functional as F
from torchvision.models import WeightsEnum
from torchvision.transforms.functional import pil_to_tensor

from data.augment import val_transform
from data.augment.strategies import apply
from models import build_model, use_plain_view
from models.foreign import read_backbone
from models.weights import load_whole
from tests.image_trees import picture
from tests.test_imports import imported, modules
from utils.errors import UserError

VIT, RESNET, MOBILENET = "timm:test_vit.r160_in1k", "timm:test_resnet", "torchvision:mobilenet_v2"
SHUFFLENET = "torchvision:shufflenet_v2_x0_5"
OTHERS = (RESNET, SHUFFLENET, "torchvision:mnasnet0_5")
LARGE = pytest.param("torchvision:vit_b_32", 64, marks=pytest.mark.slow)
OF_TORCHVISION = [  # one of each family that is not large
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "maxvit_t", "mnasnet0_5", "mobilenet_v2"),
    *("mobilenet_v3_small", "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "swin_t", "vit_b_16"),
]


def config(backbone, **plain):
    """That of step 1, with the view that the backbone takes."""
    cfg = EasyDict(setup="pretrained", train_db_name="digits", backbone=backbone, transformation_kwargs=plain)
    use_plain_view(cfg)
    return cfg


def small(backbone):
    return config(backbone, crop_size=32)


def in_library(backbone, num_classes=7):
    """The whole network with random weights that the library makes, in eval mode."""
    library, _, name = backbone.partition(":")
    torch.manual_seed(0)
    if library == "timm":
        return timm.create_model(name, num_classes=num_classes).eval()
    return torchvision.models.get_model(name, num_classes=num_classes).eval()


def error_of(function, *arguments):
    """The message of the UserError, which is one line."""
    with pytest.raises(UserError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def images(size=32):
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No network and no cache of downloads."""
    import huggingface_hub

    def unreachable(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))


# -- which networks there are


@pytest.mark.parametrize(
    "backbone, nearest",
    [
        ("timm:test_vti.r160_in1k", "test_vit"),
        ("timm:test_vit.r160_in2k", "test_vit.r160_in1k"),  # the tag
        ("torchvision:mobilenet_v9", "mobilenet_v2"),
        ("torchvision:fasterrcnn_resnet50", "resnet50"),  # is none of the classification networks
    ],
)
def test_of_a_name_that_the_library_has_not_the_nearest_is_named(backbone, nearest):
    for function in (config, lambda name: build_model(EasyDict(small(VIT), backbone=name))):
        words = error_of(function, backbone).replace(",", " ").replace(":", " ").split()
        assert nearest in words and backbone.partition(":")[2] in words


@pytest.mark.parametrize("name", ["squeezenet1_1", pytest.param("inception_v3", marks=pytest.mark.slow)])
def test_a_network_with_no_linear_layer_at_its_end_or_with_several_is_refused(name):
    assert name in error_of(build_model, small(f"torchvision:{name}"))


def test_a_backbone_ends_before_the_classifier_of_the_library():
    vit, mobilenet = in_library(VIT), in_library(MOBILENET)
    expected = {
        VIT: lambda x: vit.fc_norm(vit.forward_features(x)[:, 0]),
        MOBILENET: lambda x: mobilenet.features(x).mean(dim=(2, 3)),
    }
    for backbone, whole, size in ((VIT, vit, 160), (MOBILENET, mobilenet, 32)):
        model = build_model(config(backbone, crop_size=size))
        state = {f"backbone.{name}": value for name, value in whole.state_dict().items()}
        left_out = tuple(f"backbone.{layer}." for layer in model.backbone.classifier_layers)
        model.load_state_dict({k: v for k, v in state.items() if not k.startswith(left_out)})
        features = model.eval().backbone(images(size))
        torch.testing.assert_close(features, expected[backbone](images(size)))
        assert features.shape[1] == model.backbone.features_dim == {VIT: 64, MOBILENET: 1280}[backbone]


def test_a_vision_transformer_of_timm_takes_other_sizes_than_it_was_trained_on():
    model = build_model(small(VIT)).eval()
    assert model(images(48)).shape == (3, 64)
    assert build_model(small(VIT)).backbone.training  # as any new network


@pytest.mark.parametrize("backbone, size", [(VIT, 30), ("timm:test_coatnet", 32), LARGE])
def test_a_crop_size_that_the_network_refuses_is_named(backbone, size):
    message = error_of(build_model, config(backbone, crop_size=size))
    assert all(word in message for word in (backbone, str(size), "transformation_kwargs.crop_size"))


# -- the plain view


def plain_view(backbone, **given):
    return dict(config(backbone, **given).transformation_kwargs)


def test_the_plain_view_is_the_one_the_weights_were_trained_for():
    half = {"mean": [0.5] * 3, "std": [0.5] * 3}
    expected = {"crop_size": 160, "resize": 168, "interpolation": "bicubic", "normalize": half}  # 160 / 0.95
    assert plain_view(VIT) == expected
    imagenet = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    expected = {"crop_size": 224, "resize": 232, "interpolation": "bilinear", "normalize": imagenet}
    assert plain_view(MOBILENET) == expected
    assert plain_view(RESNET)["interpolation"] == "bilinear"


def test_what_is_given_of_the_plain_view_wins_and_the_resize_follows_the_crop():
    assert plain_view(VIT, crop_size=80)["resize"] == 84
    assert plain_view(MOBILENET, crop_size=112)["resize"] == 116
    assert plain_view(VIT, crop_size=80, resize=80)["resize"] == 80
    grey = {"mean": [0.1] * 3, "std": [0.2] * 3}
    given = {"crop_size": 64, "resize": 64, "interpolation": "bilinear", "normalize": grey}
    assert plain_view(VIT, **given) == plain_view(MOBILENET, **given) == given
    assert plain_view("resnet18", crop_size=16) == {"crop_size": 16}  # ours has no view of its own


@pytest.mark.parametrize("backbone", [VIT, RESNET, MOBILENET])
def test_an_image_looks_as_under_the_librarys_own_transform(backbone):
    image = picture(0, 300, 250)
    if backbone == MOBILENET:
        transform = torchvision.models.get_model_weights("mobilenet_v2").DEFAULT.transforms()
    else:
        settings = timm.get_pretrained_cfg(backbone.partition(":")[2]).to_dict()
        transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=settings))
    expected = transform(image)
    view = val_transform(config(backbone).transformation_kwargs)
    found = apply(view, pil_to_tensor(image)[None], torch.zeros(1, 0))[0]
    assert found.shape == expected.shape
    step = 1 / 255 / 0.224  # of pixel values
    assert (found - expected).abs().max() < 2 * step  # libraries round between resize and crop


# -- weights in a file


ENDINGS = [".safetensors", ".pth", "in state_dict"]
FORMS = list(product(ENDINGS, ["classifier", "no classifier"], ["", "module."]))


@pytest.mark.parametrize(
    "backbone, ending, classifier, prefix",
    [(VIT, *FORMS[row]) for row in (0, 3, 5, 6, 8, 11)]
    + [(other, *FORMS[row]) for other in OTHERS for row in (2, 5)],
)
def test_a_file_gives_the_backbone_all_its_tensors(backbone, ending, classifier, prefix, tmp_path):
    state = in_library(backbone).state_dict()
    left_out = ("head.", "fc.", "classifier.")
    assert any(name.startswith(left_out) for name in state)
    own = {name: value for name, value in state.items() if not name.startswith(left_out)}
    path, save = tmp_path / f"weights{ending}", torch.save
    named = state if classifier == "classifier" else own
    content = {f"{prefix}{name}": value for name, value in named.items()}
    if ending == ".safetensors":
        save = save_file
    elif ending != ".pth":
        path, content = tmp_path / "checkpoint.pth.tar", {"state_dict": content, "epoch": 3}
    save(content, path)

    cfg = small(backbone)
    model = build_model(cfg)
    load_whole(model, read_backbone(cfg, model, path), path)
    loaded = model.backbone.state_dict()
    assert loaded.keys() == own.keys() and all(torch.equal(loaded[name], own[name]) for name in own)
    whole = model.eval()(images())  # without a head: unit-length features
    torch.testing.assert_close(whole, F.normalize(model.backbone(images()), dim=1))


def load(path, backbone=VIT):
    cfg = small(backbone)
    model = build_model(cfg)
    load_whole(model, read_backbone(cfg, model, path), path)
    return model


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    "name, change",
    [
        ("blocks.0.attn.qkv.weight", lambda value: None),  # missing
        ("blocks.0.attn.qkv.weight", lambda value: value[:-1].clone()),
        ("norm.bias", lambda value: value * torch.nan),
        ("blocks.99.norm1.weight", lambda _: torch.ones(64)),  # left over
        ("head_dist.weight", lambda _: torch.ones(7, 64)),  # a second classifier is none of this network
    ],
    ids=["missing", "misshapen", "not finite", "left over", "begins like the classifier"],
)
def test_a_tensor_that_does_not_fit_is_named_and_nothing_is_loaded(name, change, ending, tmp_path):
    state = in_library(VIT).state_dict()
    state |= {name: change(state.get(name))}
    state = {key: value for key, value in state.items() if value is not None}
    path = tmp_path / f"weights{ending}"
    (torch.save if ending == ".pth" else save_file)(state, path)
    message = error_of(load, path)
    assert f"backbone.{name} " in message and str(path) in message


def test_weights_of_another_network_or_of_none_are_refused(tmp_path):
    path, table, absent = (
        tmp_path / "other.pth",
        tmp_path / "table.safetensors",
        tmp_path / "typo.safetensors",
    )
    torch.save(in_library(RESNET).state_dict(), path)
    table.write_text("path,label\n")
    for file in (path, table, absent, tmp_path):
        assert str(file) in error_of(load, file)


def test_a_pretext_model_of_ours_is_read_as_it_is(tmp_path):
    first, path = build_model(small(VIT)), tmp_path / "model.pth.tar"
    torch.save(first.state_dict(), path)
    state = load(path).state_dict()
    assert all(torch.equal(state[name], value) for name, value in first.state_dict().items())


@pytest.mark.parametrize("name", timm.list_models("test_*"))
def test_of_each_kind_of_network_in_timm_the_classifier_alone_is_left_over(name, tmp_path):
    path, backbone = tmp_path / "weights.pth", f"timm:{name}"
    torch.save(in_library(backbone).state_dict(), path)
    cfg = config(backbone)
    model = build_model(cfg)
    load_whole(model, read_backbone(cfg, model, path), path)


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_TORCHVISION)
def test_of_each_kind_of_network_in_torchvision_the_classifier_alone_is_left_over(name, tmp_path):
    path, backbone = tmp_path / "weights.pth", f"torchvision:{name}"
    whole = in_library(backbone)
    torch.save(whole.state_dict(), path)
    cfg = config(backbone)
    model = build_model(cfg)
    load_whole(model, read_backbone(cfg, model, path), path)
    size, inputs = cfg.transformation_kwargs.crop_size, []
    last = whole.get_submodule(model.backbone.classifier_layers[0])
    last.register_forward_hook(lambda _, arguments, __: inputs.append(arguments[0]))
    with torch.no_grad():
        logits = whole(images(size)[:1])
        torch.testing.assert_close(model.eval().backbone(images(size)[:1]), inputs[0])
        assert torch.equal(last(inputs[0]), logits)  # nothing comes after it


# -- weights that the library downloads


@pytest.mark.parametrize(
    "backbone, words",
    [
        (VIT, "model.safetensors timm/test_vit.r160_in1k"),
        (
            MOBILENET,
            "mobilenet_v2-7ebf99e0.pth https://download.pytorch.org/models/mobilenet_v2-7ebf99e0.pth",
        ),
        ("timm:test_vit4", "timm:test_vit4"),  # there are none
    ],
)
def test_weights_that_cannot_be_downloaded_are_named_with_file_and_place(backbone, words, nowhere):
    cfg = small(backbone)
    message = error_of(read_backbone, cfg, build_model(cfg), "hub")
    assert all(word in message.replace(",", " ").split() for word in (*words.split(), "weights=FILE"))
    assert "from ," not in message


@pytest.mark.parametrize("backbone", [VIT, SHUFFLENET])
def test_weights_of_the_library_are_taken_without_their_classifier(backbone, nowhere, monkeypatch):
    whole, create = in_library(backbone), timm.create_model
    asked = []

    def created(name, pretrained=False, **options):
        asked.append((name, pretrained))
        model = create(name, **options)
        if pretrained:
            model.load_state_dict(whole.state_dict(), strict=False)
        return model

    monkeypatch.setattr(timm, "create_model", created)
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: whole.state_dict())
    model = load("hub", backbone)
    assert asked.count(("test_vit.r160_in1k", True)) == (backbone == VIT)
    state = whole.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.backbone.state_dict().items())


def test_a_network_of_ours_has_no_hub():
    cfg = EasyDict(config("resnet18", crop_size=16), model_kwargs={"width": 2})
    assert "resnet18" in error_of(read_backbone, cfg, build_model(cfg), "hub")


# -- the library itself


def test_no_module_imports_a_library_of_networks_before_a_config_names_it():
    libraries = {"timm", "torchvision", "safetensors", "huggingface_hub"}
    paths = [path for path in modules() if any(name in path.read_text() for name in libraries)]
    assert len(paths) >= 4
    for path in [path for path in paths if path.parts[-2] != "datasets"]:
        assert not {name.partition(".")[0] for name in imported(path, at_the_top=True)} & libraries, path


def test_where_timm_is_not_installed_its_networks_are_refused_and_others_are_not(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] in ("timm", "safetensors")]:
        monkeypatch.setitem(sys.modules, name, None)
    assert "timm" in error_of(config, VIT)
    for backbone in ("resnet18", SHUFFLENET):
        build_model(EasyDict(config(backbone, crop_size=32), model_kwargs={"width": 2}))
