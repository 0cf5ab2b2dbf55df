"""Users' mistakes and broken files: one line on stderr with the value and the remedy, and nothing is written.

Every case starts from whole runs of the stages before its own (206 + 52 digits, 20 and 5 neighbors each, two
epochs), does its damage, and gives one command. What one function refuses is tested beside that function."""

import errno
import functools
import io
import itertools
import os
import pickle
import re
import shlex
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import data
from data.dataset import ResidentDataset
from losses import ConfidenceBasedCE, SCANLoss, SimCLRLoss
from tests import imagenet_runs
from tests.imagenet_runs import MAINS
from tests.small_runs import SMALL, config_of
from utils.neighbors import search
from utils.run.command_line import command

pytestmark = pytest.mark.usefixtures("small_data")
STAGES = ("pretext", "scan", "selflabel")
PRETEXT, SCAN = "pretext/model.pth.tar", "scan/model.pth.tar"
TRAIN, VAL = "pretext/topk-train-neighbors.npy", "pretext/topk-val-neighbors.npy"
CHECKPOINT, PREVIOUS = "pretext/checkpoint.pth.tar", "pretext/previous_checkpoint.pth.tar"


# -- one command, as the user gives it


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def arguments_of(stage: str, here: Path, more: str = "") -> list[str]:
    """The command line of a stage, or of eval for the SCAN model, in the results folder `here`.

    In `more`, `{here}` stands for that folder, `{outside}` for the one with all results and other files."""
    own = {"selflabel": "confidence_threshold=0.15", "eval": "--model {here}/scan/model.pth.tar"}
    line = f"--config_exp {config_of('scan' if stage == 'eval' else stage)} epochs=2 {own.get(stage, '')}"
    words = [*line.split(), "root_dir={outside}/results", *SMALL, *more.split()]
    return [word.format(here=here, outside=here.parents[1]) for word in words]


