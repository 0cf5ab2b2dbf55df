"""What users do wrong and what breaks under them: one line on stderr with the value and the remedy, nothing written.

Every case begins with whole runs of the stages before its own (pretext, scan, selflabel; 206 + 52 digits, 20 and 5
neighbors each, width 2, two epochs), does its damage, and gives one command."""

import errno
import functools
import io
import itertools
import json
import os
import pickle
import re
import shlex
import shutil
import signal
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import data
import eval as evaluation
import moco
import scan
import selflabel
import simclr
from data.dataset import ResidentDataset
from data.datasets import fashion_mnist
from losses import ConfidenceBasedCE, SCANLoss, SimCLRLoss
from models.backbones.resnet import ResNet18
from models.heads import ContrastiveModel
from tests.faults import imagenet_runs
from tests.small_runs import SCRIPTS, SMALL, config_of, few_digits
from utils.config import load as config
from utils.neighbors import search as search
from utils.run.checkpoints import load_checkpoint
from utils.run.command_line import command
from utils.run.run import Run

STAGES = ("pretext", "scan", "selflabel")
MAINS = {stage: script.main for stage, script in SCRIPTS.items()} | {"eval": evaluation.main}
TINY = [*SMALL, "model_kwargs.width=2"]
PRETEXT_MODEL, SCAN_MODEL = "pretext/model.pth.tar", "scan/model.pth.tar"
TRAIN_NEIGHBORS, VAL_NEIGHBORS = "pretext/topk-train-neighbors.npy", "pretext/topk-val-neighbors.npy"
PARSED = functools.cache(config.parse_yaml)  # every text once: it is the same few configs all the time
EVAL_PRETEXT = f"--config_exp {config_of('pretext')} --model {{here}}/{PRETEXT_MODEL}"  # in place of SCAN's


# -- one command, as the user gives it


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def arguments_of(stage: str, here: Path, more: str = "") -> list[str]:
    """The command line of a stage, or of eval for the SCAN model, in the results folder `here`; `{here}` in `more` is
    that folder, `{outside}` the one with all results and other files."""
    plain = f"--config_exp {config_of('scan' if stage == 'eval' else stage)} epochs=2"
    plain += {"selflabel": " confidence_threshold=0.05", "eval": " --model {here}/scan/model.pth.tar"}.get(
        stage, ""
    )
    words = [*plain.split(), "root_dir={outside}/results", *TINY, *more.split()]
    return [word.format(here=here, outside=here.parents[1]) for word in words]


def run(stage: str, words: list[str], mains=MAINS) -> int:
    """The exit code of a script given these words. Python's warnings go to stderr, as outside pytest."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)
        warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
        try:
            command(lambda: mains[stage](words))
        except SystemExit as end:
            return end.code
    return 0


@pytest.fixture
def give(capsys):
    """give(stage, here, more): the command of a stage, run to its end."""

    def to_the_end(stage: str, here: Path, more: str = "") -> Ended:
        capsys.readouterr()
        code = run(stage, arguments_of(stage, here, more))
        return Ended(code, *capsys.readouterr())

    return to_the_end


@pytest.fixture(autouse=True)
def as_a_process_of_its_own(monkeypatch, no_pictures):
    """No run before this one, and the signals' handlers put back."""
    monkeypatch.setattr(Run, "latest", None)
    monkeypatch.setattr(config, "parse_yaml", PARSED)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def digits():
    """206 digits to train on, 52 held out."""
    with pytest.MonkeyPatch.context() as patch:
        few_digits(patch)
        return {split: data.DATASETS["digits"](split) for split in ("train", "val")}


@pytest.fixture(autouse=True)
def few(digits, monkeypatch):
    monkeypatch.setitem(data.DATASETS, "digits", digits.get)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, digits):
    """One whole run of all stages."""
    here = tmp_path_factory.mktemp("finished") / "results" / "digits"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(data.DATASETS, "digits", digits.get)
        patch.setattr("utils.mining.plot_neighbors", lambda *_: None)
        for stage, script in SCRIPTS.items():
            patch.setattr(script, "plot_curves", lambda *_: None)
            patch.setattr(script, "plot_matching", lambda *_: None, raising=False)
            script.main(arguments_of(stage, here))
    return here


@pytest.fixture
def stages(finished, tmp_path):
    """stages(names, outside): a copy of those stages of the whole run; returns its folder in `outside`."""

    def copy(names, outside=tmp_path) -> Path:
        here = outside / "results" / "digits"
        here.mkdir(parents=True)
        for name in names:
            shutil.copytree(finished / name, here / name, copy_function=shutil.copyfile)
        return here

    return copy


