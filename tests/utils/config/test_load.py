from pathlib import Path

import pytest
import yaml

from utils.config import check_stage, load_config, resume_differences, save_config
from utils.errors import UserError

CONFIGS = Path(__file__).parents[3] / "configs"
SHIPPED = sorted(CONFIGS.glob("*/*.yml"))


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """No configs/env.yml in sight, unless a test writes one."""
    monkeypatch.chdir(tmp_path)


def config(text="", *overrides, env=None):
    """The config of an experiment file `exp.yml` with this text."""
    Path("exp.yml").write_text(text)
    if env is not None:
        Path("env.yml").write_text(env)
    return load_config(None if env is None else "env.yml", "exp.yml", overrides)


def error_of(function, *args, **kwargs) -> str:
    with pytest.raises(UserError) as error:
        function(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def flat(tree, prefix=""):
    """A nested mapping as {dotted name: value}."""
    leaves = {}
    for name, value in tree.items():
        leaves.update(flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value})
    return leaves


def dotted_yaml(values) -> str:
    return "".join(f"{name}: {value}\n" for name, value in values.items())


# The shipped files


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_loads_and_is_complete_for_its_stage_and_for_evaluation(path):
    cfg = load_config(CONFIGS / "env.yml", path, ["folder.path=pictures"] * path.stem.endswith("_folder"))
    assert cfg.root_dir == "results"
    if path.stem != "imagenet_eval":
        check_stage(cfg, cfg.setup)
    check_stage(cfg, "eval")


CIFAR10 = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]}
CIFAR20 = {"mean": [0.5071, 0.4867, 0.4408], "std": [0.2675, 0.2565, 0.2761]}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
DATA = {  # data set: backbone, classes, side in pixels, normalisation
    "cifar-10": ("resnet18", 10, 32, CIFAR10),
    "cifar-20": ("resnet18", 20, 32, CIFAR20),
    "stl-10": ("resnet18", 10, 96, IMAGENET),
    "imagenet": ("resnet50", 1000, 224, IMAGENET),
    "imagenet_50": ("resnet50", 50, 224, IMAGENET),
    "imagenet_100": ("resnet50", 100, 224, IMAGENET),
    "imagenet_200": ("resnet50", 200, 224, IMAGENET),
}

PRETEXT_HEAD = {"model_kwargs": {"head": "mlp", "features_dim": 128}}
SIMCLR = {"setup": "simclr", **PRETEXT_HEAD, "criterion": "simclr", "criterion_kwargs": {"temperature": 0.1}}
MOCO = {"setup": "moco", **PRETEXT_HEAD, "temperature": 0.07}
SCAN = {"setup": "scan", "criterion": "scan", "criterion_kwargs": {"entropy_weight": 5.0}}
SCAN_SMALL = {**SCAN, "num_heads": 1, "num_neighbors": 20, "update_cluster_head_only": False}
SCAN_EVAL = {**SCAN, "num_heads": 10, "num_neighbors": 50}
SCAN_LARGE = {**SCAN_EVAL, "update_cluster_head_only": True}
SELFLABEL = {
    "setup": "selflabel",
    "num_heads": 1,
    "criterion": "confidence-cross-entropy",
    "confidence_threshold": 0.99,
}
SELF_SMALL = {**SELFLABEL, "criterion_kwargs": {"apply_class_balancing": True}, "use_ema": False}
SELF_LARGE = {
    **SELFLABEL,
    "criterion_kwargs": {"apply_class_balancing": False},
    "use_ema": True,
    "ema_alpha": 0.999,
}


def sgd(lr, weight_decay):
    kwargs = {"lr": lr, "weight_decay": weight_decay, "momentum": 0.9, "nesterov": False}
    return {"optimizer": "sgd", "optimizer_kwargs": kwargs, "scheduler": "constant"}


ADAM = {
    "optimizer": "adam",
    "optimizer_kwargs": {"lr": 0.0001, "weight_decay": 0.0001},
    "scheduler": "constant",
}
COSINE = {**sgd(0.4, 0.0001), "scheduler": "cosine", "scheduler_kwargs": {"lr_decay_rate": 0.1}}
NONE = {}

PUBLISHED = {  # file: data set, stage, views (`ours` with its cutout length), optimizer, batch, epochs, workers
    "pretext/simclr_cifar10": ("cifar-10", SIMCLR, "simclr", COSINE, 512, 500, 8),
    "pretext/simclr_cifar20": ("cifar-20", SIMCLR, "simclr", COSINE, 512, 500, 8),
    "pretext/simclr_stl10": ("stl-10", SIMCLR, "simclr", COSINE, 512, 500, 8),
    "pretext/moco_imagenet50": ("imagenet_50", MOCO, None, NONE, 256, None, 8),
    "pretext/moco_imagenet100": ("imagenet_100", MOCO, None, NONE, 256, None, 8),
    "pretext/moco_imagenet200": ("imagenet_200", MOCO, None, NONE, 256, None, 8),
    "scan/scan_cifar10": ("cifar-10", SCAN_SMALL, "ours 16", ADAM, 128, 50, 8),
    "scan/scan_cifar20": ("cifar-20", SCAN_SMALL, "ours 16", ADAM, 512, 100, 8),
    "scan/scan_stl10": ("stl-10", SCAN_SMALL, "ours 32", ADAM, 128, 100, 8),
    "scan/scan_imagenet_50": ("imagenet_50", SCAN_LARGE, "simclr", sgd(5.0, 0.0), 512, 100, 12),
    "scan/scan_imagenet_100": ("imagenet_100", SCAN_LARGE, "simclr", sgd(5.0, 0.0), 1024, 100, 16),
    "scan/scan_imagenet_200": ("imagenet_200", SCAN_LARGE, "simclr", sgd(5.0, 0.0), 1024, 100, 12),
    "scan/imagenet_eval": ("imagenet", SCAN_EVAL, "simclr", NONE, None, None, 12),
    "selflabel/selflabel_cifar10": ("cifar-10", SELF_SMALL, "ours 16", ADAM, 1000, 200, 8),
    "selflabel/selflabel_cifar20": ("cifar-20", SELF_SMALL, "ours 16", ADAM, 1000, 200, 8),
    "selflabel/selflabel_stl10": ("stl-10", SELF_SMALL, "ours 32", ADAM, 1000, 100, 8),
    "selflabel/selflabel_imagenet_50": ("imagenet_50", SELF_LARGE, "ours 75", sgd(0.03, 0.0), 512, 25, 16),
    "selflabel/selflabel_imagenet_100": ("imagenet_100", SELF_LARGE, "ours 75", sgd(0.03, 0.0), 512, 25, 12),
    "selflabel/selflabel_imagenet_200": ("imagenet_200", SELF_LARGE, "ours 75", sgd(0.03, 0.0), 512, 25, 8),
}


