"""The one table of all config keys: the values each takes, who needs it, what it means, its default."""

from typing import Any, NamedTuple

from utils.mypath import DATASET_FOLDERS

TRAIN = "simclr scan selflabel"
STAGES = "simclr moco scan selflabel"
ALL = f"{STAGES} eval"


class Key(NamedTuple):
    """One row of the table.

    values: the names to choose from; or a type of utils/config/values.py and bounds for each number, such as
    `float >0 <=1`.
    needed: the scripts that cannot do without the key; or `other_key=values`: those that need the other key,
    when it has one of these values; empty: the key is optional.
    default: a value, or a dictionary with one for each `setup` that has any.
    may_change: the values of `setup` with which a resumed run may change the key."""

    name: str
    values: tuple[str, ...] | str
    needed: str
    meaning: str
    default: Any = None
    may_change: str = ""


def free(name: str, values: tuple[str, ...] | str, needed: str, meaning: str, default: Any = None) -> Key:
    """A key that a resumed run may change in every stage."""
    return Key(name, values, needed, meaning, default, may_change=STAGES)


DATASETS = (*DATASET_FOLDERS, "digits", "folder")
PRETEXT, CLUSTERING = "setup=simclr moco", "setup=scan selflabel"
CROP = "augmentation_strategy=standard simclr"
SIMCLR, OURS, AFFINE = (f"augmentation_strategy={name}" for name in ("simclr", "ours", "affine"))
SIDE, SHARE, FACTOR, ZOOM = "int >=1 <=4096", "float >=0 <=1", "float >=0 <=100", "range >=0.01 <=100"