def before(stage: str) -> tuple[str, ...]:
    return STAGES if stage == "eval" else STAGES[: STAGES.index(stage)]


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Relative path -> content, None for a folder; the locks left out."""
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.name != ".lock"}
    return {name: path.read_bytes() if path.is_file() else None for name, path in sorted(paths.items())}


# -- what has happened before the command: functions of the results folder and of pytest's monkeypatch


def nothing(here, patch):
    pass


def removed(*names):
    def do(here, patch):
        for path in map(here.joinpath, names):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return do


def changed(name, change):
    """The file has other bytes, its record is the old one."""

    def do(here, patch):
        (here / name).write_bytes(change((here / name).read_bytes()))

    return do


def unrecorded(name, change=bytes):
    """The file has other bytes and no record."""

    def do(here, patch):
        changed(name, change)(here, patch)
        (here / f"{name}.json").unlink(missing_ok=True)

    return do


def bare(name, change=bytes):
    """The file has other bytes, and no file beside it has a record: so files come that were published."""

    def do(here, patch):
        changed(name, change)(here, patch)
        for path in (here / name).parent.glob("*.json"):
            path.unlink()

    return do


def in_turn(*steps):
    def do(here, patch):
        for step in steps:
            step(here, patch)

    return do


def emptied(content):
    return b""


def cut_off(content):
    return content[: len(content) // 2]


def bit_flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def copied(source, target):
    """`target` is now the file `source`, with its record if it has one."""

    def do(here, patch):
        for end in ("", ".json"):
            (here / f"{target}{end}").unlink(missing_ok=True)
            if (here / f"{source}{end}").exists():
                shutil.copy(here / f"{source}{end}", here / f"{target}{end}")

    return do


def only(*names):
    """The folder `pretext` holds these files and nothing else: so they come that were published."""

    def do(here, patch):
        for path in (here / "pretext").iterdir():
            if path.name not in names:
                path.unlink()

    return do


def one_checkpoint(stage):
    """The stage was stopped, and one checkpoint is left."""
    return removed(*(f"{stage}/{file}" for file in (PREVIOUS, f"{PREVIOUS}.json", "finished.json")))


PREVIOUS = "previous_checkpoint.pth.tar"


def saved_by(save, thing):
    """The bytes that save(file, thing) writes."""
    file = io.BytesIO()
    save(file, thing)
    return file.getvalue()


def torch_file(thing):
    return saved_by(lambda file, thing: torch.save(thing, file), thing)


def model_is(name, change):
    """The model file holds change(its content), without a record."""
    return unrecorded(
        name, lambda content: torch_file(change(torch.load(io.BytesIO(content), weights_only=True)))
    )


def doubled(state):
    return {name: value * 2 for name, value in state.items()}


def best(head):
    return lambda content: content | {"head": head}


def last_layer_elsewhere(value):
    """`{outside}/model.pth.tar` is a pretext model whose last layer is `value` throughout."""

    def do(here, patch):
        state = ContrastiveModel(ResNet18("imagenet", width=2), "mlp", 128).state_dict()
        state |= {
            name: torch.full_like(state[name], value)
            for name in state
            if name.startswith("contrastive_head.2")
        }
        torch.save(state, here.parents[1] / "model.pth.tar")

    return do


def with_one(value):
    """One entry of the array is `value`."""

    def change(array):
        array[3, 1] = value
        return array

    return change


def foreign(name, wrap=pickle.dumps):
    """The file holds an object that makes the folder `executed` when it is unpickled; it has no record."""

    def do(here, patch):
        class Foreign:
            def __reduce__(self):
                return os.mkdir, (str(here / "executed"),)

        unrecorded(name, lambda _: wrap(Foreign()))(here, patch)

    return do


def in_a_torch_file(thing):
    return torch_file({"backbone.conv1.weight": thing})


def images_are(change, split="train"):
    """The images of a split of the digits are change(what they were)."""

    def do(here, patch):
        right = data.DATASETS["digits"]
        whole = right(split)
        other = ResidentDataset(
            change(whole.images), whole.targets[: len(change(whole.images))], whole.classes
        )
        patch.setitem(data.DATASETS, "digits", lambda name: other if name == split else right(name))

    return do


def one_pixel_changed(images):
    images = images.clone()
    images[0, 0, 0, 0] += 1
    return images


def noise_for_fashion_mnist(here, patch):
    """40 + 30 random images under the name of another data set."""

    def read(split, folder):
        number = {"train": 40, "val": 30}[split]
        generator = torch.Generator().manual_seed(number)
        images = torch.randint(256, (number, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return ResidentDataset(images, torch.arange(number) % 10, list("0123456789"))

    patch.setitem(data.DATASETS, "fashion-mnist", read)


FASHION = "train_db_name=fashion-mnist val_db_name=fashion-mnist batch_size=32 run_name=digits"


def written(content, name):
    """A file `{outside}/<name>`."""
    return lambda here, patch: (here.parents[1] / name).write_bytes(content)


EXP = "--config_exp {outside}/exp.yml"


def recipe_with(old, new):
    """`{outside}/exp.yml` is the recipe of the pretext task with another text in it."""
    text = Path(config_of("pretext")).read_text()
    assert text.count(old) == 1
    return written(text.replace(old, new).encode(), "exp.yml")


def without_cuda(here, patch):
    patch.setattr(torch.cuda, "is_available", lambda: False)


def without_faiss(here, patch):
    patch.setattr(search, "import_faiss", lambda: None)


def locked_by_another_process(here, patch):
    fcntl = pytest.importorskip("fcntl")
    lock = os.open(here / "pretext" / ".lock", os.O_RDWR | os.O_CREAT)  # held to the end of the tests
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.truncate(lock, 0)
    os.write(lock, b"process 4242 on lab-3")


def fashion_mnist_is(content):
    """Files with Fashion-MNIST's names in `{outside}/fashion` have this content; for None there are none, and no
    network."""

    def do(here, patch):
        folder = here.parents[1] / "fashion"
        folder.mkdir()
        if content is not None:
            for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
                (folder / name).write_bytes(content)
        patch.delenv("SCAN_FASHION_MNIST_DIR", raising=False)
        patch.setattr(fashion_mnist, "DEBIAN", folder)
        patch.setattr(fashion_mnist, "download_url", raising(OSError("Network is unreachable")))

    return do


def raising(error):
    def refuse(*_, **__):
        raise error

    return refuse


OUT_OF_CUDA_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 is full.")


def no_memory_for_images(here, patch):
    patch.setitem(data.DATASETS, "digits", lambda split: np.empty(10**15))


def no_memory_for_predictions(here, patch):
    patch.setattr(evaluation, "predict", raising(OUT_OF_CUDA_MEMORY))


def folders_cannot_be_made(here, patch):
    patch.setattr(Path, "mkdir", raising(PermissionError(errno.EACCES, "Permission denied")))


# -- mistakes


class Case(NamedTuple):
    """value, remedy: patterns that the line must have. has: stages that stand there, too, the stage itself perhaps."""

    stage: str
    arguments: str
    value: str
    remedy: str
    given: Any = nothing
    code: int = 2
    has: tuple[str, ...] = ()


RUN_SIMCLR = r"`python simclr\.py --config_exp (configs/pretext/simclr_digits|\S*/pretext/config)\.yml"
RUN_SCAN = r"`python scan\.py --config_exp (configs/scan/scan_digits|\S*/scan/config)\.yml"
MINE_WITH_IT = RUN_SIMCLR + r".* --model \S+/pretext/model\.pth\.tar`"
MINE_AGAIN = r"mine (it|the neighbors) again"
PUT_BACK = r"put the right file back,? or make it anew"
ANEW = r"\b(back|anew|again)\b"
NOTHING_RUN = (r"\(\d+ bytes\) cannot be read", r"nothing in it was run", 2)
NAME_PRETEXT, NAME_SCAN = r"\bpretext_dir=\.\.\.", r"\bscan_dir=\.\.\."

MISSING_FILES = {
    "SCAN before SimCLR": Case(
        "scan",
        "",
        r"/pretext/model\.pth\.tar not found",
        RUN_SIMCLR + r" root_dir=\S+/results`",
        removed("pretext"),
    ),
    "a model without its neighbors": Case(
        "scan", "", r"/topk-train-neighbors\.npy not found", RUN_SIMCLR, removed(TRAIN_NEIGHBORS)
    ),
    "no neighbors of the val split": Case(
        "scan", "", r"/topk-val-neighbors\.npy not found", RUN_SIMCLR, removed(VAL_NEIGHBORS)
    ),
    "a published model whose neighbors were not mined yet": Case(
        "scan", "", r"/topk-train-neighbors\.npy not found", MINE_WITH_IT, only("model.pth.tar")
    ),
    "training where a published model lies": Case(
        "pretext",
        "",
        r"/pretext holds a model that was not trained there",
        r"--model \S+/pretext/model\.pth\.tar",
        only("model.pth.tar"),
        has=("pretext",),
    ),
    "self-labelling before SCAN": Case(
        "selflabel", "", r"/scan/model\.pth\.tar not found", RUN_SCAN, removed("scan")
    ),
    "pretext_dir with a typing mistake": Case(
        "scan", "pretext_dir={here}/pretxt", r"/pretxt/model\.pth\.tar not found", NAME_PRETEXT
    ),
    "pretext_dir one level too high": Case(
        "scan", "pretext_dir={here}", r"/digits/model\.pth\.tar not found", NAME_PRETEXT
    ),
    "scan_dir with a typing mistake": Case(
        "selflabel", "scan_dir={here}/scann", r"/scann/model\.pth\.tar not found", NAME_SCAN
    ),
    "eval of a model that is not there": Case(
        "eval",
        "--model {here}/scan/best.pth.tar",
        r"/best\.pth\.tar not found",
        r"run the stage that writes it .*or mend the path",
    ),
    "a model to mine with that is not there": Case(
        "pretext", "--model {outside}/simclr.pth.tar", r"/simclr\.pth\.tar not found", r"mend the path"
    ),
}

WRONG_STAGE = {
    "a SCAN config for simclr.py": Case(
        "pretext", f"--config_exp {config_of('scan')}", r"setup: scan", r"run it with scan\.py"
    ),
    "a SimCLR config for scan.py": Case(
        "scan", f"--config_exp {config_of('pretext')}", r"setup: simclr", r"run it with simclr\.py"
    ),
    "a self-labelling config for scan.py": Case(
        "scan", f"--config_exp {config_of('selflabel')}", r"setup: selflabel", r"run it with selflabel\.py"
    ),
    "a pretext model in the SCAN model's place": Case(
        "selflabel",
        "",
        r"/scan/model\.pth\.tar is a pretext model, not a scan model",
        r"the model\.pth\.tar that scan\.py wrote",
        copied("pretext/model.pth.tar", "scan/model.pth.tar"),
    ),
    "the pretext folder for scan_dir": Case(
        "selflabel",
        "scan_dir={here}/pretext",
        r"/pretext/model\.pth\.tar is a pretext model, not a scan model",
        r"that scan\.py wrote",
    ),
    "the SCAN folder for pretext_dir": Case(
        "scan",
        "run_name=second pretext_dir={here}/scan",
        r"/scan/topk-train-neighbors\.npy not found",
        NAME_PRETEXT,
        has=("scan",),
    ),
    "a self-labelled model in the pretext model's place": Case(
        "scan",
        "",
        r"/pretext/model\.pth\.tar is a selflabel model, not a pretext model",
        r"that simclr\.py wrote",
        in_turn(copied("selflabel/model.pth.tar", "pretext/model.pth.tar"), bare("pretext/model.pth.tar")),
        has=("selflabel",),
    ),
    "a SCAN model with a self-labelling config for eval": Case(
        "eval",
        f"--config_exp {config_of('selflabel')}",
        r"/scan/model\.pth\.tar is a scan model, .*config of the selflabel stage",
        r"give the config under configs/scan/",
    ),
    "a pretext model with a SCAN config for eval": Case(
        "eval",
        "--model {here}/pretext/model.pth.tar",
        r"/pretext/model\.pth\.tar is a pretext model",
        r"give the config under configs/pretext/",
    ),
    "prototypes of a pretext model": Case(
        "eval",
        f"{EVAL_PRETEXT} --visualize_prototypes",
        r"a pretext model has none",
        r"leave --out, --report, --visualize_prototypes and --show out",
    ),
    "--show of a pretext model": Case(
        "eval",
        f"{EVAL_PRETEXT} --show",
        r"a pretext model has none",
        r"leave --out, --report, --visualize_prototypes and --show out",
    ),
    "a SCAN model to mine with": Case(
        "pretext",
        "--model {here}/scan/model.pth.tar",
        r"/scan/model\.pth\.tar is a scan model, not a pretext model",
        r"that simclr\.py wrote",
        has=("scan",),
    ),
    "a self-labelled model to mine with": Case(
        "pretext",
        "--model {here}/selflabel/model.pth.tar",
        r"/selflabel/model\.pth\.tar is a selflabel model, not a pretext model",
        r"that simclr\.py wrote",
        has=("selflabel",),
    ),
    "a file of another program to mine with": Case(
        "pretext",
        "--model {outside}/other.pth.tar",
        r"/other\.pth\.tar holds no model of ours",
        r"neither a contrastive head nor a cluster head",
        written(torch_file({"epoch": 9, "state_dict": {}}), "other.pth.tar"),
    ),
    "a bare tensor to mine with": Case(
        "pretext",
        "--model {outside}/features.pt",
        r"/features\.pt holds no named weights but a Tensor",
        r"give a model\.pth\.tar",
        written(torch_file(torch.ones(3)), "features.pt"),
    ),
    "bare weights in the checkpoint's place": Case(
        "pretext",
        "",
        r"/checkpoint\.pth\.tar is no checkpoint to go on from",
        r"--model \S+/checkpoint\.pth\.tar",
        in_turn(one_checkpoint("pretext"), copied("pretext/model.pth.tar", "pretext/checkpoint.pth.tar")),
        has=("pretext",),
    ),
}

DOES_NOT_FIT = {
    "SCAN with another width than the pretext model's": Case(
        "scan",
        "model_kwargs.width=8",
        r"model\.pth\.tar does not fit .*is \(2, 3, 7, 7\), expected \(8, 3, 7, 7\)",
        r"check backbone, model_kwargs",
    ),
    "self-labelling with another number of clusters than SCAN's": Case(
        "selflabel",
        "num_classes=12",
        r"cluster_head\.0\.weight is \(10, 16\), expected \(12, 16\)",
        r"check .*num_classes",
    ),
    "eval with more heads than the model's": Case(
        "eval", "num_heads=2", r"missing cluster_head\.1\.weight", r"check .*num_heads"
    ),
    "a table into a folder that is not there": Case(
        "eval",
        "--out {here}/tables/table.csv",
        r"--out \S+/tables/table\.csv",
        r"give a file .*in a folder that there is",
    ),
    "a table in the place of a folder": Case(
        "eval", "--out {here}", r"--out \S+/digits", r"give a file such as"
    ),
    "another form of the head than that of the model to mine with": Case(
        "pretext",
        "run_name=second --model {here}/pretext/model.pth.tar model_kwargs.head=linear",
        r"/pretext/model\.pth\.tar does not fit .*missing contrastive_head\.weight",
        r"check .*model_kwargs",
        has=("pretext",),
    ),
} | {
    f"a SCAN model whose best head is {head!r}, for {stage}": Case(
        stage,
        "",
        rf"/scan/model\.pth\.tar .*\bhead '?{head}",
        r"no whole scan model",
        model_is(SCAN_MODEL, best(head)),
    )
    for stage in ("selflabel", "eval")
    for head in (7, "first")
}

WRONG_DATA = {
    "the neighbors and model of another data set": Case(
        "scan",
        FASHION,
        r"was made from 206 train images of digits, but this run has 40 train images of fashion-mnist",
        r"`python simclr\.py --config_exp configs/pretext/simclr_fashion_mnist\.yml .*run_name=digits",
        noise_for_fashion_mnist,
    ),
    "the SCAN model of another data set": Case(
        "selflabel",
        FASHION,
        r"was made from 206 train images of digits, but this run has 40 train images of fashion-mnist",
        r"`python scan\.py --config_exp configs/scan/scan_fashion_mnist\.yml",
        noise_for_fashion_mnist,
    ),
    "the val neighbors of another data set": Case(
        "scan",
        "val_db_name=fashion-mnist",
        r"topk-val-neighbors\.npy was made from 52 val images of digits, .*30 val images of fashion-mnist",
        RUN_SIMCLR,
        noise_for_fashion_mnist,
    ),
    "fewer images than the pretext task had": Case(
        "scan",
        "max_images=100",
        r"was made from 206 train images of digits, but this run has 100",
        RUN_SIMCLR + r".* max_images=100 .*--restart`",
    ),
    "fewer images than SCAN had": Case(
        "selflabel",
        "max_images=100",
        r"was made from 206 train images of digits, but this run has 100",
        RUN_SCAN + r".* max_images=100 .*--restart`",
    ),
    "as many images as before, but others": Case(
        "scan",
        "",
        r"made from 206 train images of digits, but this run has 206 train images of digits, other",
        RUN_SIMCLR,
        images_are(one_pixel_changed),
    ),
    "as many val images as before, but others": Case(
        "scan",
        "",
        r"topk-val-neighbors\.npy was made from 52 val images of digits, but .*, other",
        RUN_SIMCLR,
        images_are(one_pixel_changed, "val"),
    ),
    "neighbors mined with another model than lies beside them": Case(
        "scan",
        "",
        r"/topk-train-neighbors\.npy is stale.* mined with other weights",
        r"mine again with " + MINE_WITH_IT,
        model_is(PRETEXT_MODEL, doubled),
    ),
    "neighbors of the val split under the train split's name": Case(
        "scan",
        "",
        r"/topk-train-neighbors\.npy .*\b52 val images.*\b206 train images",
        r"simclr\.py",
        copied(VAL_NEIGHBORS, TRAIN_NEIGHBORS),
    ),
    "the same where both splits are of one size": Case(
        "scan",
        "max_images=52 num_neighbors=5 batch_size=32",
        r"/topk-train-neighbors\.npy .*\bval\b",
        r"simclr\.py",
        in_turn(unrecorded(PRETEXT_MODEL), copied(VAL_NEIGHBORS, TRAIN_NEIGHBORS)),
    ),
    "more neighbors than were mined": Case(
        "scan",
        "num_neighbors=21",
        r"num_neighbors 21 is more than the 20 mined",
        r"at most 20, or mine more in the pretext stage .* with num_neighbors=21",
    ),
}


def wrong_neighbors(value: str, change, split="train") -> Case:
    """The neighbor file, without a record, holds change(its array)."""
    name = f"pretext/topk-{split}-neighbors.npy"
    spoil = unrecorded(name, lambda content: saved_by(np.save, change(np.load(io.BytesIO(content)))))
    return Case("scan", "", rf"/topk-{split}-neighbors\.npy .*{value}", MINE_AGAIN, spoil)


def unreadable_neighbors(change) -> Case:
    """The neighbor file, without a record, has the bytes change(its bytes)."""
    value = r"/topk-train-neighbors\.npy \(\d+ bytes\) is no readable \.npy file"
    return Case("scan", "", value, MINE_AGAIN, unrecorded(TRAIN_NEIGHBORS, change))


NEIGHBORS = {
    "neighbors of fewer images": wrong_neighbors(
        r"\(100, 21\), but the split has 206", lambda right: right[:100]
    ),
    "neighbors that are no whole numbers": wrong_neighbors(
        r"float64 \(206, 21\)", lambda right: right.astype(float)
    ),
    "neighbors in one row": wrong_neighbors(r"int64 \(4326,\)", lambda right: right.reshape(-1)),
    "no neighbors in any row": wrong_neighbors(r"int64 \(206, 0\)", lambda right: right[:, :0]),
    "a neighbor beyond the last image": wrong_neighbors(r"image 206, but .* 0 to 205", with_one(206)),
    "a negative neighbor": wrong_neighbors(r"image -1, but .* 0 to 205", with_one(-1)),
    "a negative val neighbor": wrong_neighbors(r"image -1, but .* 0 to 51", with_one(-1), "val"),
    "a neighbor file of zero bytes": unreadable_neighbors(emptied),
    "a neighbor file cut off": unreadable_neighbors(cut_off),
    "a neighbor file with a damaged header": unreadable_neighbors(
        lambda content: content[:10] + b":" + content[11:]
    ),
    "a neighbor file whose header promises more than there is": unreadable_neighbors(
        lambda content: content.replace(b"21), }" + b" " * 13, b"9" * 16 + b"), }")
    ),
    "a table of another program for neighbors": unreadable_neighbors(lambda _: b"index,neighbors\n0,1 2 3\n"),
    "a file of np.savez for neighbors": unreadable_neighbors(
        lambda content: saved_by(np.savez, np.load(io.BytesIO(content)))
    ),
    "a broken zip file for neighbors": unreadable_neighbors(lambda _: b"PK\x03\x04 and no more"),
    "a pickle for neighbors": unreadable_neighbors(bytes)._replace(given=foreign(TRAIN_NEIGHBORS)),
    "an array of pickled objects for neighbors": unreadable_neighbors(bytes)._replace(
        given=foreign(TRAIN_NEIGHBORS, lambda thing: saved_by(np.save, np.array([[thing]], dtype=object)))
    ),
} | {
    f"{what} neighbor file beside its record": Case(
        "scan",
        "",
        r"/topk-train-neighbors\.npy \(\d+ bytes\) is damaged or another file: its SHA-256",
        PUT_BACK,
        changed(TRAIN_NEIGHBORS, damage),
        code=3,
    )
    for what, damage in {"an empty": emptied, "a cut off": cut_off, "a bit-flipped": bit_flipped}.items()
}
NEIGHBORS["a record of zero bytes"] = Case(
    "scan",
    "",
    r"/topk-train-neighbors\.npy\.json \(0 bytes\) is damaged",
    r"make \S+/topk-train-neighbors\.npy anew",
    changed(f"{TRAIN_NEIGHBORS}.json", emptied),
    code=3,
)

SIZES = {
    f"a batch larger than the train split, in {stage}": Case(
        stage, "batch_size=207", r"batch_size 207 .*206 images", r"batch_size to at most 206"
    )
    for stage in STAGES
} | {
    "a batch of one image": Case("pretext", "batch_size=1", r"batch_size .*not 1", r"a whole number >=2"),
    "--restart with a mistake, which moves nothing aside": Case(
        "pretext",
        "--restart batch_size=207",
        r"batch_size 207 .*206 images",
        r"batch_size to at most 206",
        has=("pretext",),
    ),
    "no more images than neighbors to mine": Case(
        "pretext",
        "max_images=20 batch_size=10",
        r"\b20 .*images are too few to mine 20 neighbors",
        r"at least 21 are needed.*num_neighbors",
    ),
    "no more val images than neighbors to mine": Case(
        "pretext",
        "",
        r"\b5 val images are too few to mine 5 neighbors",
        r"^(?!.*num_neighbors).*at least 6 are needed; add images, or, of a folder, raise folder\.val_share",
        images_are(lambda images: images[:5], "val"),
    ),
    "eval of a pretext model on no more val images than neighbors it looks at": Case(
        "eval",
        EVAL_PRETEXT,
        r"\b20 val images are too few",
        r"^(?!.*num_neighbors).*at least 21 are needed",
        images_are(lambda images: images[:20], "val"),
    ),
    "images that do not fit into memory": Case(
        "pretext",
        "",
        r"not enough memory \(Unable to allocate",
        r"free|max_images|lower",
        no_memory_for_images,
        3,
    ),
    "eval where the GPU's memory is full": Case(
        "eval", "", r"not enough memory \(CUDA out of memory", r"device=cpu", no_memory_for_predictions, 3
    ),
    "a model to mine with whose features are NaN": Case(
        "pretext",
        "--model {outside}/model.pth.tar",
        r"holds values that are not finite in 2 tensors, such as contrastive_head\.2\.weight",
        r"give another file",
        last_layer_elsewhere(torch.nan),
    ),
    "a model to mine with whose features are zero": Case(
        "pretext",
        "--model {outside}/model.pth.tar",
        r"206 of 206 features are .*all zero \(rows 0, 1, 2, 3, 4, \.\.\.\)",
        r"Check the model",
        last_layer_elsewhere(0.0),
    ),
    "such a model with --restart, which moves nothing aside": Case(
        "pretext",
        "--restart --model {outside}/model.pth.tar",
        r"holds values that are not finite in 2 tensors, such as contrastive_head\.2\.weight",
        r"give another file",
        last_layer_elsewhere(torch.nan),
        has=("pretext",),
    ),
}

CONFIG = {
    "an unknown key": Case("pretext", "epoch=3", r"unknown key 'epoch'", r"nearest one is 'epochs'"),
    "an unknown key in a mapping": Case(
        "pretext",
        "optimizer_kwargs.learning_rate=0.1",
        r"'optimizer_kwargs\.learning_rate'",
        r"nearest one is",
    ),
    "a key outside its mapping": Case("pretext", "lr=0.1", r"unknown key 'lr'", r"'optimizer_kwargs\.lr'"),
    "an unknown key in the YAML": Case(
        "pretext",
        EXP,
        r"exp\.yml: unknown key 'optimiser'",
        r"'optimizer'",
        recipe_with("optimizer:", "optimiser:"),
    ),
    "a word for a number": Case("pretext", "epochs=many", r"epochs .*not many", r"a whole number"),
    "half an epoch": Case("pretext", "epochs=1.5", r"epochs .*not 1\.5", r"a whole number"),
    "no epochs": Case("scan", "epochs=0", r"epochs .*not 0", r"a whole number >=1"),
    "a learning rate that is not finite": Case(
        "pretext", "optimizer_kwargs.lr=nan", r"lr .*not nan", r"a number"
    ),
    "no value": Case("pretext", "seed=", r"seed .*not empty", r"a whole number"),
    "a negative seed": Case("scan", "seed=-1", r"seed .*not -1", r"a whole number >=0"),
    "a number for a mapping": Case(
        "pretext", "optimizer_kwargs=0.1", r"optimizer_kwargs .*not 0\.1", r"a mapping of keys"
    ),
    "one number for a range": Case(
        "pretext",
        "augmentation_kwargs.random_affine.scale=0.8",
        r"scale .*not 0\.8",
        r"two numbers \[low, high\]",
    ),
    "an unknown device": Case("pretext", "device=gpu", r"device .*not gpu", r"one of auto, cpu, cuda"),
    "an unknown data set": Case(
        "pretext", "train_db_name=mnist", r"train_db_name .*not mnist", r"one of .*digits"
    ),
    "more clusters than images": Case(
        "scan",
        "num_classes=207",
        r"num_classes 207 is more than the 206 training images",
        r"lower it, or add images",
    ),
    "no cluster": Case("scan", "num_classes=0", r"num_classes .*not 0", r"a whole number >=2"),
    "one cluster": Case("scan", "num_classes=1", r"num_classes .*not 1", r"a whole number >=2"),
    "a negative threshold": Case(
        "selflabel", "confidence_threshold=-0.5", r"confidence_threshold .*not -0\.5", r"a number >0 and <1"
    ),
    "a threshold of one": Case(
        "selflabel", "confidence_threshold=1", r"confidence_threshold .*not 1", r"a number >0 and <1"
    ),
    "a threshold in percent": Case(
        "selflabel", "confidence_threshold=99", r"confidence_threshold .*not 99", r"a number >0 and <1"
    ),
    "a negative entropy weight": Case(
        "scan", "criterion_kwargs.entropy_weight=-5", r"entropy_weight .*not -5", r"a number >=0"
    ),
    "maybe for yes or no": Case(
        "scan", "update_cluster_head_only=maybe", r"update_cluster_head_only .*not maybe", r"True or False"
    ),
    "a key that stands twice": Case(
        "pretext",
        EXP,
        r"duplicate key 'epochs'",
        r"exp\.yml, line 20",
        recipe_with("epochs: 60", "epochs: 60\nepochs: 7"),
    ),
    "a tab": Case(
        "pretext", EXP, r"character '\\t'", r"exp\.yml, line 9", recipe_with("  head: mlp", "\thead: mlp")
    ),
    "a list for a config": Case(
        "pretext",
        EXP,
        r"exp\.yml: .*not \[digits\]",
        r"lines of `key: value`",
        written(b"- digits\n", "exp.yml"),
    ),
    "an empty config": Case(
        "pretext", EXP, r"lacks: setup, ", r"add them to its YAML", written(b"", "exp.yml")
    ),
    "a config without a key that the stage needs": Case(
        "pretext", EXP, r"lacks: scheduler;", r"add them to its YAML", recipe_with("scheduler: cosine", "")
    ),
    "a picture for a config": Case(
        "pretext",
        EXP,
        r"exp\.yml",
        r"not a text file in UTF-8",
        written(b"\x89PNG\r\n\x1a\n\xff\xd8", "exp.yml"),
    ),
    "a config that is not there": Case(
        "pretext",
        "--config_exp configs/pretext/simclr_digit.yml",
        r"/configs/pretext/simclr_digit\.yml: No such file",
        r"configs/pretext/simclr_digits\.yml",
    ),
    "a folder for a config": Case(
        "pretext",
        "--config_exp configs/pretext",
        r"/configs/pretext: Is a directory",
        r"give one of those under configs/",
    ),
    "an env file that is not there": Case(
        "pretext",
        "--config_env {outside}/env.yml",
        r"/env\.yml: No such file",
        r"did you mean configs/env\.yml\?",
    ),
    "an override without =": Case("pretext", "seed", r"'seed' sets nothing", r"write it as key=value"),
    "a run_name that leads elsewhere": Case(
        "pretext", "run_name=../mine", r"run_name \.\./mine", r"root_dir=\.\.\."
    ),
}

COMBINATIONS = {
    "Nesterov without momentum": Case(
        "pretext",
        "optimizer=sgd optimizer_kwargs.momentum=0 optimizer_kwargs.nesterov=True",
        r"nesterov is True with momentum 0",
        r"give a momentum, or nesterov: False",
    ),
    "SGD without its keys": Case(
        "pretext",
        "optimizer=sgd",
        r"lacks: optimizer_kwargs\.momentum, optimizer_kwargs\.nesterov",
        r"add them",
    ),
    "a decaying rate without a decay": Case(
        "scan", "scheduler=cosine", r"lacks: scheduler_kwargs\.lr_decay_rate", r"add them"
    ),
    "EMA without its share": Case("selflabel", "use_ema=True", r"lacks: ema_alpha", r"add them"),
    "the criterion of another stage": Case(
        "scan", "criterion=simclr", r"criterion simclr does not fit setup: scan", r"write criterion: scan"
    ),
    "a term of another stage's criterion": Case(
        "scan", "criterion_kwargs.temperature=0.1", r"criterion_kwargs\.temperature is 0\.1", r"leave it out"
    ),
    "two heads in self-labelling": Case("selflabel", "num_heads=2", r"num_heads is 2", r"write num_heads: 1"),
    "a ResNet-50 of another width": Case(
        "pretext", "backbone=resnet50", r"model_kwargs\.width 2: resnet50", r"choose backbone: resnet18"
    ),
    "a plain view larger than the images": Case(
        "pretext",
        "transformation_kwargs.crop_size=32",
        r"crop_size 32 is larger than the images \(16 x 16\)",
        r"set it to at most 16",
    ),
    "a random view larger than the images": Case(
        "selflabel",
        "augmentation_strategy=ours augmentation_kwargs.crop_size=17 augmentation_kwargs.num_strong_augs=4",
        r"crop_size 17 is larger than the images \(16 x 16\)",
        r"set it to at most 16",
    ),
    "half of a cutout": Case(
        "pretext",
        EXP,
        r"cutout_kwargs\.length is missing",
        r"leave cutout_kwargs out",
        recipe_with("    length: 5\n", ""),
    ),
    "faiss where it is not installed": Case(
        "pretext",
        "knn_backend=faiss",
        r"knn_backend is faiss, which is not installed",
        r"set knn_backend to torch",
        without_faiss,
    ),
} | {
    f"CUDA where there is none, for {stage}": Case(
        stage, "device=cuda", r"device: cuda .*no CUDA device", r"device=auto or device=cpu", without_cuda
    )
    for stage in (*STAGES, "eval")
}


def resumed(
    stage: str, arguments: str, value: str, given=nothing, remedy=r"run_name=\.\.\..*--restart"
) -> Case:
    """The stage itself has been run before."""
    return Case(stage, arguments, value, remedy, given, has=(stage,))


RESUMED = {
    "going on with another number of clusters": resumed("scan", "num_classes=12", r"num_classes: 10 -> 12"),
    "going on with another backbone": resumed(
        "pretext",
        "backbone=resnet50 model_kwargs.width=64",
        r"backbone: resnet18 -> resnet50; .*width: 2 -> 64",
    ),
    "going on with another width": resumed(
        "selflabel", "model_kwargs.width=8", r"model_kwargs\.width: 2 -> 8"
    ),
    "going on with another optimizer": resumed(
        "pretext",
        "optimizer=sgd optimizer_kwargs.momentum=0.9 optimizer_kwargs.nesterov=True",
        r"optimizer: adam -> sgd; .*momentum: absent -> 0\.9; .*nesterov: absent -> True",
    ),
    "going on with another learning rate": resumed(
        "scan", "optimizer_kwargs.lr=0.1", r"optimizer_kwargs\.lr: 0\.001 -> 0\.1"
    ),
    "going on with another data set": resumed(
        "pretext",
        FASHION,
        r"train_db_name: digits -> fashion-mnist; val_db_name: digits -> fashion-mnist",
        noise_for_fashion_mnist,
    ),
    "going on with another seed": resumed("selflabel", "seed=1", r"seed: 0 -> 1"),
    "going on with fewer images": resumed("pretext", "max_images=100", r"max_images: absent -> 100"),
    "going on with other images": resumed(
        "pretext", "epochs=3", r"began with other train images", images_are(one_pixel_changed)
    ),
    "going on from a pretext model that was made anew": resumed(
        "scan",
        "epochs=3",
        r"began with other model\.pth\.tar",
        in_turn(model_is(PRETEXT_MODEL, doubled), bare(PRETEXT_MODEL)),
    ),
    "fewer epochs than are finished": resumed(
        "pretext",
        "epochs=1",
        r"after epoch 2, more than epochs: 1",
        remedy=r"at least as many epochs, or .*--restart",
    ),
    "a checkpoint without the settings it was made with": resumed(
        "pretext",
        "epochs=3",
        r"/pretext\b.*\bconfig\.yml",
        removed("pretext/config.yml"),
    ),
    "settings beside a checkpoint that cannot be read": resumed(
        "pretext",
        "epochs=3",
        r"/pretext/config\.yml, line 1: ",
        changed("pretext/config.yml", lambda _: b"{"),
    ),
    "another model than the one that was trained here": resumed(
        "pretext",
        "--model {outside}/other.pth.tar",
        r"/pretext holds a training run, and \S+/other\.pth\.tar would replace its model",
        copied(PRETEXT_MODEL, "../../other.pth.tar"),
    ),
    "two runs in one folder": resumed(
        "pretext",
        "epochs=3",
        r"another run is at work in \S+/digits/pretext \(process 4242 on lab-3\)",
        locked_by_another_process,
        r"wait for its end, stop it, or .*run_name=\.\.\.",
    ),
}

BEGIN_ANEW = r"no whole checkpoint is left: put a copy back, or begin anew with --restart"
CHECKPOINT = "pretext/checkpoint.pth.tar"


def no_checkpoint(value: str, *damage) -> Case:
    """What is done to the only checkpoint of a run that was stopped."""
    given = in_turn(one_checkpoint("pretext"), *damage)
    return Case("pretext", "", rf"/pretext/checkpoint\.pth\.tar {value}", BEGIN_ANEW, given, 3, ("pretext",))


DAMAGED_CHECKPOINTS = {
    "a checkpoint of zero bytes": no_checkpoint(r"\(0 bytes\) is damaged", changed(CHECKPOINT, emptied)),
    "a checkpoint cut off": no_checkpoint(r"\(\d{6} bytes\) is damaged", changed(CHECKPOINT, cut_off)),
    "a flipped bit in a checkpoint": no_checkpoint(
        r"\(\d{6} bytes\) is damaged", changed(CHECKPOINT, bit_flipped)
    ),
    "a bare checkpoint of zero bytes": no_checkpoint(
        r"\(0 bytes\) cannot be read", unrecorded(CHECKPOINT, emptied)
    ),
    "a bare checkpoint cut off": no_checkpoint(
        r"\(\d{6} bytes\) cannot be read", unrecorded(CHECKPOINT, cut_off)
    ),
    "a checkpoint with foreign classes": no_checkpoint(
        r"\(\d+ bytes\) cannot be read.*nothing in it was run", foreign(CHECKPOINT, in_a_torch_file)
    ),
    "both checkpoints damaged": Case(
        "scan",
        "epochs=3",
        r"/checkpoint\.pth\.tar \(0 bytes\) is damaged.*/previous_checkpoint\.pth\.tar \(\d+ bytes\) is damaged",
        BEGIN_ANEW,
        in_turn(
            changed("scan/checkpoint.pth.tar", emptied),
            changed("scan/previous_checkpoint.pth.tar", bit_flipped),
        ),
        3,
        ("scan",),
    ),
} | {
    f"a bare checkpoint with {what}": Case(
        "pretext",
        "",
        r"/pretext/checkpoint\.pth\.tar .*\b" + name,
        r"--restart|move it away",
        in_turn(
            one_checkpoint("pretext"), model_is(CHECKPOINT, lambda content, other=other: content | other)
        ),
        has=("pretext",),
    )
    for what, name, other in (
        ("the state of another optimizer", "optimizer", {"optimizer": {"state": {}, "param_groups": []}}),
        ("no state of an optimizer", "optimizer", {"optimizer": {}}),
        ("an epoch that is no number", "epoch", {"epoch": "two"}),
        ("the weights of another network", "conv1", {"model": {"conv1.weight": torch.ones(1)}}),
    )
}

STARTS = {  # stage: the model that it starts from, what else is given, and what stands there
    "pretext": (PRETEXT_MODEL, "run_name=second --model {here}/pretext/model.pth.tar", ("pretext",)),
    "scan": (PRETEXT_MODEL, "", ()),
    "selflabel": (SCAN_MODEL, "", ()),
    "eval": (SCAN_MODEL, "", ()),
}
DAMAGED_MODELS = {
    f"{what}, for {stage}": Case(
        stage, arguments, r"/model\.pth\.tar " + value, remedy, given(model), code, has
    )
    for stage, (model, arguments, has) in STARTS.items()
    for what, given, value, remedy, code in (
        (
            "a model of zero bytes",
            lambda model: changed(model, emptied),
            r"\(0 bytes\) is damaged",
            PUT_BACK,
            3,
        ),
        ("a model cut off", lambda model: changed(model, cut_off), r"\(\d+ bytes\) is damaged", PUT_BACK, 3),
        ("a flipped bit in a model", lambda model: changed(model, bit_flipped), r".*is damaged", PUT_BACK, 3),
        (
            "a bare model of zero bytes",
            lambda model: bare(model, emptied),
            r"\(0 bytes\) cannot be read",
            ANEW,
            2,
        ),
        (
            "a bare model cut off",
            lambda model: bare(model, cut_off),
            r"\(\d+ bytes\) cannot be read",
            ANEW,
            2,
        ),
        ("a pickle of foreign classes", lambda model: in_turn(foreign(model), bare(model)), *NOTHING_RUN),
        (
            "a model with foreign classes",
            lambda model: in_turn(foreign(model, in_a_torch_file), bare(model)),
            *NOTHING_RUN,
        ),
    )
} | {
    "a model put in the place of another one, whose record stays": Case(
        "selflabel",
        "",
        r"/scan/model\.pth\.tar .*is damaged or another file",
        r"if it is meant to be another one, remove that record",
        changed(SCAN_MODEL, lambda _: torch_file({})),
        3,
    )
}

STORAGE = {
    "a data file of zero bytes": Case(
        "pretext",
        f"{FASHION} db_root_dir.fashion-mnist={{outside}}/fashion",
        r"/fashion/train-images-idx3-ubyte \(0 bytes\) is no whole idx file",
        r"remove it, and it will be downloaded anew",
        fashion_mnist_is(b""),
    ),
    "a data set that is not there, without a network": Case(
        "pretext",
        f"{FASHION} db_root_dir.fashion-mnist={{outside}}/fashion",
        r"missing or incomplete in \S+/fashion, .*Network is unreachable",
        r"db_root_dir\.fashion-mnist=\.\.\.",
        fashion_mnist_is(None),
    ),
    "a file for root_dir": Case(
        "pretext",
        "root_dir={outside}/a_file",
        r"cannot write \S+/a_file/digits/pretext: Not a directory",
        r"put it right|root_dir=\.\.\.",
        written(b"", "a_file"),
        3,
    ),
    "a file in the place of the run's folder": Case(
        "pretext",
        "",
        r"cannot write \S+/digits/pretext: File exists",
        r"put it right|root_dir=\.\.\.",
        lambda here, patch: (here / "pretext").touch(),
        3,
    ),
    "a results folder that cannot be written": Case(
        "pretext",
        "",
        r"cannot write \S+/digits/pretext: Permission denied",
        r"make the folder writable, or name another root_dir=\.\.\.",
        folders_cannot_be_made,
        3,
    ),
}

MISTAKES = {
    **MISSING_FILES,
    **WRONG_STAGE,
    **DOES_NOT_FIT,
    **WRONG_DATA,
    **NEIGHBORS,
    **SIZES,
    **CONFIG,
    **COMBINATIONS,
    **RESUMED,
    **DAMAGED_CHECKPOINTS,
    **DAMAGED_MODELS,
    **STORAGE,
}


def assert_one_line(ended: Ended, code: int, *patterns: str) -> None:
    assert (ended.code, ended.err.count("\n")) == (code, 1), f"exit code {ended.code}: {ended.err}"
    assert ended.err.startswith("error: ") and ended.err.endswith("\n"), ended.err
    line = ended.err.removeprefix("error: ").rstrip()
    assert [pattern for pattern in patterns if not re.search(pattern, line)] == [], line


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_with_the_value_and_the_remedy_and_nothing_is_written(
    name, stages, give, monkeypatch, tmp_path
):
    case = MISTAKES[name]
    here = stages([*before(case.stage), *case.has])
    case.given(here, monkeypatch)
    found = snapshot(tmp_path)
    ended = give(case.stage, here, case.arguments)
    assert_one_line(ended, case.code, case.value, case.remedy)
    assert snapshot(tmp_path) == found


@pytest.mark.parametrize(
    "stage, closed, patterns",
    [
        ("pretext", ".", (r"cannot write \S+/digits/pretext: Permission denied", r"root_dir=\.\.\.")),
        ("scan", PRETEXT_MODEL, (r"cannot read \S+/pretext/model\.pth\.tar: Permission denied", r"readable")),
    ],
    ids=["a results folder that cannot be written", "a model that cannot be read"],
)
def test_what_the_user_has_no_right_to_is_one_line(stage, closed, patterns, stages, give):
    here = stages(before(stage))
    found, mode = snapshot(here), (here / closed).stat().st_mode
    (here / closed).chmod(0o500 if closed == "." else 0)
    try:
        if os.access(here / closed, os.W_OK):
            pytest.skip("root may do everything")
        ended = give(stage, here)
    finally:
        (here / closed).chmod(mode)
    assert_one_line(ended, 3, *patterns)
    assert snapshot(here) == found


# -- the same on ImageNet, whose images lie in files and whose pretext model is another's


def image_spoilt(here, patch):
    """A file that is no image lies where an image was."""
    path = sorted(imagenet_runs.class_folder(here).iterdir())[0]
    path.unlink()
    path.write_text("no image")


def image_spoilt_unseen(here, patch):
    """As if written over, after the files were checked: the folder's time of change stays the same."""
    imagenet_runs.check_files(here)
    folder = imagenet_runs.class_folder(here)
    before = folder.stat()
    image_spoilt(here, patch)
    os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))