def run(stage: str, words: list[str]) -> int:
    """The exit code of a script given these words. Python's warnings go to stderr, as outside pytest."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)
        warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
        try:
            command(lambda: MAINS[stage](words))
        except SystemExit as end:
            return end.code
    return 0


@pytest.fixture
def give(capsys):
    """give(stage, here, more): the command of a stage, run to its end."""

    def to_the_end(stage: str, here: Path, more: str = "", arguments_of=arguments_of) -> Ended:
        capsys.readouterr()
        code = run(stage, arguments_of(stage, here, more))
        return Ended(code, *capsys.readouterr())

    return to_the_end


@pytest.fixture
def stages(finished, tmp_path):
    """stages(names, outside): a copy of those stages of the whole run; returns its folder in `outside`."""

    def copy(names, outside=tmp_path) -> Path:
        here = outside / "results" / "digits"
        here.mkdir(parents=True)
        for name in names:
            shutil.copytree(finished[name], here / name, copy_function=shutil.copyfile)
        return here

    return copy


def before(stage: str) -> tuple[str, ...]:
    return STAGES if stage == "eval" else STAGES[: STAGES.index(stage)]


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Relative path -> content, None for a folder; without locks and what a run remembers of image files."""
    paths = [path for path in folder.rglob("*") if path.suffix != ".lock" and "scans" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


def assert_one_line(ended: Ended, code: int, words: str) -> None:
    """One line on stderr, in which each of the words stands; a number stands there as a whole."""
    assert (ended.code, ended.err.count("\n")) == (code, 1), f"exit code {ended.code}: {ended.err}"
    assert ended.err.startswith("error: ") and ended.err.endswith("\n"), ended.err
    for word in words.split():
        assert re.search(rf"\b{word}\b" if word.isdigit() else re.escape(word), ended.err), (
            f"{word}: {ended.err}"
        )


def assert_done(ended: Ended, *words: str) -> None:
    assert (ended.code, ended.err) == (0, "")
    assert [word for word in words if word not in ended.out] == [], ended.out


# -- what has happened before the command: functions of the results folder and of pytest's monkeypatch


def nothing(here, patch):
    pass


def in_turn(*steps):
    def do(here, patch):
        for step in steps:
            step(here, patch)

    return do


def removed(*names):
    def do(here, patch):
        for path in map(here.joinpath, names):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return do


def changed(name, change):
    """The file has other bytes, its manifest is the old one."""
    return lambda here, patch: (here / name).write_bytes(change((here / name).read_bytes()))


def bare(name, change=bytes):
    """The file has other bytes, and no file beside it has a manifest: so files come that were published."""

    def do(here, patch):
        changed(name, change)(here, patch)
        for path in (here / name).parent.glob("*.json"):
            path.unlink()

    return do


def only(*names):
    """The folder `pretext` holds these files and nothing else: so they come that were published."""

    def do(here, patch):
        for path in (here / "pretext").iterdir():
            if path.name not in names:
                path.unlink()

    return do


def copied(source, target):
    """`target` is now the file `source`, with its manifest if it has one."""

    def do(here, patch):
        for end in ("", ".json"):
            (here / f"{target}{end}").unlink(missing_ok=True)
            if (here / f"{source}{end}").exists():
                shutil.copy(here / f"{source}{end}", here / f"{target}{end}")

    return do


def written(content, name):
    """A file `{outside}/<name>`."""
    return lambda here, patch: (here.parents[1] / name).write_bytes(content)


def emptied(content):
    return b""


def cut_off(content):
    return content[: len(content) // 2]


def bit_flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def saved_by(save, thing):
    """The bytes that save(file, thing) writes."""
    file = io.BytesIO()
    save(file, thing)
    return file.getvalue()


def torch_file(thing):
    return saved_by(lambda file, thing: torch.save(thing, file), thing)


def model_is(name, change):
    """The model file holds change(its content), without a manifest."""

    def do(here, patch):
        content = torch_file(change(torch.load(here / name, weights_only=True)))
        changed(name, lambda _: content)(here, patch)
        (here / f"{name}.json").unlink(missing_ok=True)

    return do


def with_other(file, name, value):
    return model_is(file, lambda content: content | {name: value})


def doubled(state):
    return {name: value * 2 for name, value in state.items()}


def one_neighbor_is(value):
    """One entry of the neighbor file is `value`, and it has no manifest."""

    def change(content):
        array = np.load(io.BytesIO(content))
        array[3, 1] = value
        return saved_by(np.save, array)

    return bare(TRAIN, change)


def foreign(name, wrap=pickle.dumps):
    """The file holds an object that makes the folder `executed` when it is unpickled; it has no manifest."""

    def do(here, patch):
        class Foreign:
            def __reduce__(self):
                return os.mkdir, (str(here / "executed"),)

        bare(name, lambda _: wrap(Foreign()))(here, patch)

    return do


def in_a_torch_file(thing):
    return torch_file({"backbone.conv1.weight": thing})


def in_an_array(thing):
    return saved_by(np.save, np.array([[thing]], dtype=object))


def zero_last_layer(state):
    return state | {name: 0 * value for name, value in state.items() if name.startswith("contrastive_head.2")}


def images_are(change, split="train"):
    """The images of a split of the digits are change(what they were)."""

    def do(here, patch):
        right = data.DATASETS["digits"]
        whole = right(split)
        images = change(whole.images)
        other = ResidentDataset(images, whole.targets[: len(images)], whole.classes)
        patch.setitem(data.DATASETS, "digits", lambda name: other if name == split else right(name))

    return do


def few_val_images(number):
    return images_are(lambda images: images[:number], "val")


def one_pixel(images):
    images = images.clone()
    images[0, 0, 0, 0] += 1
    return images


VAL_FOR_TRAIN = in_turn(removed(f"{PRETEXT}.json"), copied(VAL, TRAIN))
FASHION = "train_db_name=fashion-mnist val_db_name=fashion-mnist batch_size=32 run_name=digits"


def fashion_is_grey(here, patch):
    """40 + 30 images under the name of another data set."""

    def read(split, folder):
        number = {"train": 40, "val": 30}[split]
        images = torch.full((number, 3, 32, 32), number, dtype=torch.uint8)
        return ResidentDataset(images, torch.arange(number) % 10, list("0123456789"))

    patch.setitem(data.DATASETS, "fashion-mnist", read)


def without_cuda(here, patch):
    patch.setattr(torch.cuda, "is_available", lambda: False)


def without_faiss(here, patch):
    patch.setattr(search, "import_faiss", lambda: None)


def locked_by_another_process(here, patch):
    fcntl = pytest.importorskip("fcntl")
    lock = os.open(here / ".pretext.lock", os.O_RDWR | os.O_CREAT)  # held to the end of the tests
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.truncate(lock, 0)
    os.write(lock, b"process 4242 on lab-3")


def raising(error):
    def refuse(*_, **__):
        raise error

    return refuse


OUT_OF_CUDA_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 is full.")


def no_memory_for_images(here, patch):
    patch.setitem(data.DATASETS, "digits", lambda split: np.empty(10**15))


def no_memory_on_the_gpu(here, patch):
    patch.setattr(torch.nn.Conv2d, "forward", raising(OUT_OF_CUDA_MEMORY))


def folders_cannot_be_made(here, patch):
    patch.setattr(Path, "mkdir", raising(PermissionError(errno.EACCES, "Permission denied")))


# -- mistakes


class Case(NamedTuple):
    """words: the wrong value, and the key, file or command of the remedy. has: further stages that ran."""

    stage: str
    arguments: str
    words: str
    given: Any = nothing
    code: int = 2
    has: tuple[str, ...] = ()


ZERO_MODEL = model_is(PRETEXT, zero_last_layer)
HERE = ("pretext",)  # the pretext task has been run before
AS_PRETEXT = f"--config_exp {config_of('pretext')} --model {{here}}/{PRETEXT}"  # for eval
AS_SELFLABEL = f"--config_exp {config_of('selflabel')}"
TO_MINE, SECOND = "--model {outside}/model.pth.tar", "run_name=second --model {here}/pretext/model.pth.tar"
LINEAR, BIGGER = "model_kwargs.head=linear", "transformation_kwargs.crop_size=32"
BATCH, SIZE_52 = "batch_size 207 206", "max_images=52 num_neighbors=5 batch_size=32"
CROP_17 = "augmentation_strategy=ours augmentation_kwargs.crop_size=17 augmentation_kwargs.num_strong_augs=4"
OTHER_MODEL = "--model {outside}/other.pth.tar"
MISSPELT = "--config_exp configs/pretext/simclr_digit.yml"

MISSING_FILES = {
    "SCAN before SimCLR": Case("scan", "", f"{PRETEXT} simclr.py root_dir=", removed("pretext")),
    "a model without its neighbors": Case("scan", "", f"{TRAIN} simclr.py", removed(TRAIN)),
    "no neighbors of the val split": Case("scan", "", f"{VAL} simclr.py", removed(VAL)),
    "self-labelling before SCAN": Case("selflabel", "", f"{SCAN} scan.py", removed("scan")),
    "a misspelt pretext_dir": Case("scan", "pretext_dir={here}/pretxt", "/pretxt/model.pth.tar pretext_dir="),
    "a misspelt scan_dir": Case("selflabel", "scan_dir={here}/scann", "/scann/model.pth.tar scan_dir="),
    "eval of no model": Case("eval", "--model {here}/scan/best.pth.tar", "/scan/best.pth.tar"),
    "no model to mine with": Case("pretext", TO_MINE, "/model.pth.tar"),
}
WRONG_STAGE = {
    "a SCAN config for simclr.py": Case("pretext", f"--config_exp {config_of('scan')}", "scan scan.py"),
    "a wrong scan_dir": Case("selflabel", "scan_dir={here}/pretext", f"{PRETEXT} pretext scan.py"),
    "a SCAN model as a self-labelled one for eval": Case("eval", AS_SELFLABEL, f"{SCAN} scan configs/scan/"),
    "a pretext model as SCAN's": Case("eval", f"--model {{here}}/{PRETEXT}", f"{PRETEXT} configs/pretext/"),
    "prototypes of a pretext model": Case("eval", f"{AS_PRETEXT} --visualize_prototypes", "pretext --visual"),
    "a SCAN model to mine with": Case("pretext", f"--model {{here}}/{SCAN}", f"{SCAN} scan", has=("scan",)),
}
DOES_NOT_FIT = {
    "SCAN with another width": Case("scan", "model_kwargs.width=8", "(4, (8, backbone model_kwargs"),
    "other clusters than SCAN's": Case("selflabel", "num_classes=12", "cluster_head 10 12 num_classes"),
    "eval with more heads": Case("eval", "num_heads=2", "cluster_head.1.weight num_heads"),
    "a table into no folder": Case("eval", "--out {here}/tables/table.csv", "--out /tables/table.csv folder"),
    "another head": Case("pretext", f"{SECOND} {LINEAR}", f"{PRETEXT} contrastive_head", has=HERE),
}
WRONG_DATA = {
    "another data set's model": Case("scan", FASHION, "206 digits 40 simclr.py", fashion_is_grey),
    "other val neighbors": Case("scan", "val_db_name=fashion-mnist", f"{VAL} 52 digits 30", fashion_is_grey),
    "fewer images than SCAN had": Case("selflabel", "max_images=100", "206 100 scan.py --restart"),
    "as many images, but others": Case("scan", "", f"{PRETEXT} 206 simclr.py", images_are(one_pixel)),
    "stale neighbors": Case("scan", "", f"{TRAIN} simclr.py --model", model_is(PRETEXT, doubled)),
    "val neighbors for train's": Case("scan", "", f"{TRAIN} 52 val 206 simclr.py", copied(VAL, TRAIN)),
    "the same of splits of one size": Case("scan", SIZE_52, f"{TRAIN} val simclr.py", VAL_FOR_TRAIN),
    "more neighbors than were mined": Case("scan", "num_neighbors=21", "21 20 num_neighbors=21"),
}
UNREADABLE = f"{TRAIN} bytes"
NEIGHBORS = {
    "a neighbor beyond the last image": Case("scan", "", f"{TRAIN} 206 205", one_neighbor_is(206)),
    "a neighbor file cut off": Case("scan", "", UNREADABLE, bare(TRAIN, cut_off)),
    "an array of pickles for neighbors": Case("scan", "", UNREADABLE, foreign(TRAIN, in_an_array)),
    "a flipped bit in a neighbor file": Case("scan", "", f"{TRAIN} SHA-256", changed(TRAIN, bit_flipped), 3),
    "a manifest of zero bytes": Case("scan", "", f"{TRAIN}.json", changed(f"{TRAIN}.json", emptied), 3),
}
SIZES = {
    f"a batch larger than the train split, {stage}": Case(stage, "batch_size=207", BATCH) for stage in STAGES
} | {
    "--restart with a mistake": Case("pretext", "--restart batch_size=207", BATCH, has=HERE),
    "no more images than neighbors": Case("pretext", "max_images=20 batch_size=10", "20 21 num_neighbors"),
    "too few val images": Case("pretext", "", "5 val 6 folder.val_share", few_val_images(5)),
    "images that do not fit into memory": Case("pretext", "", "memory device=cpu", no_memory_for_images, 3),
    "a full GPU in eval": Case("eval", "", "CUDA memory device=cpu", no_memory_on_the_gpu, 3),
    "a model of zero features": Case("pretext", SECOND, "206 0, 1, 2, 3, 4,", ZERO_MODEL, has=HERE),
}
CONFIG = {
    "an unknown key": Case("pretext", "epoch=3", "'epoch' 'epochs'"),
    "more clusters than images": Case("scan", "num_classes=207", "num_classes 207 206"),
    "a misspelt config": Case("pretext", MISSPELT, "/simclr_digit.yml /simclr_digits.yml"),
    "too large a plain view": Case("pretext", BIGGER, "crop_size 32 (16 16"),
    "too large a random view": Case("selflabel", CROP_17, "crop_size 17 (16 16"),
} | {
    f"no CUDA device, {stage}": Case(stage, "device=cuda", "cuda device=auto device=cpu", without_cuda)
    for stage in MAINS.keys() - {"moco"}
}


def resumed(stage: str, arguments: str, words: str, given=nothing, remedy="run_name= --restart") -> Case:
    """The stage itself has been run before."""
    return Case(stage, arguments, f"{words} {remedy}", given, has=(stage,))


OTHER_PRETEXT = in_turn(model_is(PRETEXT, doubled), bare(PRETEXT))
SPOILT_CONFIG = changed("pretext/config.yml", lambda _: b"{")
RESUMED = {
    "going on with other clusters": resumed("scan", "num_classes=12", "num_classes 10 12"),
    "going on with other data": resumed("pretext", FASHION, "train_db_name val_db_name", fashion_is_grey),
    "going on with other images": resumed("pretext", "epochs=3", "train images", images_are(one_pixel)),
    "going on from another model": resumed("scan", "epochs=3", "model.pth.tar", OTHER_PRETEXT),
    "fewer epochs than are finished": resumed("pretext", "epochs=1", "epochs 2 1", remedy="epochs --restart"),
    "no settings": resumed("pretext", "epochs=3", "config.yml", removed("pretext/config.yml")),
    "unreadable settings": resumed("pretext", "epochs=3", "/pretext/config.yml 1", SPOILT_CONFIG),
    "another model than was trained here": resumed(
        "pretext", OTHER_MODEL, "/pretext /other.pth.tar", copied(PRETEXT, "../../other.pth.tar")
    ),
    "two runs in one folder": resumed(
        "pretext", "epochs=3", "/digits/pretext 4242 lab-3", locked_by_another_process, remedy="run_name="
    ),
}


def one_checkpoint(words: str, damage, code=3) -> Case:
    """What is done to the only checkpoint of a run that was stopped."""
    given = in_turn(removed(PREVIOUS, f"{PREVIOUS}.json", "pretext/finished.json"), damage)
    return Case("pretext", "", f"{CHECKPOINT} {words}", given, code, HERE)


BOTH = f"{CHECKPOINT} {PREVIOUS}"
BOTH_DAMAGED = in_turn(changed(CHECKPOINT, emptied), changed(PREVIOUS, bit_flipped))
DAMAGED_CHECKPOINTS = {
    "a flipped bit in a checkpoint": one_checkpoint("--restart bytes", changed(CHECKPOINT, bit_flipped)),
    "a pickle for a checkpoint": one_checkpoint("--restart bytes", foreign(CHECKPOINT, in_a_torch_file)),
    "both checkpoints damaged": Case("pretext", "epochs=3", f"{BOTH} --restart", BOTH_DAMAGED, 3, HERE),
    "an epoch that is no number": one_checkpoint("", with_other(CHECKPOINT, "epoch", "two"), code=2),
}
STARTS = {  # stage: the model that it starts from, what else is given, and what stands there
    "pretext": (PRETEXT, SECOND, HERE),
    "scan": (PRETEXT, "", ()),
    "selflabel": (SCAN, "", ()),
    "eval": (SCAN, "", ()),
}
DAMAGED_MODELS = {
    f"{what}, {stage}": Case(stage, arguments, f"{model} bytes {words}", given(model), code, has)
    for stage, (model, arguments, has) in STARTS.items()
    for what, given, words, code in (
        ("a flipped bit in a model", lambda model: changed(model, bit_flipped), "SHA-256", 3),
        ("a bare model cut off", lambda model: bare(model, cut_off), "", 2),
        ("a pickle for a model", foreign, "", 2),
        ("a model with foreign classes", lambda model: foreign(model, in_a_torch_file), "", 2),
    )
}


def model_cannot_be_read(here, patch):
    def denied(path, *arguments):
        if Path(path).name == "model.pth.tar":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open(path, *arguments)

    patch.setattr("utils.storage.files.open", denied, raising=False)


STORAGE = {
    "a file as root_dir": Case("pretext", "root_dir={outside}/file", "/file/digits", written(b"", "file"), 3),
    "no right to read": Case("scan", "", "/digits/pretext/model.pth.tar denied", model_cannot_be_read, 3),
    "no right to write": Case("pretext", "", "/digits/pretext root_dir=", folders_cannot_be_made, 3),
}
MISTAKES = MISSING_FILES | WRONG_STAGE | DOES_NOT_FIT | WRONG_DATA | NEIGHBORS | SIZES | CONFIG | RESUMED
MISTAKES |= DAMAGED_CHECKPOINTS | DAMAGED_MODELS | STORAGE


@pytest.fixture
def assert_refused(give, monkeypatch, tmp_path):
    def check(case, here, arguments_of=arguments_of):
        case.given(here, monkeypatch)
        found = snapshot(tmp_path)
        assert_one_line(give(case.stage, here, case.arguments, arguments_of), case.code, case.words)
        assert snapshot(tmp_path) == found

    return check


@pytest.mark.parametrize("case", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_with_value_and_remedy_and_nothing_is_written(case, stages, assert_refused):
    assert_refused(case, stages([*before(case.stage), *case.has]))


@pytest.mark.parametrize(
    "stage, closed", [("pretext", ""), ("pretext", "pretext"), ("scan", "pretext"), ("eval", "scan")]
)
def test_a_folder_that_may_not_be_looked_into_is_one_line(stage, closed, stages, give, monkeypatch):
    here, stat = stages(STAGES), Path.stat

    def denied(self, **options):
        if (here / closed) in self.parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return stat(self, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", denied)
        ended = give(stage, here)
    assert_one_line(ended, 3, f"/digits/{closed or stage} Permission readable")


@pytest.mark.parametrize("stage", ["pretext", "scan", "selflabel"])
def test_a_learning_rate_that_kills_the_weights_is_named(stage, stages, give):
    ended = give(stage, stages(before(stage)), "optimizer_kwargs.lr=1e6 epochs=1")
    assert "optimizer_kwargs.lr" in ended.out + ended.err


@pytest.mark.parametrize(
    "stage, line, words",
    [
        ("pretext", "seed=1", "--config_exp --help"),
        ("pretext", "--config_exp x.yml --epochs 3", "--epochs key=value"),
        ("pretext", f"--config_exp {config_of('pretext')} seed", "'seed' key=value"),
        ("scan", "--config_exp x.yml --model x.pth.tar", "--model --help"),
        ("eval", "--config_exp x.yml", "--model --help"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(stage, line, words, capsys):
    assert_one_line(Ended(run(stage, line.split()), *capsys.readouterr()), 2, words)


# -- the same on ImageNet, whose images lie in files and whose pretext model is another's


def in_class(change):
    """change(the folder of the first class's training images) is done."""
    return lambda here, patch: change(imagenet_runs.class_folder(here))


def image_spoilt(folder):
    """A file that is no image lies where an image was."""
    path = min(folder.iterdir())
    path.unlink()
    path.write_text("no image")


def image_added(folder):
    shutil.copy(next(folder.iterdir()), folder / "one_more.JPEG")


def image_renamed(folder):
    next(folder.iterdir()).rename(folder / "another_name.JPEG")


OTHER, MOCO = "weights={outside}/other.pth", f"--config_exp {imagenet_runs.CONFIGS['moco']}"
AGAIN = "run_name=second pretext_dir={here}/pretext"
NOWHERE = "db_root_dir.imagenet={outside}/nowhere"
DEEPER = f"{AGAIN} db_root_dir.imagenet={{outside}}/images/ILSVRC2012_img_train"
SKIPPING, WIDTH_4 = f"{AGAIN} on_error=skip", "run_name=second model_kwargs.width=4"
FIRST, AS_100 = f"/{imagenet_runs.IDS[0]}_0.JPEG", "--config_exp configs/scan/scan_imagenet_100.yml"

OTHERS_WEIGHTS = {
    "eval of MoCo's file": Case("eval", f"{MOCO} --model {{outside}}/moco.pth.tar", "/moco.pth.tar moco.py"),
    "eval of a model of other classes": Case("eval", AS_100, f"{SCAN} imagenet_50 imagenet_100"),
    "MoCo's weights that are not there": Case("moco", OTHER, "/other.pth"),
    "another width than MoCo's": Case("moco", WIDTH_4, "/moco.pth.tar 2 4 model_kwargs"),
    "a moco config for scan.py": Case("scan", MOCO, "moco moco.py"),
}
IMAGE_FILES = {
    "no ImageNet": Case("moco", f"--restart {NOWHERE}", "/nowhere db_root_dir.imagenet="),
    "too large a view": Case("moco", "--restart transformation_kwargs.crop_size=300", "crop_size 300 256"),
    "ImageNet one level deeper": Case("scan", DEEPER, "/ILSVRC2012_img_train db_root_dir.imagenet="),
    "a file that is no image": Case("moco", "--restart", f"{FIRST} on_error=skip", in_class(image_spoilt)),
    "an image lost after mining": Case("scan", SKIPPING, "100 99 moco.py", in_class(image_spoilt)),
    "an image added after mining": Case("scan", AGAIN, "100 imagenet_50 101 moco.py", in_class(image_added)),
    "an image renamed after mining": Case("scan", AGAIN, "100 imagenet_50 moco.py", in_class(image_renamed)),
}
MISTAKES_ON_IMAGENET = OTHERS_WEIGHTS | IMAGE_FILES


@pytest.mark.parametrize("case", MISTAKES_ON_IMAGENET.values(), ids=MISTAKES_ON_IMAGENET)
def test_so_it_is_on_imagenet(case, imagenet, tmp_path, assert_refused):
    imagenet_runs.copy_all(imagenet, tmp_path)
    assert_refused(case, tmp_path / "results" / "imagenet_50", imagenet_runs.arguments_of)


# -- the remedy works: the command in the line, pasted into a shell, and then the one that failed


MENDED = {
    "SCAN before SimCLR": ("", removed("pretext")),
    "a model without its neighbors": ("", removed(VAL)),
    "a published model whose neighbors were not mined yet": ("", only("model.pth.tar")),
    "neighbors mined with another model": ("", model_is(PRETEXT, doubled)),
    "fewer images than the pretext task had": ("max_images=100", nothing),
}


@pytest.mark.parametrize("name", MENDED)
def test_the_command_that_the_line_names_mends_it_even_where_a_folder_has_to_be_quoted(
    name, stages, give, monkeypatch, tmp_path
):
    arguments, given = MENDED[name]
    here = stages(before("scan"), tmp_path / "Jürgen's 漢字: #1 [a] and more")
    given(here, monkeypatch)
    (advice,) = re.findall("`(.*)`", give("scan", here, arguments).err)
    python, script, *words = shlex.split(advice)
    assert (python, script) == ("python", "simclr.py")
    assert run("pretext", [*words, "epochs=2", *SMALL]) == 0
    assert_done(give("scan", here, f"{arguments} epochs=1"))


# -- failures in the middle of training


def at_step(number, spoil):
    """The criterion returns spoil(its result) in its call `number`, from 1; 206 images make 3 steps."""

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


def infinite_entropy(terms):
    return terms._replace(entropy=terms.entropy * torch.inf)


def nan_gradient(terms):
    """The same value, and a gradient of NaN."""
    terms.loss.register_hook(lambda gradient: gradient * torch.nan)
    return terms


def weights_are_lost_in_step_3(here, patch):
    step, steps = torch.optim.Adam.step, itertools.count(1)

    @functools.wraps(step)
    def lose(self, *arguments):
        step(self, *arguments)
        if next(steps) == 3:
            self.param_groups[0]["params"][5].data.fill_(torch.inf)

    patch.setattr(torch.optim.Adam, "step", lose)


LR, LOWER = "epoch 3 optimizer_kwargs.lr", "memory batch_size 64 16 model_kwargs.width 4"
FAILURES = {  # the stage goes on from two whole epochs, with these faults
    "the loss of SimCLR is NaN": ("pretext", at_step(2, lambda loss: loss * torch.nan), f"step 2 loss {LR}"),
    "the entropy in SCAN is infinite": ("scan", at_step(1, infinite_entropy), f"step 1 entropy {LR}"),
    "a gradient of self-labelling is NaN": ("selflabel", at_step(3, nan_gradient), f"step 3 gradient {LR}"),
    "the last step leaves infinite weights": ("pretext", weights_are_lost_in_step_3, f"weights {LR}"),
    "the host's memory is full": ("pretext", at_step(2, lambda _: torch.empty(10**15)), LOWER),
}
WRITTEN_IN_TRAINING = {"log.jsonl", "config.yml", "finished.json"}


def checkpoint_in(folder: Path) -> dict:
    return torch.load(folder / "checkpoint.pth.tar", weights_only=True)


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_in_training_is_one_line_and_leaves_models_and_checkpoints_as_they_were(
    name, stages, give, monkeypatch
):
    stage, fault, words = FAILURES[name]
    here = stages([*before(stage), stage])
    fault(here, monkeypatch)
    found = snapshot(here)
    assert_one_line(give(stage, here, "epochs=3"), 3, words)
    left = snapshot(here)
    other = {Path(path).name for path in found.keys() | left.keys() if found.get(path) != left.get(path)}
    assert other <= WRITTEN_IN_TRAINING


@pytest.mark.parametrize("stage", STAGES)
def test_after_running_out_of_memory_the_same_command_goes_on_from_the_last_checkpoint(
    stage, stages, give, monkeypatch
):
    here = stages([*before(stage), stage])
    with monkeypatch.context() as patch:
        at_step(2, raising(OUT_OF_CUDA_MEMORY))(here, patch)
        ended = give(stage, here, "epochs=3")
    assert_one_line(ended, 3, f"CUDA {LOWER}")
    assert_done(give(stage, here, "epochs=3"), "resumed after epoch 2")
    assert checkpoint_in(here / stage)["epoch"] == 3


def test_an_epoch_of_self_labelling_without_a_confident_image_ends_with_the_confidences_and_what_to_do(
    stages, give
):
    here = stages(before("selflabel"))
    found = snapshot(here)
    ended = give("selflabel", here, "confidence_threshold=0.9999")
    assert_one_line(ended, 3, "epoch 1 0 206 0.9999 10, 50, 90, 100 epochs batch_size confidence_threshold")
    left = snapshot(here)
    assert left.keys() - found.keys() == {"selflabel", "selflabel/log.jsonl", "selflabel/config.yml"}
    assert {name: left[name] for name in found} == found


# -- what is right, or can be lived with, and is said


@pytest.mark.parametrize("stage", STAGES)
def test_a_finished_stage_says_so_and_writes_nothing(stage, stages, give, tmp_path):
    here = stages(STAGES)
    found = snapshot(tmp_path)
    ended = give(stage, here)
    assert_done(ended, f"/digits/{stage} is finished", "epochs=", "--restart")
    assert ended.out.count("\n") == 1
    assert snapshot(tmp_path) == found


@pytest.mark.parametrize("stage", STAGES)
def test_a_restart_moves_the_whole_folder_aside(stage, stages, give):
    here = stages(STAGES)
    (here / stage / "notes of mine.txt").write_text("seed 0, keep")
    found = snapshot(here / stage)
    assert_done(give(stage, here, "--restart seed=1 epochs=1"))
    assert snapshot(here / f"{stage}.old-1") == found
    assert snapshot(here / stage)["model.pth.tar"] != found["model.pth.tar"]


def test_auto_takes_the_cpu_and_torch_where_there_is_no_cuda_and_no_faiss(stages, give, monkeypatch):
    here = stages([])
    in_turn(without_cuda, without_faiss)(here, monkeypatch)
    assert_done(give("pretext", here, "device=auto knn_backend=auto epochs=1"), "cpu", "with torch")
