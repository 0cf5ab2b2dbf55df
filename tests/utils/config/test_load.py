from pathlib import Path

import pytest
import yaml

from utils.config import check_stage, config_hash, load_config, resume_differences, save_config
from utils.config.load import flatten
from utils.errors import UserError

CONFIGS = Path(__file__).parents[3] / "configs"
PUBLISHED = yaml.safe_load(Path(__file__).with_name("published.yml").read_text())["configs"]
AUGMENT = "augmentation_kwargs"
PRIOR = "criterion_kwargs.cluster_prior"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """No configs/env.yml in sight, unless a test writes one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("utils.mypath.SCRIPTS", tmp_path / "checkout")


def config(text="", *overrides, env=None):
    """The config of an experiment file `exp.yml` with this text."""
    Path("exp.yml").write_text(text)
    if env is not None:
        Path("env.yml").write_text(env)
    return load_config(None if env is None else "env.yml", "exp.yml", overrides)


def shipped(file, *overrides):
    return load_config(None, CONFIGS / f"{file}.yml", overrides)


def error_of(function, *args, **kwargs) -> str:
    with pytest.raises(UserError) as error:
        function(*args, **kwargs)
    message = str(error.value)
    assert "\n" not in message and len(message) < 500
    return message


# The shipped files


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yml")), ids=lambda path: path.stem)
def test_every_shipped_config_loads_and_is_complete_for_its_stage_and_for_evaluation(path):
    cfg = load_config(CONFIGS / "env.yml", path, ["folder.path=pictures"] * ("folder" in path.stem))
    assert cfg.root_dir == "results"
    if path.stem != "imagenet_eval":
        check_stage(cfg, cfg.setup)
    check_stage(cfg, "eval")
    save_config(cfg, "saved.yml")
    assert load_config(None, "saved.yml") == cfg


@pytest.mark.parametrize("file", PUBLISHED)
def test_the_published_files_hold_the_published_keys_and_values_and_no_others(file):
    assert yaml.safe_load((CONFIGS / f"{file}.yml").read_text()) == PUBLISHED[file]


# Where a value comes from


def test_the_command_line_wins_over_the_experiment_that_over_the_env_file_and_that_over_the_table():
    assert config().log_every == 10
    assert config(env="log_every: 2").log_every == 2
    assert config("log_every: 3", env="log_every: 2").log_every == 3
    assert config("log_every: 3", "log_every=4", env="log_every: 2").log_every == 4
    assert config("", "log_every=4", "log_every=5").log_every == 5


def test_mappings_of_different_sources_are_merged_key_by_key():
    cfg = config("model_kwargs: {head: mlp}", "model_kwargs.features_dim=8", env="model_kwargs: {width: 16}")
    assert cfg.model_kwargs == {"stem": "auto", "width": 16, "head": "mlp", "features_dim": 8}
    assert cfg.model_kwargs.features_dim == 8  # by attribute, at every level


def test_an_override_may_be_any_yaml_value():
    colors = "{mean: [0, .5, 1], std: [1, 1, 1]}"
    cfg = config("", f"transformation_kwargs.normalize={colors}", "db_root_dir.cifar-10=/data/a=b")
    assert cfg.transformation_kwargs.normalize == {"mean": [0.0, 0.5, 1.0], "std": [1.0, 1.0, 1.0]}
    assert cfg.db_root_dir == {"cifar-10": "/data/a=b"}


SIGNS = ["a #1", "a: b", "[x", "{a}", "*x", "&a b", "!b c", "%x", "@x", "`x`", "| x", "- x", "...", "---"]
WORDS = ["null", "yes", "010", "1e3", " a ", "a\tb", "'x'", '"x"', "it's", "-x", r"C:\n", "M\udce4rz"]


def saved_and_loaded(cfg):
    """The settings of a run of scan.py, written where its results lie and read from there."""
    folder = Path(cfg.root_dir, cfg.run_name, "scan")
    folder.mkdir(parents=True)
    (folder / "log.jsonl").touch()
    save_config(cfg, folder / "config.yml")
    return load_config(None, folder / "config.yml")


@pytest.mark.parametrize("name", SIGNS + WORDS)
def test_text_and_paths_on_the_command_line_are_taken_as_they_are_and_come_back_from_the_saved_config(name):
    overrides = [f"run_name={name}", f"root_dir={name}", f"db_root_dir.stl-10=/data/{name}"]
    cfg = config("", *overrides, "train_db_name=stl-10", "setup=scan")
    assert (cfg.run_name, cfg.root_dir, cfg.db_root_dir["stl-10"]) == (name, name, f"/data/{name}")
    assert saved_and_loaded(cfg) == cfg


def test_a_dollar_sign_that_was_meant_stays_one_in_the_saved_config(monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    cfg = config("", "root_dir=$$HOME/a$$", "run_name=$HOME", "train_db_name=digits", "setup=scan")
    assert (cfg.root_dir, cfg.run_name, cfg.scan_dir) == ("$HOME/a$", "$HOME", "$HOME/a$/$HOME/scan")
    assert saved_and_loaded(cfg) == cfg


def test_without_an_env_path_the_one_under_configs_is_read_if_it_is_there():
    assert config().root_dir == "results"
    Path("configs").mkdir()
    Path("configs/env.yml").write_text("root_dir: elsewhere")
    assert config().root_dir == "elsewhere"
    assert config(env="").root_dir == "results"


@pytest.fixture
def checkout(tmp_path):
    """What lies beside the scripts, when they are started elsewhere."""
    (tmp_path / "checkout/configs/scan").mkdir(parents=True)
    (tmp_path / "checkout/configs/env.yml").write_text("root_dir: /of/the/checkout")
    return tmp_path / "checkout"


def test_elsewhere_env_yml_beside_the_scripts_is_read_unless_there_is_one_here(checkout):
    assert config().root_dir == "/of/the/checkout"
    assert config(env="").root_dir == "results"
    Path("configs").mkdir()
    Path("configs/env.yml").write_text("root_dir: here")
    assert config().root_dir == "here"


def test_elsewhere_a_config_that_is_missing_here_is_named_beside_the_scripts(checkout):
    (checkout / "configs/scan/scan_digits.yml").write_text("")
    error = error_of(load_config, None, "configs/scan/scan_digit.yml")
    assert str(checkout / "configs/scan/scan_digits.yml") in error


@pytest.mark.parametrize("device", ["cuda:1", "gpu", "0", "GPU"])
def test_the_error_for_another_device_says_how_a_gpu_is_chosen(device):
    error = error_of(config, "", f"device={device}")
    assert device in error and "CUDA_VISIBLE_DEVICES" in error


OWN = [("a/my pictures", "my pictures"), ("a/b/", "b"), (".", "here"), ("a/..", "here"), ("/", "folder")]


@pytest.mark.parametrize("path, name", OWN)
def test_a_run_on_own_pictures_is_named_after_their_folder(path, name, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    cfg = shipped("pretext/simclr_folder", f"folder.path={path}")
    assert (cfg.run_name, cfg.scan_dir) == (name, f"results/{name}/scan")
    assert shipped("pretext/simclr_folder", f"folder.path={path}", "run_name=own").run_name == "own"
    assert shipped("pretext/simclr_digits", f"folder.path={path}").run_name == "digits"


def test_the_defaults():
    assert config("# nothing\n") == config("seed: 0") == config()
    assert config() == {
        **{"root_dir": "results", "seed": 0, "device": "auto", "precision": "auto", "batch_norm": "global"},
        "knn_backend": "auto",
        **{"knn_every": 10, "log_every": 10, "num_workers": 16, "knn_index": "Flat", "on_error": "stop"},
        **{"folder": {"val_share": 0.2, "labels": "none"}, "model_kwargs": {"stem": "auto", "width": 64}},
        **{"num_heads": 1, "cached_views": 0, "use_ema": False, "ema_batch_norm": "start"},
    }


def test_a_run_is_named_after_its_data_set_and_starts_from_its_own_folder():
    cfg = config("train_db_name: stl-10")
    assert cfg.run_name == "stl-10"
    assert (cfg.pretext_dir, cfg.scan_dir) == ("results/stl-10/pretext", "results/stl-10/scan")
    cfg = config("train_db_name: stl-10", "run_name=seed1", "root_dir=out", "pretext_dir=other/pretext")
    assert (cfg.run_name, cfg.pretext_dir, cfg.scan_dir) == ("seed1", "other/pretext", "out/seed1/scan")


def test_how_many_neighbors_are_mined_and_where_follows_the_pretext_task():
    for setup, mined in {"simclr": (20, "head"), "moco": (50, "backbone"), "scan": (None, None)}.items():
        cfg = config(f"setup: {setup}")
        assert (cfg.get("num_neighbors"), cfg.get("feature_layer")) == mined
        assert config(f"setup: {setup}\nnum_neighbors: 7").num_neighbors == 7


# Types and ranges


VALUES = {  # key: what is written, and the value of the key's type that it means
    "optimizer_kwargs.lr": {"1e-4": 0.0001, "1E4": 10000.0, '".1"': 0.1, "1": 1.0},
    "batch_size": {'"512"': 512, "512.0": 512, "1e3": 1000, "010": 10},
    "use_ema": {"True": True, "yes": True, "off": False, '"False"': False},
    "run_name": {"007": "007", "1e3": "1e3", "no": "no"},
    "scheduler_kwargs.lr_decay_epochs": {"[30, 60.0]": [30, 60], "[]": []},
    f"{AUGMENT}.random_resized_crop.scale": {"[0.2, 1]": [0.2, 1.0]},
}


@pytest.mark.parametrize("key", VALUES)
def test_a_value_takes_the_type_of_its_key(key):
    for text, value in VALUES[key].items():
        plain = text.strip('"')  # the shell takes quotes away
        for cfg in (config(f"{key}: {text}"), config("", f"{key}={plain}")):
            assert repr(flatten(cfg)[key]) == repr(value)  # tells 1 from 1.0


def test_a_tilde_and_variables_are_put_into_the_paths_of_all_sources(monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    assert config("root_dir: ~/results").root_dir == "/home/anna/results"
    assert config(env="root_dir: ${HOME}/results").root_dir == "/home/anna/results"
    assert config("", "folder.path=$HOME/a", "run_name=~").folder.path == "/home/anna/a"
    monkeypatch.delenv("SCRATCH", raising=False)
    for message in (error_of(config, "root_dir: $SCRATCH/a"), error_of(config, "", "root_dir=$SCRATCH/a")):
        assert "root_dir" in message and "$SCRATCH" in message


WRONG = {  # type: values that it does not take, for the key that stands for the type
    "batch_size": ["ten", "12.5", "True", "yes", "[512]", "{a: 1}", "{}", "null", "", ".nan", "9" * 5000],
    "optimizer_kwargs.lr": ["fast", "True", "1:30", "nan", "inf"],
    "use_ema": ["1", "maybe", "", "!!python/object/apply:os.system [ls]"],
    "scheduler_kwargs.lr_decay_epochs": ["30", "[30.5]", "[[30]]", "[&a [1], &b [*a, *a], [*b, *b]]"],
    PRIOR: ["0.5", "[0.5, half]"],
    f"{AUGMENT}.random_resized_crop.scale": ["0.2", "[0.2]", "[0.2, 0.5, 1]", "[1.0, 0.2]"],
    "transformation_kwargs.normalize.mean": ["0.5", "[0.5, 0.5]", "[0.5, 0.5, a]"],
}


@pytest.mark.parametrize("key", WRONG)
def test_a_value_of_another_type_is_refused_with_key_and_source(key):
    for text in WRONG[key]:
        assert error_of(config, f"{key}: {text}").startswith(f"exp.yml: {key} ")
        assert error_of(config, "", f"{key}={text}").startswith(f"command line: {key} ")


NO_NAMES = ["", "~", "null", "[a]", '"a\\0b"', '"a\\nb"', '"a\\Pb"', '"\\uD800"']
NO_NAMES += ["x" * 256, "漢" * 86, "x/" * 1600]


@pytest.mark.parametrize("text", NO_NAMES, ids=lambda text: text[:9])
@pytest.mark.parametrize("key", ["run_name", "root_dir"])
def test_text_that_no_file_can_have_as_its_name_is_refused(key, text):
    assert error_of(config, f"{key}: {text}").startswith(f"exp.yml: {key} ")
    meant = yaml.safe_load(text)
    if isinstance(meant, str):
        assert error_of(config, "", f"{key}={meant}").startswith(f"command line: {key} ")
    assert error_of(config, "", f"{key}=").startswith(f"command line: {key} ")


WINDOWS = [r"C:\Users\me", r"D:\new\table", r"D:\table", r"D:\Pictures", r"D:\_a", r"\\host\share"]


@pytest.mark.parametrize("path", WINDOWS)
def test_a_windows_path_in_double_quotes_is_refused_with_the_way_to_write_it(path):
    message = error_of(config, f'folder: {{path: "{path}"}}')
    assert message.startswith("exp.yml") and "single quotes" in message
    assert config(f"folder: {{path: '{path}'}}").folder.path == path
    assert config(f"folder:\n  path: {path}").folder.path == path


SHOWN = {  # what is written: what the error says the key takes, and what it shows of the value
    "batch_size: ten": ("whole number >=2 and <=1000000", "ten"),
    "batch_size:": ("whole number", "empty"),
    "batch_size: {a: 1}": ("whole number", "a mapping"),
    'batch_size: "1\\n2"': ("whole number", r"'1\n2'"),
    "optimizer: rmsprop": ("sgd, adam, adamw", "rmsprop"),
}


@pytest.mark.parametrize("text", SHOWN)
def test_an_error_says_what_a_key_takes_and_what_was_written(text):
    message = error_of(config, text)
    assert SHOWN[text][0] in message and message.endswith(SHOWN[text][1])


RANGES = [  # keys, values that all of them take, values that none of them takes
    ("setup", ["scan", "selflabel"], ["SCAN", "eval"]),
    ("train_db_name val_db_name", ["cifar-10", "imagenet_50", "digits", "folder"], ["cifar10", "test"]),
    ("precision", ["auto", "fp32", "tf32", "bf16"], ["fp16"]),
    ("batch_norm", ["global", "per_process"], ["local"]),
    ("epochs log_every max_images num_heads num_neighbors model_kwargs.width", [1], [0, -1]),
    (f"seed num_workers cached_views {AUGMENT}.num_strong_augs", [0], [-1]),
    ("num_classes batch_size", [2], [1]),
    ("seed", [4294967295], [4294967296]),
    ("epochs batch_size optimizer_kwargs.lr", [1000000], [1000001, 1e30]),
    ("folder.side transformation_kwargs.crop_size", [4096], [4097]),
    ("transformation_kwargs.resize", [1, 4096], [0, 4097]),
    ("save_minutes criterion_kwargs.temperature optimizer_kwargs.lr", [1e-9, 5], [0, -1]),
    ("criterion_kwargs.entropy_weight optimizer_kwargs.weight_decay", [0, 5], [-1e-4]),
    ("ema_alpha folder.val_share optimizer_kwargs.momentum", [0, 0.999], [-0.1, 1]),
    ("confidence_threshold", [0.01, 0.99], [0, 1, 1.5]),
    ("scheduler_kwargs.lr_decay_rate", [0.1, 1], [0, 1.1]),
    (PRIOR, ["[3, 1]", "[1e-9, 1000000]"], ["[3, 0]", "[3, -1]", "[1e39, 1]"]),
    (f"{AUGMENT}.random_resized_crop.scale", ["[0.2, 1]", "[1, 1]"], ["[0, 1]", "[0.2, 1.1]"]),
    (f"{AUGMENT}.color_jitter.hue", [0, 0.5], [-0.1, 0.51]),
    ("transformation_kwargs.interpolation", ["bilinear", "bicubic"], ["nearest"]),
    ("transformation_kwargs.normalize.mean", ["[0, 0.5, 1]"], ["[123.7, 116.3, 103.5]"]),
    ("transformation_kwargs.normalize.std", ["[0.1, 0.5, 1]"], ["[0.2, 0, 0.2]"]),
]


@pytest.mark.parametrize("keys, accepted, refused", RANGES)
def test_a_value_outside_its_range_is_refused(keys, accepted, refused):
    for key in keys.split():
        for value in accepted:
            assert key in flatten(config("", f"{key}={value}"))
        for value in refused:
            assert error_of(config, "", f"{key}={value}").startswith(f"command line: {key} ")


# Files and arguments that cannot be read


UNKNOWN = {  # what is written: the unknown key, the nearest one
    "epoch: 3": ("epoch", "epochs"),
    "optimiser_kwargs: {lr: 1}": ("optimiser_kwargs", "optimizer_kwargs"),
    "optimizer_kwargs: {lrr: 1}": ("optimizer_kwargs.lrr", "optimizer_kwargs.lr"),
    "lr: 1": ("lr", "optimizer_kwargs.lr"),  # the right word in the wrong place
    "db_root_dir: {cifar10: /data}": ("db_root_dir.cifar10", "db_root_dir.cifar-10"),
    f"{'x' * 1000}: 1": ("x" * 150, ""),
}


@pytest.mark.parametrize("text", UNKNOWN, ids=lambda text: text[:40])
def test_an_unknown_key_is_refused_with_its_source_and_the_nearest_key(text):
    for message in (error_of(config, text), error_of(config, env=text)):
        assert message.startswith(("exp.yml: ", "env.yml: "))
        assert all(part in message for part in UNKNOWN[text])
    assert error_of(config, "", "epoch=3").startswith("command line: ")


@pytest.mark.parametrize("value", ["3", "adam", "[lr, 3]"])
def test_a_value_where_a_mapping_belongs_is_refused(value):
    assert error_of(config, value).startswith("exp.yml: ")
    assert error_of(config, f"optimizer_kwargs: {value}").startswith("exp.yml: optimizer_kwargs ")


def test_merge_keys_are_put_in_and_the_keys_beside_them_win():
    base = "transformation_kwargs:\n  normalize: &a {mean: [0, 0, 0], std: [1, 1, 1]}\n"
    cfg = config(f"{base}augmentation_kwargs:\n  normalize: &b\n    std: [.5, .5, .5]\n    <<: *a\n")
    assert cfg.augmentation_kwargs.normalize == {"mean": [0.0] * 3, "std": [0.5] * 3}
    two = "optimizer_kwargs: &c {lr: 1, momentum: 0.5}\nmodel_kwargs: &d {width: 8}\n"
    merged = flatten(
        config(f"{base}{two}augmentation_kwargs:\n  normalize: {{<<: [{{std: [1, 1, 1]}}, *a]}}")
    )
    assert merged["augmentation_kwargs.normalize.mean"] == [0.0] * 3
    assert "exp.yml, line 3" in error_of(config, f"{two}seed: {{<<: 3}}")
    assert "'model_kwargs.lr'" in error_of(config, "optimizer_kwargs: &c {lr: 1}\nmodel_kwargs: {<<: *c}")
    assert "'<<'" in error_of(config, f'{base}"<<": 1')


BROKEN = {  # what is written: the line that the error names, what it shows
    "seed: 1\noptimizer_kwargs:\n\tlr: 1\n": (3, r"'\t'"),
    "seed: 1\nepochs: [2\n": (3, ""),
    "seed: 1\nepochs: 2\nseed: 1\n": (3, "'seed'"),
    "optimizer_kwargs:\n  lr: 1\n  lr: 1\n": (3, "'lr'"),
    f"seed: *{'x' * 500}": (1, "x" * 150),
    "? [seed]\n: 1": (1, ""),
    "seed: &a [*a]": (1, ""),
    f"{'x' * 5000}: 1": (1, ""),  # keys in YAML have at most 1024 characters
    "seed: 1\n---\nseed: 2": (2, ""),
}


@pytest.mark.parametrize("text", BROKEN, ids=lambda text: text[:40])
def test_broken_yaml_is_refused_with_its_line(text):
    line, shown = BROKEN[text]
    message = error_of(config, text)
    assert message.startswith(f"exp.yml, line {line}: ") and shown in message


@pytest.mark.parametrize("content", [b"seed: \xff\x00", b'run_name: "\\UFFFFFFFF"', b"seed: " + b"[" * 1000])
def test_a_file_that_yaml_cannot_read_is_refused_by_its_name(content):
    Path("exp.yml").write_bytes(content)
    assert error_of(load_config, None, "exp.yml").startswith("exp.yml: ")


@pytest.mark.parametrize("env, exp", [(None, "missing.yml"), ("missing.yml", "exp.yml")])
def test_a_missing_file_is_named_with_its_absolute_path(env, exp, tmp_path):
    Path("exp.yml").write_text("seed: 1")
    assert str(tmp_path / "missing.yml") in error_of(load_config, env, exp)


ARGUMENTS = {  # a wrong argument: what its error shows
    "seed": "'seed'",
    "x" * 5000: "x" * 150,
    "=1": "''",
    "a\nb={": r"'a\nb'",
    "seed=1\n---\n2": r"'1\n---\n2'",
    "seed=1 #2": "1 #2",
    f"{PRIOR}=[1\n---\n2": f"{PRIOR}, line 2",
    "optimizer_kwargs.lr==1": "=1",
}


@pytest.mark.parametrize("override", ARGUMENTS, ids=lambda text: text[:40])
def test_a_wrong_argument_is_refused_in_one_short_line(override):
    message = error_of(config, "", override)
    assert message.startswith("command line: ") and ARGUMENTS[override] in message


# What a stage needs


def names(group, words):
    return {f"{group}.{word}" for word in words.split()}


TRANSFORM = names("transformation_kwargs", "crop_size normalize.mean normalize.std")
COMMON = {"setup", "backbone", "train_db_name", "val_db_name"} | TRANSFORM
HEAD = names("model_kwargs", "head features_dim")
OPTIMIZER = {"optimizer", "scheduler"} | names("optimizer_kwargs", "lr weight_decay")
VIEWS = {"augmentation_strategy"} | names(AUGMENT, "normalize.mean normalize.std")
TRAINING = {"epochs", "batch_size", "criterion"} | OPTIMIZER | VIEWS
SGD = names("optimizer_kwargs", "momentum nesterov")
CROP = names(AUGMENT, "random_resized_crop.size random_resized_crop.scale")
JITTER = names(f"{AUGMENT}.color_jitter", "brightness contrast saturation hue")
SIMCLR_VIEWS = CROP | JITTER | names(AUGMENT, "color_jitter_random_apply.p random_grayscale.p")
STRONG_VIEWS = names(AUGMENT, "crop_size num_strong_augs cutout_kwargs.n_holes cutout_kwargs.length")
OF_SIMCLR = {"criterion_kwargs.temperature", "scheduler_kwargs.lr_decay_rate"}
OF_SCAN = {"num_classes", "num_neighbors", "update_cluster_head_only", "criterion_kwargs.entropy_weight"}
OF_SELF = {"num_classes", "confidence_threshold", "ema_alpha", "criterion_kwargs.apply_class_balancing"}
NEEDED = {
    "pretext/simclr_cifar10": COMMON | HEAD | TRAINING | SGD | SIMCLR_VIEWS | OF_SIMCLR,
    "pretext/moco_imagenet50": COMMON | HEAD,
    "scan/scan_cifar10": COMMON | TRAINING | STRONG_VIEWS | OF_SCAN,
    "selflabel/selflabel_imagenet_50": COMMON | TRAINING | SGD | STRONG_VIEWS | OF_SELF,
}


def asked_for(file, stage) -> set[str]:
    """The keys of the file without which the stage does not run."""
    values = flatten(yaml.safe_load((CONFIGS / f"{file}.yml").read_text()))
    found = set()
    for name in values:
        without = config("".join(f"{other}: {values[other]}\n" for other in values if other != name))
        try:
            check_stage(without, stage)
        except UserError as error:
            assert name in str(error)
            found.add(name)
    return found


@pytest.mark.parametrize("file", NEEDED)
def test_a_stage_asks_for_exactly_the_keys_it_reads(file):
    assert asked_for(file, shipped(file).setup) == NEEDED[file]


def test_evaluation_needs_the_network_and_the_plain_view_only():
    assert asked_for("pretext/simclr_cifar10", "eval") == COMMON | HEAD
    assert asked_for("scan/scan_cifar10", "eval") == COMMON | {"num_classes"}


FOLLOW = {  # override of a SCAN config: the keys that it makes necessary
    "optimizer=sgd": ("optimizer_kwargs", ["momentum", "nesterov"]),
    "scheduler=step": ("scheduler_kwargs", ["lr_decay_rate", "lr_decay_epochs"]),
    "augmentation_strategy=standard": (f"{AUGMENT}.random_resized_crop", ["size", "scale"]),
    "augmentation_strategy=affine": (f"{AUGMENT}.random_affine", ["degrees", "scale", "aspect", "shear"]),
}


@pytest.mark.parametrize("override", FOLLOW)
def test_which_keys_are_needed_follows_the_values_of_other_keys(override):
    group, missing = FOLLOW[override]
    message = error_of(check_stage, shipped("scan/scan_cifar10", override), "scan")
    assert ", ".join(f"{group}.{key}" for key in missing) in message


def test_a_known_key_that_the_stage_does_not_read_is_accepted():
    check_stage(shipped("scan/scan_cifar10", "use_ema=yes", "optimizer_kwargs.nesterov=True"), "scan")
    unread = ["ema_alpha=0.9", f"{AUGMENT}.cutout_kwargs.random=True"]
    check_stage(shipped("pretext/moco_imagenet50", *unread), "moco")


def test_the_missing_keys_are_listed_unless_there_are_too_many():
    message = error_of(
        check_stage, config("setup: moco\ntrain_db_name: imagenet\nbackbone: resnet50"), "moco"
    )
    assert all(name in message for name in (COMMON | HEAD) - {"setup", "train_db_name", "backbone"})
    chosen = "setup: simclr\ntrain_db_name: digits\noptimizer: sgd\naugmentation_strategy: simclr"
    message = error_of(check_stage, config(chosen), "simclr")  # more than 20 keys are missing
    assert "epochs, batch_size, val_db_name, backbone, " in message and "..." in message


@pytest.mark.parametrize("stage", ["simclr", "moco", "selflabel"])
def test_a_file_of_another_stage_is_refused_with_the_script_that_runs_it(stage):
    message = error_of(check_stage, shipped("scan/scan_cifar10"), stage)
    assert "scan.py" in message and f"setup: {stage}" in message


# Values that do not go together

MISTAKES = [  # file, overrides, what the error names
    ("pretext/simclr_cifar10", ["criterion=scan"], ["criterion scan", "criterion: simclr"]),
    ("selflabel/selflabel_cifar10", ["criterion=scan"], ["criterion: confidence-cross-entropy"]),
    ("pretext/simclr_digits", ["criterion_kwargs.entropy_weight=5"], [".entropy_weight is 5.0"]),
    ("pretext/simclr_cifar10", [f"{PRIOR}={[1] * 1000}"], [PRIOR, "[1.0, 1.0, "]),
    *(("scan/scan_cifar10", [f"{PRIOR}={[1] * n}"], [PRIOR, f" {n} ", "num_classes"]) for n in (0, 9, 11)),
    ("scan/scan_cifar10", ["cached_views=2"], ["cached_views is 2", "update_cluster_head_only"]),
    ("selflabel/selflabel_cifar10", ["num_heads=10"], ["num_heads is 10", "num_heads: 1"]),
    ("pretext/simclr_cifar10", ["optimizer_kwargs={nesterov: True, momentum: 0}"], ["nesterov is True"]),
    ("pretext/simclr_folder", [], ["folder.path=..."]),
    ("scan/scan_digits", ["val_db_name=folder"], ["folder.path=..."]),
    ("scan/scan_digits", ["run_name=.."], ["run_name .. ", "root_dir="]),
    ("scan/scan_digits", ["run_name=a/../../b"], ["run_name a/../../b ", "root_dir="]),
    ("scan/scan_digits", ["run_name=/data/run"], ["run_name /data/run ", "root_dir="]),
]


@pytest.mark.parametrize("file, overrides, named", MISTAKES)
def test_values_that_do_not_go_together_are_refused_with_their_keys(file, overrides, named):
    cfg = shipped(file, *overrides)
    message = error_of(check_stage, cfg, cfg.setup)
    assert all(part in message for part in named)


FINE = [f"{PRIOR}={[1] * 10}", "run_name=a..b", "run_name=sweep/1", "run_name=ü 漢字", "scheduler=constant"]


@pytest.mark.parametrize("override", FINE)
def test_values_that_go_together_are_accepted(override):
    check_stage(shipped("scan/scan_digits", override), "scan")


def test_affine_takes_a_whole_cutout_or_none():
    whole = (CONFIGS / "scan/scan_digits.yml").read_text()
    cutout = "  cutout_kwargs:\n    n_holes: 1\n    length: 5\n    random: True\n"
    assert cutout in whole
    check_stage(config(whole.replace(cutout, "")), "scan")
    for given, missing in {"length: 5": "n_holes", "n_holes: 1": "length", "random: True": "length"}.items():
        half = config(whole.replace(cutout, f"  cutout_kwargs: {{{given}}}\n"))
        assert f"cutout_kwargs.{missing}" in error_of(check_stage, half, "scan")


# Saving and resuming


def test_saving_keeps_values_that_yaml_would_misread():
    overrides = ["train_db_name=digits", "run_name=007", "optimizer_kwargs.lr=1e-7"]
    cfg = config("", *overrides, "db_root_dir.stl-10=/über: all/#1")
    save_config(cfg, "saved.yml")
    assert load_config(None, "saved.yml") == cfg
    plain = yaml.safe_load(Path("saved.yml").read_text())
    assert plain["run_name"] == "007"
    assert plain["optimizer_kwargs"] == {"lr": 1e-7} and plain["db_root_dir"]["stl-10"] == "/über: all/#1"


RUN = "train_db_name: digits\nsetup: scan\nepochs: 5\nbatch_size: 128\noptimizer_kwargs: {lr: 1}\nrun_name: a"


FREE = """root_dir=moved pretext_dir=other scan_dir=other db_root_dir.cifar-10=/data device=cpu epochs=50
knn_backend=torch num_workers=0 knn_every=3 log_every=3 save_minutes=5 knn_index=HNSW32 feature_layer=head"""
FIXED = {
    "batch_size=256": "batch_size: 128 -> 256",
    "optimizer_kwargs.lr=2": "optimizer_kwargs.lr: 1.0 -> 2.0",
    "optimizer_kwargs.weight_decay=0": "optimizer_kwargs.weight_decay: absent -> 0.0",
    "seed=1": "seed: 0 -> 1",
    "precision=bf16": "precision: auto -> bf16",
    "train_db_name=stl-10": "train_db_name: digits -> stl-10",
    "model_kwargs.width=32": "model_kwargs.width: 64 -> 32",
    "max_images=500": "max_images: absent -> 500",
    f"{PRIOR}=[2, 1]": f"{PRIOR}: absent -> [2.0, 1.0]",
}


def test_a_resume_may_change_where_and_how_long_it_runs():
    first, second = config(RUN), config(RUN, *FREE.split())
    assert resume_differences(first, second) == [] and config_hash(first) == config_hash(second)


@pytest.mark.parametrize("override", FIXED)
def test_a_resume_may_change_nothing_else(override):
    first, second = config(RUN), config(RUN, override)
    assert resume_differences(first, second) == [FIXED[override]]
    assert config_hash(first) != config_hash(second)


def test_the_hash_does_not_depend_on_the_order_or_the_notation_of_the_settings():
    turned = "\n".join(reversed(RUN.replace("lr: 1", "lr: 1.0").splitlines()))
    assert config_hash(config(turned)) == config_hash(config(RUN))
    save_config(config(RUN), "saved.yml")
    assert config_hash(load_config(None, "saved.yml")) == config_hash(config(RUN))


@pytest.mark.parametrize("file, same", [("pretext/simclr_digits", True), ("scan/scan_digits", False)])
def test_how_many_neighbors_are_mined_may_change_in_a_resume_but_not_how_many_scan_uses(file, same):
    first, second = (shipped(file, f"num_neighbors={number}") for number in (5, 6))
    assert resume_differences(first, second) == ([] if same else ["num_neighbors: 5 -> 6"])
    assert (config_hash(first) == config_hash(second)) == same