def in_class(change, number=0):
    """change(the folder of a class's training images) is done."""
    return lambda here, patch: change(imagenet_runs.class_folder(here, number))


def emptied_folder(folder):
    for path in folder.iterdir():
        path.unlink()


def image_added(folder):
    shutil.copy(next(folder.iterdir()), folder / "one_more.JPEG")


def image_renamed(folder):
    next(folder.iterdir()).rename(folder / "another_name.JPEG")


def other_weights(content):
    """`{outside}/other.pth` is a file of this content."""
    return lambda here, patch: torch.save(content(), here.parents[1] / "other.pth")


def mocos_whole_training():
    state = imagenet_runs.network()
    return {
        "state_dict": imagenet_runs.mocos(state)
        | imagenet_runs.mocos(state, "k")
        | {"module.queue": torch.ones(3)}
    }


def plain_resnet():
    state = imagenet_runs.network()
    plain = {
        name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")
    }
    return plain | {"fc.weight": torch.zeros(1000, 16), "fc.bias": torch.zeros(1000)}


IMAGENET_MAINS = {"moco": moco.main, "scan": scan.main, "selflabel": selflabel.main, "eval": evaluation.main}
RUN_MOCO = r"`python moco\.py --config_exp (configs/pretext/moco_imagenet50|\S*/pretext/config)\.yml"
OTHER, AS_PRETEXT = "moco_weights={outside}/other.pth", f"--config_exp {imagenet_runs.CONFIGS['moco']}"
PLACE = r"db_root_dir\.imagenet=\.\.\."
OTHERS_BACKBONES = r"moco\.py reads others' backbones"

