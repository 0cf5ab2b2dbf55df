"""What benchmarks/gpu.py runs: its steps, in their order."""

from pathlib import Path
from typing import NamedTuple

from benchmarks.projection import PASSES
from utils.mypath import written


class Step(NamedTuple):
    """minutes: how many must be left for the step to start. own_json: it writes `<step>.json` itself. logs:
    the folder with the log of a stage."""

    name: str
    command: list[str]
    minutes: float = 0
    own_json: bool = True
    logs: str = ""


def all_steps(folder: Path, rehearsal: bool) -> list[Step]:
    """The steps in their order. rehearsal: with small sizes."""
    small = rehearsal
    device = ["--device", "cpu" if small else "cuda"]

    def benchmark(name: str, script: str, minutes: float, *arguments: str) -> Step:
        command = [f"benchmarks/{script}.py", "--json", str(folder / f"{name}.json"), *arguments]
        return Step(name, command, 0 if small else minutes)

    sizes = ["--rounds", "1", "--images", "32", "--batch", "16"] if small else []
    few, search = (["--rounds", "1"], ["--images", "2000", "--dim", "32"]) if small else ([], [])
    tests = ["-m", "pytest", "-rs", "tests/test_cuda.py", "tests/test_on_device.py"]
    steps = [Step("tests", tests, 0 if small else 3, own_json=False)]
    steps += [benchmark("augment", "augment", 2, *device, *few)]
    steps += [
        benchmark(f"stages-{stage}", "stages", 3, "--stage", stage, *device, *sizes) for stage in PASSES
    ]
    steps += [benchmark("knn", "knn", 2, *device, *few, *search)]
    steps += [benchmark("evaluate", "evaluate", 3, *few)]
    steps += recipe(folder, small)
    big = ["2000", "--dim", "64"] if small else ["1281167", "--dim", "2048"]
    return [*steps, benchmark("knn-imagenet", "knn", 6, *device, "--topk", "50", "--images", *big, *few)]


def recipe(folder: Path, small: bool) -> list[Step]:
    """The three stages on all of Fashion-MNIST, and their evaluation. small: on the digits."""
    recipe = "digits" if small else "fashion_mnist"
    epochs = {"simclr": 60, "scan": 15, "selflabel": 30}
    places = {"simclr": "pretext", "scan": "scan", "selflabel": "selflabel"}
    common = [f"root_dir={written(folder / 'runs')}", "run_name=recipe"]
    common += ["device=cpu"] if small else ["device=cuda", "precision=bf16"]
    steps = []
    for stage, place in places.items():
        config = ["--config_exp", f"configs/{place}/{stage}_{recipe}.yml"]
        own = [f"epochs={2 if small else epochs[stage]}"]
        own += ["confidence_threshold=0.11"] if small and stage == "selflabel" else []
        command = [f"{stage}.py", *config, *common, *own]
        steps.append(Step(f"recipe-{stage}", command, own_json=False, logs=f"runs/recipe/{place}"))
    model = ["--model", written(folder / "runs/recipe/selflabel/model.pth.tar")]
    return [*steps, Step("recipe-eval", ["eval.py", *config, *model, *common], own_json=False)]