def train_views(views, side, normalize):
    if views is None:
        return {}
    if views == "simclr":
        kwargs = {
            "random_resized_crop": {"size": side, "scale": [0.2, 1.0]},
            "color_jitter_random_apply": {"p": 0.8},
            "color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
            "random_grayscale": {"p": 0.2},
        }
    else:
        cutout = {"n_holes": 1, "length": int(views.removeprefix("ours ")), "random": True}
        kwargs = {"crop_size": side, "num_strong_augs": 4, "cutout_kwargs": cutout}
    return {
        "augmentation_strategy": views.split()[0],
        "augmentation_kwargs": {**kwargs, "normalize": normalize},
    }


@pytest.mark.parametrize("file", PUBLISHED)
def test_the_published_files_hold_the_published_keys_and_values_and_no_others(file):
    name, stage, views, optimizer, batch_size, epochs, num_workers = PUBLISHED[file]
    backbone, num_classes, side, normalize = DATA[name]
    numbers = {"batch_size": batch_size, "epochs": epochs, "num_workers": num_workers}
    expected = {
        **stage,
        **optimizer,
        **train_views(views, side, normalize),
        **{key: number for key, number in numbers.items() if number is not None},
        "backbone": backbone,
        "num_classes": num_classes,
        "train_db_name": name,
        "val_db_name": name,
        "transformation_kwargs": {"crop_size": side, "normalize": normalize},
    }
    assert (
        yaml.safe_load((CONFIGS / f"{file}.yml").read_text()) == expected
    )  # read as any YAML 1.1 tool reads it


# Where a value comes from


def test_the_table_gives_way_to_the_env_file_that_to_the_experiment_and_that_to_the_command_line():
    assert config().log_every == 10
    assert config(env="log_every: 2").log_every == 2
    assert config("log_every: 3", env="log_every: 2").log_every == 3
    assert config("log_every: 3", "log_every=4", env="log_every: 2").log_every == 4
    assert config("", "log_every=4", "log_every=5").log_every == 5


def test_mappings_are_merged_key_by_key():
    cfg = config("model_kwargs: {head: mlp}", "model_kwargs.features_dim=8", env="model_kwargs: {width: 16}")
    assert cfg.model_kwargs == {"stem": "auto", "width": 16, "head": "mlp", "features_dim": 8}
    assert cfg.model_kwargs.features_dim == 8  # by attribute, at every level


def test_an_override_may_be_any_yaml_value():
    normalize = config(
        "", "transformation_kwargs.normalize={mean: [0, .5, 1], std: [1, 1, 1]}"
    ).transformation_kwargs
    assert normalize == {"normalize": {"mean": [0.0, 0.5, 1.0], "std": [1.0, 1.0, 1.0]}}
    assert config("", "db_root_dir.cifar-10=/data/a=b").db_root_dir == {"cifar-10": "/data/a=b"}


def test_without_an_env_path_the_one_under_configs_is_read_if_it_is_there():
    assert config().root_dir == "results"
    Path("configs").mkdir()
    Path("configs/env.yml").write_text("root_dir: elsewhere")
    assert config().root_dir == "elsewhere"
    assert config(env="").root_dir == "results"


@pytest.mark.parametrize(
    "path, name",
    [
        ("a/my pictures", "my pictures"),
        ("a/b/", "b"),
        (".", "here"),
        ("a/..", "here"),
        ("..", "above"),
        ("/", "folder"),
    ],
)
def test_a_run_on_own_pictures_is_named_after_their_folder(path, name, tmp_path, monkeypatch):
    (tmp_path / "above" / "here").mkdir(parents=True)
    file = (CONFIGS / "pretext/simclr_folder.yml").resolve()
    monkeypatch.chdir(tmp_path / "above" / "here")
    cfg = load_config(None, file, [f"folder.path={path}"])
    assert (cfg.run_name, cfg.scan_dir) == (name, f"results/{name}/scan")
    assert load_config(None, file, [f"folder.path={path}", "run_name=own"]).run_name == "own"


def test_the_folder_of_another_data_set_names_no_run():
    assert load_config(None, CONFIGS / "pretext/simclr_digits.yml", ["folder.path=a"]).run_name == "digits"