OTHERS_WEIGHTS = {
    "eval of MoCo's file": Case(
        "eval",
        f"{AS_PRETEXT} --model {{outside}}/moco.pth.tar",
        r"/moco\.pth\.tar holds no model of ours",
        OTHERS_BACKBONES,
    ),
    "eval of a plain ResNet": Case(
        "eval",
        f"{AS_PRETEXT} --model {{outside}}/other.pth",
        r"/other\.pth holds no model of ours: .*resnet18 of width 2 with a 7 x 7 stem",
        OTHERS_BACKBONES,
        other_weights(plain_resnet),
    ),
    "eval of a model mined with, by a SCAN config": Case(
        "eval",
        "--model {here}/pretext/model.pth.tar",
        r"/pretext/model\.pth\.tar is a pretext model, .*config of the scan stage",
        r"give the config under configs/pretext/",
    ),
    "eval of a model of another number of classes": Case(
        "eval",
        "--config_exp configs/scan/scan_imagenet_100.yml",
        r"/scan/model\.pth\.tar was trained on imagenet_50, but .*imagenet_100",
        r"give the config of imagenet_50",
    ),
    "eval of a narrow model by a config of a whole ResNet-50": Case(
        "eval",
        "backbone=resnet50 model_kwargs.width=64",
        r"the file seems to hold resnet18 of width 2 .*, the config asks for resnet50",
        r"check backbone",
    ),
    "a text file for MoCo's": Case(
        "moco",
        OTHER,
        r"/other\.pth \(5 bytes\) cannot be read",
        r"put the right file there",
        written(b"hello", "other.pth"),
    ),
    "MoCo's weights that are not there": Case("moco", OTHER, r"/other\.pth not found", r"mend the path"),
    "MoCo's whole training": Case(
        "moco",
        OTHER,
        r"/other\.pth holds \d+ tensors beside MoCo's query encoder: encoder_k\.",
        r"save the tensors under module\.encoder_q\. alone",
        other_weights(mocos_whole_training),
    ),
    "a backbone that is no ResNet": Case(
        "moco",
        OTHER,
        r"/other\.pth holds no model of ours: .*conv_proj\.weight",
        r"give a model\.pth\.tar",
        other_weights(lambda: {"conv_proj.weight": torch.ones(4, 3, 16, 16)}),
    ),
    "MoCo's weights of another width": Case(
        "moco",
        "run_name=second model_kwargs.width=4",
        r"/moco\.pth\.tar does not fit .*resnet18 of width 2 .*asks for resnet18 of width 4",
        r"check backbone, model_kwargs",
    ),
    "a SCAN model for MoCo's": Case(
        "moco",
        "--model {here}/scan/model.pth.tar",
        r"/scan/model\.pth\.tar is a scan model",
        r"give the model\.pth",
    ),
    "a moco config for scan.py": Case("scan", AS_PRETEXT, r"setup: moco", r"run it with moco\.py"),
    "self-labelling from a model that was mined with": Case(
        "selflabel",
        "scan_dir={here}/pretext",
        r"/pretext/model\.pth\.tar is a pretext model",
        r"that scan\.py wrote",
    ),
}