TABLE = (  # headings, each followed by its keys
    "What is run",
    Key("setup", ("simclr", "moco", "scan", "selflabel"), ALL, "the stage that the config is for"),
    Key("seed", "int >=0 <4294967296", STAGES, "seed of the initial weights and of every random draw", 0),
    free("run_name", "text", "", "folder in root_dir; if absent, named after the data set or your folder"),
    free("root_dir", "path", ALL, "folder of all results", "results"),
    free("pretext_dir", "path", "", "folder with the results of step 1; if absent, this run's own"),
    free("scan_dir", "path", "", "folder with the results of step 2; if absent, this run's own"),
    free("epochs", "int >=1 <=1000000", TRAIN, "passes over the train split"),
    Key("batch_size", "int >=2 <=1000000", TRAIN, "images in a training batch, over all processes"),
    free("log_every", "int >=1", TRAIN, "training steps between two readings of the loss", 10),
    free("save_minutes", "float >0", "", "minutes between checkpoints; if absent, only after an epoch"),
    free("knn_every", "int >=1", "simclr", "epochs between two measurements of the kNN accuracy", 10),
    "The machine",
    free("device", ("auto", "cpu", "cuda"), ALL, "auto: a CUDA GPU if there is one, else the CPU", "auto"),
    Key(
        "precision",
        ("auto", "fp32", "tf32", "bf16"),
        STAGES,
        "number format in training: auto is fp32; tf32 (GPU) and bf16 are faster, less exact",
        "auto",
    ),
    free("knn_backend", ("auto", "faiss", "torch"), ALL, "library that searches for neighbors", "auto"),
    free("num_workers", "int >=0 <=1024", ALL, "processes that read images; at most one per CPU is used", 16),
    free("knn_index", "text", "", "faiss index for mining: Flat (exact), IVFn,Flat or HNSWn", "Flat"),
    "Data",
    Key("train_db_name", DATASETS, ALL, "data set to train on"),
    Key("val_db_name", DATASETS, ALL, "data set to evaluate on"),
    Key("max_images", "int >=1 <=1000000000", "", "train and unlabeled images to use, evenly spaced"),
    free("on_error", ("stop", "skip"), ALL, "skip: leave out unreadable image files and list them", "stop"),
    *(free(f"db_root_dir.{name}", "path", "", f"folder of {name}") for name in DATASET_FOLDERS),
    "Your own pictures, the data set `folder`",
    free("folder.path", "path", "", "folder of the pictures; subfolders are searched too"),
    free("folder.val_path", "path", "", "folder of the val split; if absent, val_share of path is held out"),
    free("folder.val_share", "float >=0 <1", "", "share of the val split; 0: it is the train split", 0.2),
    free("folder.side", SIDE, "", "pictures become squares of this side in pixels; if absent, by crop_size"),
    free("folder.labels", "path", "", "for evaluation: none, subfolder, or a .csv of path and label", "none"),
    "Network",
    Key("backbone", ("resnet18", "resnet50"), ALL, "the network without its heads"),
    Key("model_kwargs.head", ("mlp", "linear"), PRETEXT, "form of the contrastive head"),
    Key("model_kwargs.features_dim", "int >=1 <=65536", PRETEXT, "size of the contrastive features"),
    Key(
        "model_kwargs.stem",
        ("auto", "cifar", "stl", "imagenet"),
        ALL,
        "first layers; auto: by train_db_name, or by crop_size for data sets that the paper did not use",
        "auto",
    ),
    Key("model_kwargs.width", "int >=1 <=1024", ALL, "channels of the first group of blocks", 64),
    Key("num_classes", "int >=2 <=100000", CLUSTERING, "number of clusters"),
    Key("num_heads", "int >=1 <=1000", CLUSTERING, "cluster heads trained side by side; the best is used", 1),
    "Method",
    free("moco_weights", "path", "", "weights that moco.py starts from; if absent, MoCo v2's are downloaded"),
    free(
        "feature_layer",
        ("head", "backbone"),
        "simclr moco",
        "output whose nearest neighbors are mined",
        {"simclr": "head", "moco": "backbone"},
    ),
    Key(
        "num_neighbors",
        "int >=1 <=10000",
        "scan",
        "neighbors that an image is paired with; in step 1: neighbors to mine",
        {"simclr": 20, "moco": 50},
        may_change="simclr moco",
    ),
    Key("update_cluster_head_only", "bool", "scan", "True: the backbone is frozen, only the heads learn"),
    Key("cached_views", "int >=0 <=1000", "scan", "views cached per image (frozen backbone); 0: none", 0),
    Key("temperature", "float >0", "", "in the published moco configs; without effect"),
    Key("criterion", ("simclr", "scan", "confidence-cross-entropy"), TRAIN, "loss of the stage"),
    Key("criterion_kwargs.temperature", "float >0", "criterion=simclr", "divides the similarities"),
    Key("criterion_kwargs.entropy_weight", "float >=0", "criterion=scan", "larger: more even clusters"),
    Key(
        "criterion_kwargs.cluster_prior",
        "floats >0 <=1000000",
        "",
        "for SCAN: the expected sizes of the num_classes clusters, in any unit; if absent, equal sizes",
    ),
    Key(
        "criterion_kwargs.apply_class_balancing",
        "bool",
        "criterion=confidence-cross-entropy",
        "True: each cluster in the batch has the same weight",
    ),
    Key("confidence_threshold", "float >0 <1", "selflabel", "probability that a pseudo label must exceed"),
    Key("use_ema", "bool", "selflabel", "True: replace the weights by their running average", False),
    Key("ema_alpha", "float >=0 <1", "use_ema=True", "share of the old weights in the running average"),
    Key(
        "ema_batch_norm",
        ("start", "running"),
        "use_ema=True",
        "batch-norm statistics with use_ema; start: as before training (published); running: updated",
        "start",
    ),
    "Optimization",
    Key("optimizer", ("sgd", "adam"), TRAIN, "optimizer"),
    Key("optimizer_kwargs.lr", "float >0 <=1000000", "optimizer=sgd adam", "learning rate"),
    Key("optimizer_kwargs.weight_decay", "float >=0 <=1000000", "optimizer=sgd adam", "L2 weight decay"),
    Key("optimizer_kwargs.momentum", "float >=0 <1", "optimizer=sgd", "momentum"),
    Key("optimizer_kwargs.nesterov", "bool", "optimizer=sgd", "True: Nesterov momentum"),
    Key("scheduler", ("constant", "cosine", "step"), TRAIN, "learning-rate schedule"),
    Key(
        "scheduler_kwargs.lr_decay_rate",
        "float >0 <=1",
        "scheduler=cosine step",
        "step: factor at each milestone; cosine: lr times its cube is the lowest rate",
    ),
    Key("scheduler_kwargs.lr_decay_epochs", "ints >=0", "scheduler=step", "milestones, in epochs"),
    "Random transform, for training",
    Key(
        "augmentation_strategy",
        ("standard", "simclr", "ours", "affine"),
        TRAIN,
        "ours: SCAN's strong transform; affine: mild shifts and turns, color_jitter and cutout optional",
    ),
    Key("augmentation_kwargs.normalize.mean", "rgb >=0 <=1", TRAIN, "mean of each channel"),
    Key("augmentation_kwargs.normalize.std", "rgb >0 <=1", TRAIN, "standard deviation of each channel"),
    Key("augmentation_kwargs.random_resized_crop.size", SIDE, CROP, "side of the view, pixels"),
    Key("augmentation_kwargs.random_resized_crop.scale", "range >0 <=1", CROP, "share of the image area"),
    Key("augmentation_kwargs.color_jitter_random_apply.p", SHARE, SIMCLR, "probability of color_jitter"),
    Key("augmentation_kwargs.color_jitter.brightness", FACTOR, SIMCLR, "factor 1 +- this"),
    Key("augmentation_kwargs.color_jitter.contrast", FACTOR, SIMCLR, "factor 1 +- this"),
    Key("augmentation_kwargs.color_jitter.saturation", FACTOR, SIMCLR, "factor 1 +- this"),
    Key("augmentation_kwargs.color_jitter.hue", "float >=0 <=0.5", SIMCLR, "hue shift of +- this, in turns"),
    Key("augmentation_kwargs.random_grayscale.p", SHARE, SIMCLR, "probability of a grey view"),
    Key("augmentation_kwargs.crop_size", SIDE, OURS, "side of the view, pixels"),
    Key("augmentation_kwargs.num_strong_augs", "int >=0 <=100", OURS, "strong operations on each image"),
    Key("augmentation_kwargs.cutout_kwargs.n_holes", "int >=0 <=100", OURS, "squares to cut out"),
    Key("augmentation_kwargs.cutout_kwargs.length", SIDE, OURS, "longest side of a square, pixels"),
    Key("augmentation_kwargs.cutout_kwargs.random", "bool", "", "in the published configs; without effect"),
    Key("augmentation_kwargs.random_affine.degrees", "float >=0 <=360", AFFINE, "rotation by +- this angle"),
    Key("augmentation_kwargs.random_affine.scale", ZOOM, AFFINE, "factor of the size"),
    Key("augmentation_kwargs.random_affine.aspect", ZOOM, AFFINE, "factor of width over height"),
    Key("augmentation_kwargs.random_affine.shear", "float >=0 <=10", AFFINE, "+- this shift per pixel down"),
    Key("augmentation_kwargs.random_affine.translate", SHARE, AFFINE, "shift by +- this share of a side"),
    "Plain transform, for evaluation",
    Key("transformation_kwargs.crop_size", SIDE, ALL, "side of the centre crop, pixels"),
    Key("transformation_kwargs.normalize.mean", "rgb >=0 <=1", ALL, "mean of each channel"),
    Key("transformation_kwargs.normalize.std", "rgb >0 <=1", ALL, "standard deviation of each channel"),
)
KEYS = tuple(row for row in TABLE if isinstance(row, Key))