def test_the_defaults():
    assert config() == {
        "root_dir": "results",
        "seed": 0,
        "device": "auto",
        "precision": "auto",
        "knn_backend": "auto",
        "knn_every": 10,
        "log_every": 10,
        "num_workers": 16,
        "knn_index": "Flat",
        "on_error": "stop",
        "folder": {"val_share": 0.2, "labels": "none"},
        "num_heads": 1,
        "cached_views": 0,
        "use_ema": False,
        "ema_batch_norm": "start",
        "model_kwargs": {"stem": "auto", "width": 64},
    }


def test_a_run_is_named_after_its_data_set_and_starts_from_its_own_folder():
    cfg = config("train_db_name: stl-10")
    assert (cfg.run_name, cfg.pretext_dir, cfg.scan_dir) == (
        "stl-10",
        "results/stl-10/pretext",
        "results/stl-10/scan",
    )
    cfg = config("train_db_name: stl-10", "run_name=seed1", "root_dir=out", "pretext_dir=other/pretext")
    assert (cfg.run_name, cfg.pretext_dir, cfg.scan_dir) == ("seed1", "other/pretext", "out/seed1/scan")


@pytest.mark.parametrize(
    "setup, mined, layer",
    [("simclr", 20, "head"), ("moco", 50, "backbone"), ("scan", None, None), ("selflabel", None, None)],
)
def test_how_many_neighbors_are_mined_and_where_follows_the_pretext_task(setup, mined, layer):
    cfg = config(f"setup: {setup}")
    assert (cfg.get("num_neighbors"), cfg.get("feature_layer")) == (mined, layer)
    assert config(f"setup: {setup}\nnum_neighbors: 7").num_neighbors == 7


# Types


@pytest.mark.parametrize(
    "key, text, value",
    [
        ("optimizer_kwargs.lr", "1e-4", 0.0001),
        ("optimizer_kwargs.lr", "1E4", 10000.0),
        ("optimizer_kwargs.lr", ".1", 0.1),
        ("optimizer_kwargs.lr", '"0.1"', 0.1),
        ("optimizer_kwargs.lr", "1", 1.0),
        ("batch_size", "512", 512),
        ("batch_size", '"512"', 512),
        ("batch_size", "512.0", 512),
        ("batch_size", "1e3", 1000),
        ("batch_size", "010", 10),
        ("seed", "4294967295", 4294967295),
        ("use_ema", "True", True),
        ("use_ema", "yes", True),
        ("use_ema", "on", True),
        ("use_ema", "off", False),
        ("use_ema", '"False"', False),
        ("run_name", "007", "007"),
        ("run_name", "1e3", "1e3"),
        ("run_name", "no", "no"),
        ("scheduler_kwargs.lr_decay_epochs", "[30, 60.0]", [30, 60]),
        ("scheduler_kwargs.lr_decay_epochs", "[]", []),
        ("criterion_kwargs.cluster_prior", "[3, 0.5]", [3.0, 0.5]),
        ("augmentation_kwargs.random_resized_crop.scale", "[0.2, 1]", [0.2, 1.0]),
    ],
)
@pytest.mark.parametrize("source", ["file", "command line"])
def test_a_value_takes_the_type_of_its_key(key, text, value, source):
    cfg = config(f"{key}: {text}") if source == "file" else config("", f"{key}={text}")
    loaded = flat(cfg)[key]
    assert loaded == value and type(loaded) is type(value)
    if isinstance(value, list):
        assert [type(item) for item in loaded] == [type(item) for item in value]


def test_a_tilde_in_a_path_means_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    assert config("root_dir: ~/results").root_dir == "/home/anna/results"


@pytest.mark.parametrize(
    "key, text, wanted",
    [
        ("batch_size", "ten", "a whole number"),
        ("batch_size", "12.5", "a whole number"),
        ("batch_size", "True", "a whole number"),
        ("batch_size", "yes", "a whole number"),
        ("batch_size", "[512]", "a whole number"),
        ("batch_size", "{train: 512}", "a whole number"),
        ("batch_size", "{}", "a whole number"),
        ("batch_size", "", "a whole number"),
        ("batch_size", "null", "a whole number"),
        ("optimizer_kwargs.lr", "fast", "a number"),
        ("optimizer_kwargs.lr", "True", "a number"),
        ("optimizer_kwargs.lr", "1:30", "a number"),
        ("optimizer_kwargs.lr", "nan", "a number"),
        ("optimizer_kwargs.lr", "inf", "a number"),
        ("use_ema", "1", "True or False"),
        ("use_ema", "maybe", "True or False"),
        ("run_name", "", "text"),
        ("run_name", "~", "text"),
        ("run_name", "[a]", "text"),
        ("scheduler_kwargs.lr_decay_epochs", "30", "a list of whole numbers"),
        ("scheduler_kwargs.lr_decay_epochs", "[30.5]", "a list of whole numbers"),
        ("criterion_kwargs.cluster_prior", "0.5", "a list of numbers"),
        ("criterion_kwargs.cluster_prior", "[0.5, half]", "a list of numbers"),
        ("augmentation_kwargs.random_resized_crop.scale", "0.2", "two numbers"),
        ("augmentation_kwargs.random_resized_crop.scale", "[0.2]", "two numbers"),
        ("augmentation_kwargs.random_resized_crop.scale", "[1.0, 0.2]", "two numbers [low, high]"),
        ("transformation_kwargs.normalize.mean", "0.5", "three numbers"),
        ("transformation_kwargs.normalize.mean", "[0.5, 0.5]", "three numbers"),
        ("transformation_kwargs.normalize.mean", "[0.5, 0.5, a]", "three numbers"),
    ],
)
def test_a_value_of_another_type_is_refused_with_key_and_source(key, text, wanted):
    message = error_of(config, f"{key}: {text}")
    assert message.startswith(f"exp.yml: {key} should be {wanted}")
    message = error_of(config, "", f"{key}={text}")
    assert message.startswith(f"command line: {key} should be {wanted}")