IMAGE_FILES = {
    "no ImageNet there": Case(
        "moco",
        "--restart db_root_dir.imagenet={outside}/nowhere",
        r"imagenet_50 is not in \S+/nowhere: ILSVRC2012_img_train/",
        PLACE,
    ),
    "ImageNet's folder one level too deep": Case(
        "scan",
        "run_name=second pretext_dir={here}/pretext db_root_dir.imagenet={outside}/images/ILSVRC2012_img_train",
        r"imagenet_50 is not in \S+/images/ILSVRC2012_img_train:",
        PLACE,
    ),
    "a larger subset than there is": Case(
        "moco",
        "train_db_name=imagenet_100 run_name=second",
        r"/images/ILSVRC2012_img_train lacks 50 of 100 folders: n\d{8}, ",
        r"put them there, or name the right place",
    ),
    "a class without its folder": Case(
        "scan",
        "run_name=second pretext_dir={here}/pretext",
        rf"/ILSVRC2012_img_train lacks 1 of 50 folders: {imagenet_runs.IDS[7]};",
        r"put them there, or name the right place",
        in_class(shutil.rmtree, 7),
    ),
    "a class without images": Case(
        "scan",
        "on_error=skip run_name=second pretext_dir={here}/pretext",
        rf"/{imagenet_runs.IDS[3]} holds no readable \*\.JPEG file \(1 of 50",
        r"put the images there",
        in_class(emptied_folder, 3),
    ),
    "a file that is no image": Case(
        "moco",
        "--restart",
        rf"1 image files cannot be read: \S+/{imagenet_runs.IDS[0]}_0\.JPEG \(no image",
        r"put them right, or leave .*on_error=skip",
        image_spoilt,
    ),
    "an image lost between mining and SCAN": Case(
        "scan",
        "run_name=second pretext_dir={here}/pretext on_error=skip",
        r"made from 100 train images of imagenet_50, but this run has 99 train images",
        RUN_MOCO,
        image_spoilt,
    ),
    "an image added between mining and SCAN": Case(
        "scan",
        "run_name=second pretext_dir={here}/pretext",
        r"made from 100 train images of imagenet_50, but this run has 101 train images",
        RUN_MOCO,
        in_class(image_added),
    ),
    "an image renamed between mining and SCAN": Case(
        "scan",
        "run_name=second pretext_dir={here}/pretext",
        r"made from 100 train images of imagenet_50, but .* 100 train images of imagenet_50, others",
        RUN_MOCO,
        in_class(image_renamed),
    ),
    "an image spoilt after the files were checked": Case(
        "scan",
        "run_name=second pretext_dir={here}/pretext",
        rf"/{imagenet_runs.IDS[0]}_0\.JPEG cannot be read \(no image .*but could be when its folder was checked",
        r"touch the folder",
        image_spoilt_unseen,
        3,
    ),
}


