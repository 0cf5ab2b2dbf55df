"""Projected time of CIFAR-10's whole recipe on a GPU, from the images per second of each stage.

Not included: the start of a stage, its validation and checkpoints, and mining."""

from benchmarks.table import Table

PASSES = {  # how many images each stage sends through the network
    "simclr": 500 * 97 * 512,
    "features": 50 * 60_000,  # kNN accuracy, every 10 epochs
    "scan": 50 * 390 * 128,
    "selflabel": 200 * 50 * 1000,
}


def recipe_minutes(rates: dict[str, float]) -> dict[str, float]:
    """rates: images per second of each stage. An image counts once, however many views it has."""
    return {stage: images / rates[stage] / 60 for stage, images in PASSES.items()}


def recipe_table(rows: list[dict]) -> Table:
    """Minutes of the recipe in each precision. rows: the table of `stages.py` for all stages."""
    rates = {row["stage, form"]: row["images/s"] for row in rows}
    print()
    table = Table("whole recipe, projected", "minutes", *(f"{stage}, min" for stage in PASSES))
    for precision in ("fp32", "bf16"):
        minutes = recipe_minutes({stage: rates[f"{stage}, ours, {precision}"] for stage in PASSES})
        table.row(precision, sum(minutes.values()), *minutes.values())
    return table
