"""An epoch of each stage, against the published form and against the same model on one constant batch.

    OMP_NUM_THREADS=1 python benchmarks/stages.py [--rounds 3] [--stage simclr] [--batch 128] [--together]
    python benchmarks/stages.py --device cuda [--stage simclr]

CIFAR-10's recipes on 32 px crops of scikit-learn's two photographs, ResNet-18 at full width, untrained. The
forms:

- `published`: fp32, NCHW, views made by Pillow image by image.
- `ours`: each stage's own `train_epoch` in fp32 and bf16; for `features`, `extract_features` on the plain
  view.
- `model alone`: the same steps on one batch made beforehand. What an epoch takes beyond it is not the model.
- `loader alone`: the batches without a model.

The forms take turns. Each is built anew for its turn and takes one step to warm up. Medians over the rounds,
and the ratios with lowest and highest.

On a CPU: process time, 256 images, batches of 128. Our stages make the C library keep freed memory; the
published form does not, so it runs in a separate process. With --together it runs in the same one and gains
by it too.

On a GPU: wall time, 50,000 images, the batches of the recipes, and at the end the projected time of the whole
recipe. There the published form is fp32 and NCHW on a constant batch: its views need worker processes, which
are not measured."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.augment import crops
from benchmarks.epochs import STAGES, measured
from benchmarks.projection import recipe_table
from benchmarks.table import Table, against, parser, ratio, save, spread
from benchmarks.timing import in_turns, prepare, process_apart

FORMS = {"published": ("fp32", "published")}
FORMS |= {f"ours, {precision}": (precision, "ours") for precision in ("fp32", "bf16")}
FORMS |= {f"model alone, {precision}": (precision, "model alone") for precision in ("fp32", "bf16")}
FORMS |= {f"loader alone, {precision}": (precision, "loader alone") for precision in ("fp32", "bf16")}
BARS = {  # how many times as fast as the published form, on a CPU
    ("simclr", "ours, fp32"): 1.3,
    ("simclr", "ours, bf16"): 2.5,
    ("scan", "ours, bf16"): 2.2,
    ("selflabel", "ours, bf16"): 2.0,
    ("features", "ours, bf16"): 1.8,
}
LIMITS = {
    "cpu": "limit: at most 3 % of an epoch outside the model",
    "cuda": "limits: at most 15 % of an epoch outside the model, and 8 % of SimCLR's in the loader",
}
COLUMNS = ("times as fast as published", "bar", "ms per image", "images/s", "ms per step")
COLUMNS += ("not the model, %", "loader alone, %", "peak GPU memory, GiB")


def measure(
    stage: str,
    images: torch.Tensor,
    batch: int | None,
    rounds: int,
    device: torch.device,
    together: bool,
    table: Table,
) -> None:
    """Add a row for each form. batch: None for that of the recipe."""
    turns = {
        name: lambda form=form: measured(stage, *form, images, batch, device) for name, form in FORMS.items()
    }
    with process_apart() as apart:
        if device.type == "cpu" and not together:
            published = (stage, *FORMS["published"], images, batch, device)
            turns["published"] = lambda: apart.apply(measured, published)
        found = in_turns(turns, rounds)
    times = {name: [each.seconds_per_image for each in all_rounds] for name, all_rounds in found.items()}
    for name in [name for name in FORMS if not name.startswith("loader")]:
        each, image = found[name][-1], spread(times[name]).median
        faster, rest, loader = ratio(times["published"], times[name]), None, None
        if name.startswith("ours"):
            model, views = (times[name.replace("ours", part)] for part in ("model alone", "loader alone"))
            rest = 100 * (1 - ratio(model, times[name]).median)
            loader = 100 * ratio(views, times[name]).median
        bar = against(BARS.get((stage, name)) if device.type == "cpu" else None, faster.median)
        peak = each.peak / 2**30 if device.type == "cuda" else None
        table.row(
            f"{stage}, {name}",
            faster,
            bar,
            1000 * image,
            1 / image,
            1000 * image * each.batch,
            rest,
            loader,
            peak,
        )


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__, device=True)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--stage", choices=STAGES, help="only this stage")
    options.add_argument("--images", type=int, help="images in an epoch")
    options.add_argument("--batch", type=int, help="images in a batch; training has two views of each")
    options.add_argument(
        "--together", action="store_true", help="let the published form keep freed memory too"
    )
    arguments = options.parse_args(argv)
    device = prepare(arguments.device)
    on_cpu = device.type == "cpu"
    images = crops(arguments.images or (256 if on_cpu else 50_000), 32)
    batch = arguments.batch or (128 if on_cpu else None)
    table = Table("stage, form", *COLUMNS)
    for stage in [arguments.stage] if arguments.stage else STAGES:
        measure(stage, images, batch, arguments.rounds, device, arguments.together, table)
    print(f"\n{LIMITS[device.type]}")
    tables = [table]
    if not (on_cpu or arguments.stage):
        tables.append(recipe_table(table.rows))
    save(arguments.json, *tables)


if __name__ == "__main__":
    main()