IMAGENET_SETTINGS = {
    "no more images than MoCo's neighbors": Case(
        "moco",
        "--restart num_neighbors=100",
        r"100 train images are too few to mine 100",
        r"lower num_neighbors",
    ),
    "a plain view larger than 256 px": Case(
        "moco",
        "--restart transformation_kwargs.crop_size=300",
        r"crop_size 300 is larger",
        r"set it to at most 256",
    ),
    "an index of faiss for PyTorch's search": Case(
        "moco",
        "--restart knn_backend=torch knn_index=HNSW32",
        r"knn_index 'HNSW32' needs faiss",
        r"knn_index=Flat",
    ),
    "views kept for a backbone that is trained": Case(
        "scan",
        "--restart cached_views=2 update_cluster_head_only=False",
        r"cached_views is 2, but .*frozen backbone only",
        r"update_cluster_head_only",
    ),
    "more neighbors than moco.py mined": Case(
        "scan",
        "--restart num_neighbors=60",
        r"num_neighbors 60 is more than the 50 mined",
        r"at most 50, or mine more in the pretext stage",
    ),
}

MISTAKES_ON_IMAGENET = {**OTHERS_WEIGHTS, **IMAGE_FILES, **IMAGENET_SETTINGS}


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """moco.py and scan.py have been run on ImageNet-50 in small."""
    outside = tmp_path_factory.mktemp("imagenet")
    here = outside / "results" / "imagenet_50"
    imagenet_runs.write_files(outside)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SCAN_IMAGENET_DIR", raising=False)
        patch.setattr("utils.mining.plot_neighbors", lambda *_: None)
        patch.setattr("utils.mining.kmeans_accuracy", lambda *_: 0.0)
        for plot in ("plot_curves", "plot_matching"):
            patch.setattr(scan, plot, lambda *_: None)
        for stage in ("moco", "scan"):
            IMAGENET_MAINS[stage](imagenet_runs.arguments_of(stage, here))
    return outside


