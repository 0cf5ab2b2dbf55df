"""The stages of the method: which script makes what, and what each starts from."""

STAGE_FOLDERS = {"simclr": "pretext", "moco": "pretext", "scan": "scan", "selflabel": "selflabel"}
BEFORE = {"scan": "pretext", "selflabel": "scan"}  # the stage that a stage starts from
MODEL = "model.pth.tar"
NEIGHBORS = {split: f"topk-{split}-neighbors.npy" for split in ("train", "val")}
MADE_BY = {"pretext": "simclr.py", "scan": "scan.py", "selflabel": "selflabel.py"}
