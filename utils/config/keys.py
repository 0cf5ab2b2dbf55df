"""The one table of config keys, which `utils/config.py` reads: type, range, default, who needs it, what it means."""

from typing import Any, NamedTuple

from utils.mypath import DATASET_FOLDERS


class Key(NamedTuple):
    """One key.

    default: a value, or one for each `setup` that has any.
    type: str, path, bool, int, float, ints or floats (lists), range (two numbers, low and high) or rgb (three numbers).
    allowed: the accepted names, or the bounds of each number, such as ">0 <=1"; empty for no restriction.
    needed: the scripts that cannot do without the key (a default will do), or `other_key=values`: those that need the
    other key, when it has one of these values; empty where the key is optional.
    may_change: whether a resumed run may have another value than the run began with."""

    name: str
    type: str
    allowed: tuple[str, ...] | str
    needed: str
    meaning: str
    default: Any = None
    may_change: bool = False


DATASET_NAMES = (*DATASET_FOLDERS, "digits", "folder")

TRAIN = "simclr scan selflabel"
STAGES = "simclr moco scan selflabel"
ALL = f"{STAGES} eval"
PRETEXT, CLUSTERING = "setup=simclr moco", "setup=scan selflabel"
CROPPED = "augmentation_strategy=standard simclr"
SIMCLR, OURS, AFFINE = (f"augmentation_strategy={name}" for name in ("simclr", "ours", "affine"))
SIDE, FACTOR, ZOOM = (
    ">=1 <=4096",
    ">=0 <=100",
    ">=0.01 <=100",
)  # bounds of pixels, of colour changes, of affine