@pytest.mark.parametrize("name", MISTAKES_ON_IMAGENET)
def test_a_mistake_on_imagenet_is_one_line_with_the_value_and_the_remedy_and_nothing_is_written(
    name, imagenet, tmp_path, monkeypatch, capsys
):
    case = MISTAKES_ON_IMAGENET[name]
    monkeypatch.delenv("SCAN_IMAGENET_DIR", raising=False)
    here = tmp_path / "results" / "imagenet_50"
    imagenet_runs.copy_all(imagenet, tmp_path)
    case.given(here, monkeypatch)
    found = snapshot(tmp_path)
    capsys.readouterr()
    code = run(case.stage, imagenet_runs.arguments_of(case.stage, here, case.arguments), IMAGENET_MAINS)
    assert_one_line(Ended(code, *capsys.readouterr()), case.code, case.value, case.remedy)
    shutil.rmtree(here.parent / "scans", ignore_errors=True)  # what was found out of the images is no result
    found = {path: content for path, content in found.items() if not path.startswith("results/scans")}
    assert snapshot(tmp_path) == found


COMMAND_LINE = {  # a whole command line, and what is said of it
    "no config": ("pretext", "seed=1", r"--config_exp", r"configs/|--help"),
    "an option that does not exist": (
        "pretext",
        "--config_exp x.yml --epochs 3",
        r"--epochs",
        r"key=value|--help",
    ),
    "--model for scan.py": (
        "scan",
        "--config_exp x.yml --model x.pth.tar",
        r"--model",
        r"pretext_dir|--help",
    ),
    "eval without a model": ("eval", "--config_exp x.yml", r"--model", r"model\.pth\.tar|--help"),
}


@pytest.mark.parametrize("name", COMMAND_LINE)
def test_a_mistake_on_the_command_line_is_one_line(name, capsys):
    stage, words, *patterns = COMMAND_LINE[name]
    code = run(stage, words.split())
    assert_one_line(Ended(code, *capsys.readouterr()), 2, *patterns)


# -- the remedy works: the command in the line, pasted into a shell, and then the one that failed


MENDED = {
    "SCAN before SimCLR": ("scan", "", removed("pretext")),
    "a model without its neighbors": ("scan", "", removed(VAL_NEIGHBORS)),
    "a published model whose neighbors were not mined yet": ("scan", "", only("model.pth.tar")),
    "neighbors mined with another model": ("scan", "", model_is(PRETEXT_MODEL, doubled)),
    "fewer images than the pretext task had": ("scan", "max_images=100", nothing),
}


@pytest.mark.parametrize("name", MENDED)
def test_the_command_that_the_line_names_mends_it_even_where_a_folder_has_to_be_quoted(
    name, stages, give, monkeypatch, tmp_path
):
    stage, arguments, given = MENDED[name]
    here = stages(before(stage), tmp_path / "Jürgen's 漢字 and more")
    given(here, monkeypatch)
    (advice,) = re.findall("`(.*)`", give(stage, here, arguments).err)
    python, script, *words = shlex.split(advice)
    (made_by,) = (name for name in SCRIPTS if script == f"{SCRIPTS[name].__name__}.py")
    assert python == "python"
    assert run(made_by, [*words, "epochs=2", *TINY]) == 0
    assert_done(give(stage, here, f"{arguments} epochs=1"))


# -- failures in the middle of training


def at_step(number, spoil):
    """From the criterion comes spoil(its result) when it is called for the time `number`; 206 images make 3 steps."""

    def do(here, patch):
        calls = itertools.count(1)

        def spoilt(right):
            def forward(self, *arguments):
                result = right(self, *arguments)
                return spoil(result) if next(calls) == number else result

            return forward

        for criterion in (SimCLRLoss, SCANLoss, ConfidenceBasedCE):
            patch.setattr(criterion, "forward", spoilt(criterion.forward))

    return do


class NoGradient(torch.autograd.Function):
    """The same value, and a gradient of NaN."""

    @staticmethod
    def forward(context, value):
        return value.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * torch.nan


def weights_are_lost_in_step_3(here, patch):
    def build(*arguments, right=simclr.build_optimizer):
        optimizer, steps = right(*arguments), itertools.count(1)

        def lose(*_):
            if next(steps) == 3:
                optimizer.param_groups[0]["params"][5].data.fill_(torch.inf)

        optimizer.register_step_post_hook(lose)
        return optimizer

    patch.setattr(simclr, "build_optimizer", build)


LOWER_LR = r"what was saved is whole.*optimizer_kwargs\.lr"
LOWER_BATCH = r"lower batch_size, the sizes in augmentation_kwargs and transformation_kwargs, or the width"
SIZES_NOW = r".*batch_size 64, views of 16 px, model_kwargs\.width 2"

