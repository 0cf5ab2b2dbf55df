"""What the whole recipe of CIFAR-10 would take on a GPU, from the images a second of each stage. Not in it: how a stage
starts, its validation and checkpoints, and the mining."""

from benchmarks.table import Table

PASSES = {  # images of each stage that go through the network, in the order of the recipe
    "simclr": 500 * 97 * 512,
    "features": 50 * 60_000,  # for the kNN accuracy, every 10 epochs
    "scan": 50 * 390 * 128,
    "selflabel": 200 * 50 * 1000,
}


def recipe_minutes(rates: dict[str, float]) -> dict[str, float]:
    """rates: images a second of each stage, an image counted once however many views it has."""
    return {stage: images / rates[stage] / 60 for stage, images in PASSES.items()}


def recipe_table(rows: list[dict]) -> Table:
    """Minutes of the recipe in each precision. rows: as `stages.py` measures them, all stages."""
    rates = {row["stage, form"]: row["images/s"] for row in rows}
    print()
    table = Table("whole recipe, projected", "minutes", *(f"{stage}, min" for stage in PASSES))
    for precision in ("fp32", "bf16"):
        minutes = recipe_minutes({stage: rates[f"{stage}, ours, {precision}"] for stage in PASSES})
        table.row(precision, sum(minutes.values()), *minutes.values())
    return table