TABLE = (  # headings, and below each its keys
    "What is run",
    Key("setup", "str", ("simclr", "moco", "scan", "selflabel"), ALL, "stage that the file is for"),
    Key(
        "seed",
        "int",
        ">=0 <4294967296",
        STAGES,
        "seed of every random draw and of the initial weights",
        default=0,
    ),
    Key(
        "run_name",
        "str",
        "",
        "",
        "folder of the run under root_dir; absent: train_db_name, or the name of your own folder",
        may_change=True,
    ),
    Key("root_dir", "path", "", ALL, "folder of all results", default="results", may_change=True),
    Key(
        "pretext_dir",
        "path",
        "",
        "",
        "where the pretext files are; when absent, this run's own",
        may_change=True,
    ),
    Key(
        "scan_dir",
        "path",
        "",
        "",
        "where the files of SCAN are; when absent, this run's own",
        may_change=True,
    ),
    Key("epochs", "int", ">=1 <=1000000", TRAIN, "passes over the train split", may_change=True),
    Key("batch_size", "int", ">=2 <=1000000", TRAIN, "images in a training batch, over all processes"),
    Key("log_every", "int", ">=1", TRAIN, "steps between two reads of the loss", default=10, may_change=True),
    Key(
        "save_minutes",
        "float",
        ">0",
        "",
        "minutes between two checkpoints within an epoch; when absent, only at its end",
        may_change=True,
    ),
    Key(
        "knn_every", "int", ">=1", "simclr", "epochs between two kNN accuracies", default=10, may_change=True
    ),
    "The machine",
    Key(
        "device",
        "str",
        ("auto", "cpu", "cuda"),
        ALL,
        "auto: CUDA, else the CPU",
        default="auto",
        may_change=True,
    ),
    Key("precision", "str", ("auto", "fp32", "bf16"), STAGES, "number format of the network", default="auto"),
    Key(
        "knn_backend",
        "str",
        ("auto", "faiss", "torch"),
        ALL,
        "search for neighbors",
        default="auto",
        may_change=True,
    ),
    Key(
        "num_workers",
        "int",
        ">=0 <=1024",
        ALL,
        "image readers, at most one a CPU",
        default=16,
        may_change=True,
    ),
    Key(
        "knn_index",
        "str",
        "",
        "",
        "faiss index for mining, as for index_factory",
        default="Flat",
        may_change=True,
    ),
    "Data",
    Key("train_db_name", "str", DATASET_NAMES, ALL, "data set to train on"),
    Key("val_db_name", "str", DATASET_NAMES, ALL, "data set to evaluate on"),
    Key(
        "max_images",
        "int",
        ">=1 <=1000000000",
        "",
        "images to take of the train split, evenly spaced, and of unlabeled ones; when absent, all",
    ),
    Key(
        "on_error",
        "str",
        ("stop", "skip"),
        ALL,
        "what to do about image files that cannot be read; skip leaves them out and lists them",
        default="stop",
        may_change=True,
    ),
    *(
        Key(f"db_root_dir.{name}", "path", "", "", f"folder of {name}", may_change=True)
        for name in DATASET_FOLDERS
    ),
    "Your own pictures, the data set `folder`",
    Key("folder.path", "path", "", "", "folder of pictures, with folders in it or not", may_change=True),
    Key(
        "folder.val_path",
        "path",
        "",
        "",
        "folder of the val split; when absent, val_share of path",
        may_change=True,
    ),
    Key(
        "folder.val_share",
        "float",
        ">=0 <1",
        "",
        "share of the pictures held out as the val split; 0: the val split is the train split",
        default=0.2,
        may_change=True,
    ),
    Key(
        "folder.side",
        "int",
        SIDE,
        "",
        "pictures become squares of this side, pixels; when absent, of transformation_kwargs.crop_size (224: 256)",
        may_change=True,
    ),
    Key(
        "folder.labels",
        "path",
        "",
        "",
        "for evaluation alone: none, subfolder (the folder a picture lies in), or a table (.csv) of path and label",
        default="none",
        may_change=True,
    ),
    "Network",
    Key("backbone", "str", ("resnet18", "resnet50"), ALL, "network without its heads"),
    Key("model_kwargs.head", "str", ("mlp", "linear"), PRETEXT, "form of the contrastive head"),
    Key("model_kwargs.features_dim", "int", ">=1 <=65536", PRETEXT, "size of the contrastive features"),
    Key(
        "model_kwargs.stem",
        "str",
        ("auto", "cifar", "stl", "imagenet"),
        ALL,
        "first layers; auto follows train_db_name, or crop_size for a data set that was not published",
        default="auto",
    ),
    Key("model_kwargs.width", "int", ">=1 <=1024", ALL, "channels of the first stage", default=64),
    Key("num_classes", "int", ">=2 <=100000", CLUSTERING, "number of clusters"),
    Key(
        "num_heads",
        "int",
        ">=1 <=1000",
        CLUSTERING,
        "cluster heads side by side; the best one is kept",
        default=1,
    ),
    "Method",
    Key(
        "moco_weights",
        "path",
        "",
        "",
        "trained weights that moco.py mines with; when absent, MoCo v2's, downloaded",
        may_change=True,
    ),
    Key(
        "feature_layer",
        "str",
        ("head", "backbone"),
        "simclr moco",
        "features that neighbors are mined with: of the contrastive head, or of the backbone before it",
        default={"simclr": "head", "moco": "backbone"},
        may_change=True,
    ),
    Key(
        "num_neighbors",
        "int",
        ">=1 <=10000",
        "scan",
        "neighbors each image is paired with; in simclr and moco: how many to mine, which a resume may change",
        default={"simclr": 20, "moco": 50},
    ),
    Key("update_cluster_head_only", "bool", "", "scan", "True freezes the backbone"),
    Key(
        "cached_views",
        "int",
        ">=0 <=1000",
        "scan",
        "with update_cluster_head_only: views of each image drawn once, for all epochs; 0: new ones at each step",
        default=0,
    ),
    Key("temperature", "float", ">0", "", "published in the moco files, plays no part"),
    Key("criterion", "str", ("simclr", "scan", "confidence-cross-entropy"), TRAIN, "loss of the stage"),
    Key("criterion_kwargs.temperature", "float", ">0", "criterion=simclr", "divides the similarities"),
    Key(
        "criterion_kwargs.entropy_weight",
        "float",
        ">=0",
        "criterion=scan",
        "weight of the entropy: even clusters",
    ),
    Key(
        "criterion_kwargs.cluster_prior",
        "floats",
        ">0 <=1000000",
        "",
        "scan, optional: what shares of the images the num_classes clusters should hold, in any unit; entropy is then "
        "ln K minus the KL divergence from these shares, highest (ln K) when they are met; when absent, equal shares",
    ),
    Key(
        "criterion_kwargs.apply_class_balancing",
        "bool",
        "",
        "criterion=confidence-cross-entropy",
        "True: every cluster in the batch counts the same",
    ),
    Key(
        "confidence_threshold",
        "float",
        ">0 <1",
        "selflabel",
        "probability above which a pseudo label is kept",
    ),
    Key("use_ema", "bool", "", "selflabel", "True: the weights are their running average", default=False),
    Key("ema_alpha", "float", ">=0 <1", "use_ema=True", "share of the old weights in the running average"),
    Key(
        "ema_batch_norm",
        "str",
        ("start", "running"),
        "use_ema=True",
        "batch-norm statistics under use_ema: put back to those of the start after each step (published), or running",
        default="start",
    ),
    "Optimization",
    Key("optimizer", "str", ("sgd", "adam"), TRAIN, "optimizer"),
    Key("optimizer_kwargs.lr", "float", ">0 <=1000000", "optimizer=sgd adam", "learning rate"),
    Key(
        "optimizer_kwargs.weight_decay",
        "float",
        ">=0 <=1000000",
        "optimizer=sgd adam",
        "L2 term in the gradient",
    ),
    Key("optimizer_kwargs.momentum", "float", ">=0 <1", "optimizer=sgd", "momentum"),
    Key("optimizer_kwargs.nesterov", "bool", "", "optimizer=sgd", "Nesterov momentum"),
    Key(
        "scheduler",
        "str",
        ("constant", "cosine", "step"),
        TRAIN,
        "course of the learning rate over the epochs",
    ),
    Key(
        "scheduler_kwargs.lr_decay_rate",
        "float",
        ">0 <=1",
        "scheduler=cosine step",
        "step: factor at each milestone; cosine: its cube, times lr, is the lowest rate",
    ),
    Key("scheduler_kwargs.lr_decay_epochs", "ints", ">=0", "scheduler=step", "milestones"),
    "Views for training",
    Key(
        "augmentation_strategy",
        "str",
        ("standard", "simclr", "ours", "affine"),
        TRAIN,
        "random views; ours is the strong set of SCAN, affine is for pictures with a right way up",
    ),
    Key("augmentation_kwargs.normalize.mean", "rgb", ">=0 <=1", TRAIN, "mean of each channel"),
    Key("augmentation_kwargs.normalize.std", "rgb", ">0 <=1", TRAIN, "standard deviation of each channel"),
    Key("augmentation_kwargs.random_resized_crop.size", "int", SIDE, CROPPED, "side of the view, pixels"),
    Key(
        "augmentation_kwargs.random_resized_crop.scale",
        "range",
        ">0 <=1",
        CROPPED,
        "share of the area that is kept",
    ),
    Key(
        "augmentation_kwargs.color_jitter_random_apply.p",
        "float",
        ">=0 <=1",
        SIMCLR,
        "probability of color_jitter",
    ),
    Key(
        "augmentation_kwargs.color_jitter.brightness",
        "float",
        FACTOR,
        SIMCLR,
        "factor 1 +- this; optional in affine",
    ),
    Key("augmentation_kwargs.color_jitter.contrast", "float", FACTOR, SIMCLR, "factor 1 +- this"),
    Key("augmentation_kwargs.color_jitter.saturation", "float", FACTOR, SIMCLR, "factor 1 +- this"),
    Key(
        "augmentation_kwargs.color_jitter.hue",
        "float",
        ">=0 <=0.5",
        SIMCLR,
        "shift +- this share of the circle",
    ),
    Key("augmentation_kwargs.random_grayscale.p", "float", ">=0 <=1", SIMCLR, "probability of greyscale"),
    Key("augmentation_kwargs.crop_size", "int", SIDE, OURS, "side of the view, pixels"),
    Key("augmentation_kwargs.num_strong_augs", "int", ">=0 <=100", OURS, "operations drawn for each image"),
    Key(
        "augmentation_kwargs.cutout_kwargs.n_holes",
        "int",
        ">=0 <=100",
        OURS,
        "squares cut out; optional in affine",
    ),
    Key("augmentation_kwargs.cutout_kwargs.length", "int", SIDE, OURS, "longest side of a square, pixels"),
    Key("augmentation_kwargs.cutout_kwargs.random", "bool", "", "", "published, changes nothing"),
    Key("augmentation_kwargs.random_affine.degrees", "float", ">=0 <=360", AFFINE, "turn by +- this angle"),
    Key("augmentation_kwargs.random_affine.scale", "range", ZOOM, AFFINE, "zoom"),
    Key("augmentation_kwargs.random_affine.aspect", "range", ZOOM, AFFINE, "zoom across over zoom down"),
    Key(
        "augmentation_kwargs.random_affine.shear",
        "float",
        ">=0 <=10",
        AFFINE,
        "slant: +- this shift per pixel down",
    ),
    Key(
        "augmentation_kwargs.random_affine.translate",
        "float",
        ">=0 <=1",
        AFFINE,
        "shift by +- this share of a side",
    ),
    "The plain view",
    Key("transformation_kwargs.crop_size", "int", SIDE, ALL, "side of the centre crop, pixels"),
    Key("transformation_kwargs.normalize.mean", "rgb", ">=0 <=1", ALL, "mean of each channel"),
    Key("transformation_kwargs.normalize.std", "rgb", ">0 <=1", ALL, "standard deviation of each channel"),
)
KEYS = tuple(row for row in TABLE if isinstance(row, Key))