FAILURES = {  # the stage goes on from two whole epochs, with these faults
    "the loss of SimCLR is NaN": (
        "pretext",
        at_step(2, lambda loss: loss * torch.nan),
        r"epoch 3, step 2: loss, gradient",
        LOWER_LR,
    ),
    "the loss of SimCLR is infinite in the last step": (
        "pretext",
        at_step(3, lambda loss: loss * torch.inf),
        r"epoch 3, step 3: loss",
        LOWER_LR,
    ),
    "the entropy in SCAN is NaN": (
        "scan",
        at_step(1, lambda terms: terms._replace(entropy=terms.entropy * torch.nan)),
        r"epoch 3, step 1: entropy;",
        LOWER_LR,
    ),
    "the loss of self-labelling is NaN": (
        "selflabel",
        at_step(2, lambda terms: terms._replace(loss=terms.loss * torch.nan)),
        r"epoch 3, step 2: loss, gradient",
        LOWER_LR,
    ),
    "a gradient is NaN while the loss is finite": (
        "pretext",
        at_step(2, NoGradient.apply),
        r"epoch 3, step 2: gradient;",
        LOWER_LR,
    ),
    "the last gradient is NaN while the loss is finite": (
        "selflabel",
        at_step(3, lambda terms: terms._replace(loss=NoGradient.apply(terms.loss))),
        r"epoch 3, step 3: gradient;",
        LOWER_LR,
    ),
    "the last step leaves weights that are not finite": (
        "pretext",
        weights_are_lost_in_step_3,
        r"weights were not finite in epoch 3",
        LOWER_LR,
    ),
    "the host's memory is full": (
        "pretext",
        at_step(2, lambda _: torch.empty(10**15)),
        r"not enough memory \(.*can't allocate memory" + SIZES_NOW,
        LOWER_BATCH,
    ),
    "the host's memory is full, as NumPy says it": (
        "pretext",
        at_step(2, lambda _: np.empty(10**15)),
        r"not enough memory \(Unable to allocate" + SIZES_NOW,
        LOWER_BATCH,
    ),
}
WRITTEN_IN_TRAINING = {"log.jsonl", "config.yml", "finished.json"}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_in_training_is_one_line_and_leaves_models_and_checkpoints_as_they_were(
    name, stages, give, monkeypatch
):
    stage, fault, *patterns = FAILURES[name]
    here = stages([*before(stage), stage])
    fault(here, monkeypatch)
    found = snapshot(here)
    assert_one_line(give(stage, here, "epochs=3"), 3, *patterns)
    left = snapshot(here)
    other = {Path(path).name for path in found.keys() | left.keys() if found.get(path) != left.get(path)}
    assert other <= WRITTEN_IN_TRAINING
    state, fault = load_checkpoint(here / stage / "checkpoint.pth.tar")
    assert (state["epoch"], fault) == (2, "")


@pytest.mark.parametrize("stage", STAGES)
def test_after_running_out_of_memory_the_same_command_goes_on_from_the_last_checkpoint(
    stage, stages, give, monkeypatch
):
    here = stages([*before(stage), stage])
    with monkeypatch.context() as patch:
        at_step(2, raising(OUT_OF_CUDA_MEMORY))(here, patch)
        ended = give(stage, here, "epochs=3")
    assert_one_line(ended, 3, r"not enough memory \(CUDA out of memory" + SIZES_NOW, LOWER_BATCH)
    assert_done(give(stage, here, "epochs=3"), r"resumed after epoch 2")
    assert load_checkpoint(here / stage / "checkpoint.pth.tar")[0]["epoch"] == 3


def test_an_epoch_of_self_labelling_without_a_confident_image_ends_with_the_confidences_and_what_to_do(
    stages, give
):
    here = stages(before("selflabel"))
    found = snapshot(here)
    ended = give("selflabel", here, "confidence_threshold=0.9999")
    value = r"no image was confident in epoch 1.* 0 of 206 .*threshold 0\.9999 .*10, 50, 90, 100 %: 0\.\d+, "
    assert_one_line(ended, 3, value, r"more epochs", r"raise its batch_size", r"lower confidence_threshold")
    left = snapshot(here)
    assert left.keys() - found.keys() == {"selflabel", "selflabel/log.jsonl", "selflabel/config.yml"}
    assert {name: left[name] for name in found} == found


# -- what is right, or can be lived with, and is said


def assert_done(ended: Ended, *notes: str) -> None:
    assert (ended.code, ended.err) == (0, "")
    assert [note for note in notes if not re.search(note, ended.out)] == [], ended.out


def test_published_files_without_records_are_taken_as_they_are(stages, give):
    here = stages(before("scan"))
    made = ("model.pth.tar", "topk-train-neighbors.npy", "topk-val-neighbors.npy")
    only(*made)(here, None)
    ended = give("scan", here)
    assert_done(ended, *(rf"/pretext/{re.escape(name)} has no record .*taken as it is" for name in made))


def test_a_published_model_is_mined_with(stages, give, finished):
    here = stages([])
    shutil.copy(finished / "pretext/model.pth.tar", here.parents[1] / "simclr.pth.tar")
    assert_done(
        give("pretext", here, "--model {outside}/simclr.pth.tar"), r"loaded 120 of 120 backbone tensors"
    )
    assert_done(give("scan", here))


@pytest.mark.parametrize("stage", STAGES)
def test_a_finished_stage_says_so_and_writes_nothing(stage, stages, give, tmp_path):
    here = stages(STAGES)
    found = snapshot(tmp_path)
    ended = give(stage, here)
    assert_done(ended, rf"/digits/{stage} is finished \(2 epochs\).*epochs=\.\.\..*--restart")
    assert ended.out.count("\n") == 1
    assert snapshot(tmp_path) == found


@pytest.mark.parametrize("stage", STAGES)
def test_a_restart_moves_the_whole_folder_aside(stage, stages, give):
    here = stages(STAGES)
    found = snapshot(here / stage)
    (here / stage / "notes of mine.txt").write_text("seed 0, keep")
    assert_done(give(stage, here, "--restart seed=1 epochs=1"))
    assert snapshot(here / f"{stage}.old-1") == found | {"notes of mine.txt": b"seed 0, keep"}
    assert snapshot(here / stage)["model.pth.tar"] != found["model.pth.tar"]


def test_what_was_moved_aside_before_stays_where_it_is(stages, give):
    here = stages(STAGES)
    shutil.copytree(here / "scan", here / "scan.old-1")
    found = snapshot(here)
    assert_done(give("scan", here, "--restart epochs=1"))
    left = snapshot(here)
    kept = {
        name.replace("scan.old-1", "scan.old-2"): found[name]
        for name in found
        if name.startswith("scan.old-1")
    }
    assert {name: left[name] for name in left if name.startswith("scan.old-2")} == kept
    assert {name: left[name] for name in left if name.startswith("scan.old-1")} == {
        name: found[name] for name in found if name.startswith("scan.old-1")
    }


@pytest.mark.parametrize("stage", STAGES)
def test_more_epochs_than_finished_go_on(stage, stages, give):
    here = stages(STAGES)
    assert_done(give(stage, here, "epochs=3"), r"resumed after epoch 2")
    lines = [json.loads(line) for line in (here / stage / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "epoch" in line] == [1, 2, 3]


@pytest.mark.parametrize("damage", [emptied, cut_off, bit_flipped])
def test_a_damaged_checkpoint_is_kept_aside_and_the_one_before_it_taken(damage, stages, give):
    here = stages(before("selflabel"))
    in_turn(changed("scan/checkpoint.pth.tar", damage), removed("scan/finished.json"))(here, None)
    damaged = (here / "scan/checkpoint.pth.tar").read_bytes()
    note = rf"warning: \S+/checkpoint\.pth\.tar \({len(damaged)} bytes\) is damaged.*going on from the checkpoint before"
    assert_done(give("scan", here), note, r"resumed after epoch 1")
    assert (here / "scan/damaged_checkpoint.pth.tar").read_bytes() == damaged
    assert load_checkpoint(here / "scan/checkpoint.pth.tar")[0]["epoch"] == 2


def test_numbers_and_yes_and_no_are_understood_as_people_write_them(stages, give):
    here = stages(before("scan"))
    words = "optimizer_kwargs.lr=1e-4 optimizer_kwargs.weight_decay=.1 update_cluster_head_only=yes epochs='1' seed=3.0"
    assert_done(give("scan", here, words))
    cfg = config.load_config(None, here / "scan/config.yml")
    assert (cfg.optimizer_kwargs.lr, cfg.optimizer_kwargs.weight_decay) == (0.0001, 0.1)
    assert (cfg.update_cluster_head_only, cfg.epochs, cfg.seed) == (True, 1, 3)


def test_fewer_neighbors_than_were_mined_are_the_nearest_of_them(stages, give):
    assert_done(give("scan", stages(before("scan")), "num_neighbors=5 epochs=1"))


def test_a_finished_stage_mines_more_neighbors_with_its_own_model(stages, give):
    here = stages(before("scan"))
    assert_done(
        give("pretext", here, "--model {here}/pretext/model.pth.tar num_neighbors=30"), r"nothing is trained"
    )
    assert np.load(here / "pretext/topk-train-neighbors.npy").shape == (206, 31)


def test_auto_takes_the_cpu_and_torch_where_there_is_no_cuda_and_no_faiss(stages, give, monkeypatch):
    here = stages([])
    in_turn(without_cuda, without_faiss)(here, monkeypatch)
    assert_done(
        give("pretext", here, "device=auto knn_backend=auto epochs=1"),
        r"\(cpu, seed 0\)",
        r"images with torch",
    )