def test_a_refused_value_is_shown_as_it_was_written():
    assert error_of(config, "batch_size: ten") == "exp.yml: batch_size should be a whole number, not ten"
    assert error_of(config, "batch_size: 1") == (
        "exp.yml: batch_size should be a whole number >=2 and <=1000000, not 1"
    )
    assert error_of(config, "batch_size:").endswith("not empty")
    assert error_of(config, "batch_size: {a: 1}").endswith("not a mapping")
    assert error_of(config, 'batch_size: "1\\n2"').endswith(r"not '1\n2'")
    assert (
        error_of(config, "", "optimizer=adamw")
        == "command line: optimizer should be one of sgd, adam, not adamw"
    )


AUGMENT = "augmentation_kwargs"


@pytest.mark.parametrize(
    "key, accepted, refused",
    [
        ("setup", ["simclr", "moco", "scan", "selflabel"], ["SCAN", "eval"]),
        ("train_db_name", [*DATA, "digits", "fashion-mnist"], ["cifar10", "imagenet50"]),
        ("val_db_name", [*DATA, "digits", "fashion-mnist"], ["cifar10", "test"]),
        ("backbone", ["resnet18", "resnet50"], ["resnet34"]),
        ("device", ["auto", "cpu", "cuda"], ["cuda:0", "gpu"]),
        ("precision", ["auto", "fp32", "bf16"], ["fp16"]),
        ("knn_backend", ["auto", "faiss", "torch"], ["sklearn"]),
        ("model_kwargs.stem", ["auto", "cifar", "stl", "imagenet"], ["cifar-10"]),
        ("model_kwargs.head", ["mlp", "linear"], ["none"]),
        ("criterion", ["simclr", "scan", "confidence-cross-entropy"], ["moco"]),
        ("optimizer", ["sgd", "adam"], ["lars"]),
        ("scheduler", ["constant", "cosine", "step"], ["linear"]),
        ("augmentation_strategy", ["standard", "simclr", "ours", "affine"], ["strong"]),
        ("seed", [0, 1], [-1]),
        ("epochs", [1, 1000000], [0, 1000001]),
        ("max_images", [1, 1000000000], [0, 1e10]),
        ("batch_size", [2, 1000000], [1, 1e30]),
        ("num_workers", [0, 1024], [-1, 1025]),
        ("save_minutes", [0.1, 60], [0, -1]),
        ("knn_every", [1], [0]),
        ("log_every", [1], [0]),
        ("num_classes", [2, 100000], [1, 1e6]),
        ("num_heads", [1, 1000], [0, 1001]),
        ("num_neighbors", [1, 10000], [0, 10001]),
        ("model_kwargs.width", [1, 1024], [0, 1025]),
        ("model_kwargs.features_dim", [1, 65536], [0, 1e30]),
        ("confidence_threshold", [0.01, 0.99], [0, 1, 1.5]),
        ("ema_alpha", [0, 0.999], [-0.1, 1]),
        ("temperature", [0.07], [0]),
        ("criterion_kwargs.temperature", [0.1], [0, -1]),
        ("criterion_kwargs.entropy_weight", [0, 5], [-0.1]),
        ("criterion_kwargs.cluster_prior", ["[3, 1]", "[1e-9, 1000000]"], ["[3, 0]", "[3, -1]", "[1e39, 1]"]),
        ("optimizer_kwargs.lr", [1e-9, 5, 1000000], [0, -1, 1e39]),
        ("optimizer_kwargs.weight_decay", [0, 1000000], [-1e-4, 1e39]),
        ("optimizer_kwargs.momentum", [0, 0.9], [1, -0.1]),
        ("scheduler_kwargs.lr_decay_rate", [0.1, 1], [0, 1.1]),
        ("scheduler_kwargs.lr_decay_epochs", ["[0, 5]"], ["[5, -1]"]),
        (f"{AUGMENT}.random_resized_crop.size", [1, 4096], [0, 4097]),
        (f"{AUGMENT}.random_resized_crop.scale", ["[0.2, 1]", "[1, 1]"], ["[0, 1]", "[0.2, 1.1]"]),
        (f"{AUGMENT}.color_jitter_random_apply.p", [0, 1], [-0.1, 1.1]),
        (f"{AUGMENT}.color_jitter.brightness", [0, 2, 100], [-0.1, 101]),
        (f"{AUGMENT}.color_jitter.contrast", [0, 2, 100], [-0.1, 101]),
        (f"{AUGMENT}.color_jitter.saturation", [0, 2, 100], [-0.1, 101]),
        (f"{AUGMENT}.color_jitter.hue", [0, 0.5], [-0.1, 0.51]),
        (f"{AUGMENT}.random_grayscale.p", [0, 1], [-0.1, 1.1]),
        (f"{AUGMENT}.crop_size", [1, 4096], [0, 4097]),
        (f"{AUGMENT}.num_strong_augs", [0, 100], [-1, 101]),
        (f"{AUGMENT}.cutout_kwargs.n_holes", [0, 100], [-1, 101]),
        (f"{AUGMENT}.cutout_kwargs.length", [1, 4096], [0, 4097]),
        (f"{AUGMENT}.random_affine.degrees", [0, 10, 360], [-1, 361]),
        (f"{AUGMENT}.random_affine.scale", ["[0.8, 1.2]", "[0.01, 100]"], ["[0, 1]", "[1, 101]"]),
        (f"{AUGMENT}.random_affine.aspect", ["[0.8, 1.25]", "[0.01, 100]"], ["[0, 1]", "[1, 101]"]),
        (f"{AUGMENT}.random_affine.shear", [0, 0.3, 10], [-0.1, 11]),
        (f"{AUGMENT}.random_affine.translate", [0, 1], [-0.1, 1.1]),
        (f"{AUGMENT}.normalize.mean", ["[0, 0.5, 1]"], ["[123.7, 116.3, 103.5]"]),
        (f"{AUGMENT}.normalize.std", ["[0.1, 0.5, 1]"], ["[0.2, 0, 0.2]"]),
        ("transformation_kwargs.crop_size", [1, 4096], [0, 4097]),
        ("transformation_kwargs.normalize.std", ["[0.1, 0.5, 1]"], ["[0.2, 0, 0.2]"]),
    ],
)
def test_a_value_outside_its_range_is_refused(key, accepted, refused):
    for value in accepted:
        assert key in flat(config("", f"{key}={value}"))
    for value in refused:
        assert error_of(config, "", f"{key}={value}").startswith(f"command line: {key} should be ")


