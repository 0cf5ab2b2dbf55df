"""The stages of the method: how each is run, where it works, what it starts from and what it leaves."""

from typing import NamedTuple

MODEL = "model.pth.tar"
NEIGHBORS = {split: f"topk-{split}-neighbors.npy" for split in ("train", "val")}
KMEANS = "kmeans.npy"  # centres of the baseline among the features of step 1
PRETEXT_FILES = (MODEL, *NEIGHBORS.values())


class Stage(NamedTuple):
    """One row of the table."""

    script: str
    folder: str  # under root_dir/<run_name>/
    starts_from: str  # the folder of the stage before, "" for the first
    needs: tuple[str, ...]  # the files it reads there
    leaves: tuple[str, ...]  # the files later stages start from


STAGES = {  # by the config's `setup`
    "pretrained": Stage("pretrained.py", "pretext", "", (), PRETEXT_FILES),
    "moco": Stage("moco.py", "pretext", "", (), PRETEXT_FILES),
    "simclr": Stage("simclr.py", "pretext", "", (), PRETEXT_FILES),
    "scan": Stage("scan.py", "scan", "pretext", PRETEXT_FILES, (MODEL,)),
    "selflabel": Stage("selflabel.py", "selflabel", "scan", (MODEL,), (MODEL,)),
}
# The usual script of each folder; for pretext it is that of the last row.
SCRIPT_OF = {stage.folder: stage.script for stage in STAGES.values()}