# Files and arguments that cannot be read


@pytest.mark.parametrize(
    "text, unknown, nearest",
    [
        ("epoch: 3", "epoch", "epochs"),
        ("batchsize: 3", "batchsize", "batch_size"),
        ("optimiser_kwargs: {lr: 1}", "optimiser_kwargs", "optimizer_kwargs"),
        ("optimizer_kwargs: {lrr: 1}", "optimizer_kwargs.lrr", "optimizer_kwargs.lr"),
        ("lr: 1", "lr", "optimizer_kwargs.lr"),  # the right word in the wrong place
        ("db_root_dir: {cifar10: /data}", "db_root_dir.cifar10", "db_root_dir.cifar-10"),
        ("1: 2", "1", None),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(text, unknown, nearest):
    message = error_of(config, text)
    assert message.startswith(f"exp.yml: unknown key {unknown!r}")
    if nearest:
        assert message.endswith(repr(nearest))


def test_an_unknown_key_names_the_source_it_stands_in():
    assert error_of(config, env="epoch: 3").startswith("env.yml: ")
    assert error_of(config, "", "epoch=3").startswith("command line: ")


@pytest.mark.parametrize("value", ["3", "adam", "[lr, 3]", ""])
def test_a_value_where_a_mapping_belongs_is_refused(value):
    message = error_of(config, f"optimizer_kwargs: {value}")
    assert message.startswith("exp.yml: optimizer_kwargs should be a mapping")


@pytest.mark.parametrize("text", ["- seed", "seed", "[1, 2]"])
def test_a_file_that_is_no_mapping_is_refused(text):
    assert error_of(config, text).startswith("exp.yml: should be a mapping")


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_a_file_without_keys_is_the_defaults(text):
    assert config(text) == config("seed: 0")


@pytest.mark.parametrize(
    "text, line, what",
    [
        ("seed: 1\noptimizer_kwargs:\n\tlr: 1\n", 3, r"'\t'"),
        ("seed: 1\nepochs: [2\n", 3, "expected"),
        ("seed: 1\nepochs: 2: 3\n", 2, "mapping values are not allowed"),
        ("seed: 1\nepochs: 2\nseed: 1\n", 3, "duplicate key 'seed'"),
        ("optimizer_kwargs:\n  lr: 1\n  lr: 1\n", 3, "duplicate key 'lr'"),
        ("seed: *other", 1, "undefined alias"),
        ("? [seed]\n: 1", 1, "unhashable"),
    ],
)
def test_broken_yaml_is_refused_with_its_line(text, line, what):
    message = error_of(config, text)
    assert message.startswith(f"exp.yml, line {line}: ") and what in message


def test_the_same_word_in_two_mappings_is_no_duplicate():
    cfg = config("criterion_kwargs: {temperature: 0.1}\ntemperature: 0.2")
    assert (cfg.temperature, cfg.criterion_kwargs.temperature) == (0.2, 0.1)


def test_a_binary_file_is_refused():
    Path("exp.yml").write_bytes(b"seed: \xff\x00")
    assert "not a text file" in error_of(load_config, None, "exp.yml")


@pytest.mark.parametrize("env, exp", [(None, "missing.yml"), ("missing.yml", "exp.yml")])
def test_a_missing_file_is_named_with_its_absolute_path(env, exp, tmp_path):
    Path("exp.yml").write_text("seed: 1")
    assert str(tmp_path / "missing.yml") in error_of(load_config, env, exp)


def test_an_override_must_have_an_equals_sign():
    assert "'seed'" in error_of(config, "", "seed")
    assert error_of(config, "", "seed=1: 2").startswith("command line: seed")


# What a stage needs

COMMON = {
    *("setup", "backbone", "train_db_name", "val_db_name", "transformation_kwargs.crop_size"),
    *("transformation_kwargs.normalize.mean", "transformation_kwargs.normalize.std"),
}
HEAD = {"model_kwargs.head", "model_kwargs.features_dim"}
TRAINING = {
    *(
        "epochs",
        "batch_size",
        "criterion",
        "optimizer",
        "optimizer_kwargs.lr",
        "optimizer_kwargs.weight_decay",
    ),
    *("scheduler", "augmentation_strategy", f"{AUGMENT}.normalize.mean", f"{AUGMENT}.normalize.std"),
}
SGD = {"optimizer_kwargs.momentum", "optimizer_kwargs.nesterov"}
SIMCLR_VIEWS = {
    *(f"{AUGMENT}.random_resized_crop.{key}" for key in ("size", "scale")),
    *(f"{AUGMENT}.color_jitter.{key}" for key in ("brightness", "contrast", "saturation", "hue")),
    *(f"{AUGMENT}.color_jitter_random_apply.p", f"{AUGMENT}.random_grayscale.p"),
}
STRONG_VIEWS = {
    *(f"{AUGMENT}.crop_size", f"{AUGMENT}.num_strong_augs"),
    *(f"{AUGMENT}.cutout_kwargs.n_holes", f"{AUGMENT}.cutout_kwargs.length"),
}
NEEDED = {
    "pretext/simclr_cifar10": COMMON
    | HEAD
    | TRAINING
    | SGD
    | SIMCLR_VIEWS
    | {"criterion_kwargs.temperature", "scheduler_kwargs.lr_decay_rate"},
    "pretext/moco_imagenet50": COMMON | HEAD,
    "scan/scan_cifar10": COMMON
    | TRAINING
    | STRONG_VIEWS
    | {"num_classes", "num_neighbors", "update_cluster_head_only", "criterion_kwargs.entropy_weight"},
    "selflabel/selflabel_imagenet_50": COMMON
    | TRAINING
    | SGD
    | STRONG_VIEWS
    | {"num_classes", "confidence_threshold", "ema_alpha", "criterion_kwargs.apply_class_balancing"},
}


@pytest.mark.parametrize("file", NEEDED)
def test_a_stage_asks_for_exactly_the_keys_it_reads(file):
    values = flat(yaml.safe_load((CONFIGS / f"{file}.yml").read_text()))
    stage = values["setup"]
    asked_for = set()
    for name in values:
        without = config(dotted_yaml({other: value for other, value in values.items() if other != name}))
        try:
            check_stage(without, stage)
        except UserError as error:
            assert name in str(error)
            asked_for.add(name)
    assert asked_for == NEEDED[file]


@pytest.mark.parametrize(
    "overrides, missing",
    [
        (["optimizer=sgd"], ["optimizer_kwargs.momentum", "optimizer_kwargs.nesterov"]),
        (["scheduler=step"], ["scheduler_kwargs.lr_decay_rate", "scheduler_kwargs.lr_decay_epochs"]),
        (
            ["augmentation_strategy=standard"],
            [f"{AUGMENT}.random_resized_crop.size", f"{AUGMENT}.random_resized_crop.scale"],
        ),
        (
            ["augmentation_strategy=affine"],
            [
                f"{AUGMENT}.random_affine.{key}"
                for key in ("degrees", "scale", "aspect", "shear", "translate")
            ],
        ),
        (["use_ema=yes"], []),  # a key of self-labelling: SCAN does not read it
        (["scheduler=constant"], []),
    ],
)
def test_what_is_needed_follows_the_values_of_other_keys_and_is_listed_in_one_line(overrides, missing):
    cfg = load_config(None, CONFIGS / "scan/scan_cifar10.yml", overrides)
    if missing:
        assert f" lacks: {', '.join(missing)};" in error_of(check_stage, cfg, "scan")
    else:
        check_stage(cfg, "scan")


def test_a_file_without_setup_lacks_that_key():
    text = (CONFIGS / "scan/scan_cifar10.yml").read_text().replace("setup: scan", "")
    assert " lacks: setup;" in error_of(check_stage, config(text), "scan")


def test_every_missing_key_is_listed():
    message = error_of(check_stage, config("setup: moco\ntrain_db_name: imagenet"), "moco")
    assert all(name in message for name in (COMMON | HEAD) - {"setup", "train_db_name"})


def test_evaluation_needs_the_network_and_the_plain_view_only():
    pretext = {"pretext/simclr_cifar10": HEAD, "scan/scan_cifar10": {"num_classes"}}
    for file, own in pretext.items():
        values = flat(yaml.safe_load((CONFIGS / f"{file}.yml").read_text()))
        check_stage(config(dotted_yaml({name: values[name] for name in COMMON | own})), "eval")
        for name in own:
            kept = (COMMON | own) - {name}
            assert name in error_of(
                check_stage, config(dotted_yaml({key: values[key] for key in kept})), "eval"
            )


@pytest.mark.parametrize(
    "key", ["temperature: 0.07", f"{AUGMENT}: {{cutout_kwargs: {{random: True}}}}", "ema_alpha: 0.9"]
)
def test_a_known_key_that_the_stage_does_not_read_is_accepted(key):
    text = (CONFIGS / "pretext/moco_imagenet50.yml").read_text().replace("temperature: 0.07", "")
    check_stage(config(f"{text}\n{key}"), "moco")


@pytest.mark.parametrize("stage", ["simclr", "moco", "selflabel"])
def test_a_file_of_another_stage_is_refused_with_the_script_that_runs_it(stage):
    message = error_of(check_stage, load_config(None, CONFIGS / "scan/scan_cifar10.yml"), stage)
    assert "setup: scan" in message and "scan.py" in message and f"setup: {stage}" in message


@pytest.mark.parametrize(
    "file, wrong, right",
    [
        ("pretext/simclr_cifar10", "scan", "simclr"),
        ("scan/scan_cifar10", "simclr", "scan"),
        ("selflabel/selflabel_cifar10", "scan", "confidence-cross-entropy"),
    ],
)
def test_a_criterion_of_another_stage_is_refused(file, wrong, right):
    cfg = load_config(None, CONFIGS / f"{file}.yml", [f"criterion={wrong}"])
    message = error_of(check_stage, cfg, cfg.setup)
    assert f"criterion {wrong} " in message and f"write criterion: {right}" in message


PRIOR = "criterion_kwargs.cluster_prior"


def test_a_cluster_prior_has_a_number_for_each_cluster():
    check_stage(load_config(None, CONFIGS / "scan/scan_cifar10.yml", [f"{PRIOR}={[1] * 10}"]), "scan")
    for count in (0, 9, 11):
        cfg = load_config(None, CONFIGS / "scan/scan_cifar10.yml", [f"{PRIOR}={[1] * count}"])
        assert error_of(check_stage, cfg, "scan") == (
            f"{PRIOR} has {count} numbers, but num_classes is 10: give one for each cluster"
        )


@pytest.mark.parametrize("file", ["pretext/simclr_cifar10", "selflabel/selflabel_cifar10"])
def test_a_cluster_prior_is_for_scan_alone(file):
    cfg = load_config(None, CONFIGS / f"{file}.yml", [f"{PRIOR}={[1] * 1000}"])
    message = error_of(check_stage, cfg, cfg.setup)
    assert message.startswith(f"{PRIOR} is [1.0, 1.0, ") and "has no such term; leave it out" in message
    assert len(message) < 400


def test_self_labelling_has_one_head():
    cfg = load_config(None, CONFIGS / "selflabel/selflabel_cifar10.yml", ["num_heads=10"])
    assert "num_heads is 10" in error_of(check_stage, cfg, "selflabel")


# Saving and resuming


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_saved_config_loads_as_the_same_config(path):
    cfg = load_config(None, path)
    save_config(cfg, "saved.yml")
    assert load_config(None, "saved.yml") == cfg


def test_saving_keeps_values_that_yaml_would_misread():
    overrides = [
        "train_db_name=digits",
        "run_name=007",
        "optimizer_kwargs.lr=1e-7",
        "db_root_dir.stl-10='/über: all/#1'",
    ]
    cfg = config("", *overrides)
    save_config(cfg, "saved.yml")
    saved = load_config(None, "saved.yml")
    assert saved == cfg
    assert (saved.run_name, saved.optimizer_kwargs.lr, saved.db_root_dir["stl-10"]) == (
        "007",
        1e-7,
        "/über: all/#1",
    )


def test_the_saved_file_is_plain_yaml():
    save_config(config("train_db_name: digits\noptimizer_kwargs: {lr: 1}"), "saved.yml")
    tree = yaml.safe_load(Path("saved.yml").read_text())
    assert tree["optimizer_kwargs"] == {"lr": 1.0} and tree["pretext_dir"] == "results/digits/pretext"


RUN = "train_db_name: digits\nsetup: scan\nepochs: 5\nbatch_size: 128\noptimizer_kwargs: {lr: 1}\nrun_name: a"


def test_a_run_does_not_differ_from_itself():
    assert resume_differences(config(RUN), config(RUN)) == []


@pytest.mark.parametrize(
    "override",
    [
        "root_dir=moved",
        "device=cpu",
        "knn_backend=torch",
        "knn_every=3",
        "log_every=3",
        "num_workers=0",
        "epochs=50",
        "save_minutes=5",
        "db_root_dir.cifar-10=/data",
        "pretext_dir=other",
        "scan_dir=other",
    ],
)
def test_a_resume_may_change_where_and_how_long_it_runs(override):
    assert resume_differences(config(RUN), config(RUN, override)) == []


@pytest.mark.parametrize(
    "override, line",
    [
        ("batch_size=256", "batch_size: 128 -> 256"),
        ("optimizer_kwargs.lr=2", "optimizer_kwargs.lr: 1.0 -> 2.0"),
        ("optimizer_kwargs.weight_decay=0", "optimizer_kwargs.weight_decay: absent -> 0.0"),
        ("seed=1", "seed: 0 -> 1"),
        ("precision=bf16", "precision: auto -> bf16"),
        ("train_db_name=stl-10", "train_db_name: digits -> stl-10"),
        ("model_kwargs.width=32", "model_kwargs.width: 64 -> 32"),
        ("max_images=500", "max_images: absent -> 500"),
        (f"{PRIOR}=[2, 1]", f"{PRIOR}: absent -> [2.0, 1.0]"),
    ],
)
def test_a_resume_may_change_nothing_else(override, line):
    assert resume_differences(config(RUN), config(RUN, override)) == [line]


def test_a_key_that_is_gone_is_a_difference_too():
    assert resume_differences(config(RUN, "num_classes=10"), config(RUN)) == ["num_classes: 10 -> absent"]


def test_how_many_neighbors_are_mined_may_change_on_a_restart_but_not_how_many_scan_uses():
    for path, differences in (("pretext/simclr_digits", []), ("scan/scan_digits", ["num_neighbors: 5 -> 6"])):
        first, second = (
            load_config(None, CONFIGS / f"{path}.yml", [f"num_neighbors={number}"]) for number in (5, 6)
        )
        assert resume_differences(first, second) == differences


def test_nesterov_without_momentum_is_a_mistake():
    overrides = ["optimizer=sgd", "optimizer_kwargs.nesterov=True", "optimizer_kwargs.momentum=0"]
    cfg = load_config(None, CONFIGS / "pretext/simclr_cifar10.yml", overrides)
    with pytest.raises(UserError, match="momentum 0"):
        check_stage(cfg, "simclr")


# Nasty ones


@pytest.mark.parametrize(
    "text, message",
    [
        ('run_name: "a\\0b"', r"exp.yml: run_name should be text, not 'a\x00b'"),
        ('root_dir: "a\\nb"', r"exp.yml: root_dir should be a path, not 'a\nb'"),
        (
            'run_name: "\\uD800"',
            r"exp.yml: run_name should be text, not '\ud800'",
        ),  # half a pair: no file can be named so
        ('run_name: "\\UFFFFFFFF"', "exp.yml: cannot be read as YAML ("),
        (f"seed: {'[' * 1000}", "exp.yml: cannot be read as YAML ("),
        (f"seed: {'9' * 5000}", f"exp.yml: seed should be a whole number, not {'9' * 200}..."),
        (
            f"{'x' * 5000}: 1",
            "exp.yml, line 1: mapping values are not allowed here",
        ),  # YAML's keys end at 1024
        (f"{'x' * 1000}: 1", f"exp.yml: unknown key '{'x' * 199}...; the nearest one is "),
        (f"seed: *{'x' * 500}", f"exp.yml, line 1: found undefined alias '{'x' * 177}..."),
        (
            "seed: [&a [1], &b [*a, *a], [*b, *b]]",
            "exp.yml: seed should be a whole number, not [a list, a list, a list]",
        ),
        ("seed: &a [*a]", "exp.yml, line 1: found unconstructable recursive node"),
        (
            "seed: &a 1\nepochs: &a 2",
            "exp.yml, line 2: found duplicate anchor 'a'; first occurrence second occurrence",
        ),
        ("<<: {seed: 1}", "exp.yml: unknown key '<<'; the nearest one is "),
        (
            "seed: 1\n---\nseed: 2",
            "exp.yml, line 2: expected a single document in the stream but found another document",
        ),
        ("seed: !!python/object/apply:os.system [ls]", "exp.yml: seed should be a whole number, not [ls]"),
        ("seed: .nan", "exp.yml: seed should be a whole number, not .nan"),
        ("epochs: 1e30", "exp.yml: epochs should be a whole number >=1 and <=1000000, not 1e30"),
    ],
    ids=lambda text: text[:40],
)
def test_a_nasty_file_is_refused_in_one_short_line(text, message):
    found = error_of(config, text)
    assert found.startswith(message) and len(found) < 300


@pytest.mark.parametrize(
    "override, message",
    [
        ("=1", "command line: unknown key ''; the nearest one is "),
        (
            "a\nb={",
            r"command line: 'a\nb', line 1: while parsing a flow node expected the node content, but found",
        ),
        ("x" * 5000, f"command line: '{'x' * 199}... sets nothing; write it as key=value, such as seed=1"),
        (
            "seed=1\n---\n2",
            "command line: seed, line 2: expected a single document in the stream but found another",
        ),
        ("seed=\x07", "command line: seed: not a text file in UTF-8 (special characters are not allowed)"),
        ("optimizer_kwargs.lr==1", "command line: optimizer_kwargs.lr should be a number, not =1"),
    ],
    ids=lambda text: text[:40],
)
def test_a_nasty_argument_is_refused_in_one_short_line(override, message):
    found = error_of(config, "", override)
    assert found.startswith(message) and len(found) < 300


@pytest.mark.parametrize("name", ["..", "../run", "a/../../b", "/data/run"])
def test_a_run_name_may_not_lead_out_of_root_dir(name):
    cfg = load_config(None, CONFIGS / "scan/scan_digits.yml", [f"run_name={name}"])
    assert error_of(check_stage, cfg, "scan") == (
        f"run_name {name} leads out of root_dir: give a plain name, and the place as root_dir=..."
    )


@pytest.mark.parametrize("name", ["a..b", "sweep/1", "7", "ü 漢字"])
def test_a_run_name_may_be_any_other_text(name):
    check_stage(load_config(None, CONFIGS / "scan/scan_digits.yml", [f"run_name={name}"]), "scan")


def test_a_term_of_another_criterion_is_refused():
    cfg = load_config(None, CONFIGS / "pretext/simclr_digits.yml", ["criterion_kwargs.entropy_weight=5"])
    assert error_of(check_stage, cfg, "simclr") == (
        "criterion_kwargs.entropy_weight is 5.0, but criterion: simclr has no such term; leave it out"
    )


@pytest.mark.parametrize(
    "given, missing", [("length: 5", "n_holes"), ("n_holes: 1", "length"), ("random: True", "length")]
)
def test_affine_takes_a_whole_cutout_or_none(given, missing):
    whole = (CONFIGS / "scan/scan_digits.yml").read_text()
    cutout = "  cutout_kwargs:\n    n_holes: 1\n    length: 5\n    random: True\n"
    assert cutout in whole
    check_stage(config(whole.replace(cutout, "")), "scan")
    half = config(whole.replace(cutout, f"  cutout_kwargs: {{{given}}}\n"))
    message = error_of(check_stage, half, "scan")
    assert message.startswith(f"augmentation_kwargs.cutout_kwargs.{missing} is missing: ")


def test_adam_does_not_read_nesterov():
    overrides = ["optimizer_kwargs.nesterov=True", "optimizer_kwargs.momentum=0"]
    check_stage(load_config(None, CONFIGS / "scan/scan_digits.yml", overrides), "scan")


def test_a_long_list_of_missing_keys_is_cut():
    chosen = "setup: simclr\ntrain_db_name: digits\ncriterion: simclr\noptimizer: sgd\naugmentation_strategy: simclr"
    message = error_of(check_stage, config(chosen), "simclr")  # 25 keys are missing
    assert " lacks: epochs, batch_size, val_db_name, backbone, model_kwargs.head, " in message
    assert message.endswith(", ...; add them to its YAML") and len(message) < 400
