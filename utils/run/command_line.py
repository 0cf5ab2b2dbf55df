"""The command line of a script, and how its process ends."""

import argparse
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import torch
from easydict import EasyDict

from utils.config import check_stage, load_config
from utils.errors import RunError, UserError, lost_worker
from utils.run import signals as stopping
from utils.run.run import Run


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; settings are given as key=value, the options are those of --help")


def stage_parser(description: str) -> Parser:
    """Of what all stage scripts take: `--config_env`, `--config_exp`, `--restart` and overrides."""
    parser = Parser(description=description)
    parser.add_argument("--config_env", help="where results go (default: configs/env.yml, if present)")
    parser.add_argument(
        "--config_exp", required=True, help="the YAML of this stage and data set, under configs/"
    )
    parser.add_argument(
        "--restart", action="store_true", help="begin anew: what the folder holds is moved aside"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over both files")
    return parser


def stage_arguments(
    argv: list[str] | None, description: str, takes_model: bool = False
) -> argparse.Namespace:
    """A stage script's command line, with `--model` if asked for."""
    parser = stage_parser(description)
    if takes_model:
        parser.add_argument("--model", type=Path, help="a trained model to mine with: nothing is trained")
    return parser.parse_intermixed_args(argv)


def stage_config(arguments: argparse.Namespace, stage: str) -> EasyDict:
    """The config of a stage script, checked for its stage."""
    cfg = load_config(arguments.config_env, arguments.config_exp, arguments.overrides)
    check_stage(cfg, stage)
    return cfg


def command(main: Callable[[], None]) -> None:
    """Run a script's `main` and end the process as the shell expects.

    User's mistakes end in one line and exit code 2, failed storage, numbers or memory in 3, SIGINT and SIGTERM in 130
    and 143; anything else is a bug of ours, and shows its traceback."""
    if sys.stdout.errors == "strict":  # names of files may be no text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with stopping.listening():
            main()
    except UserError as error:
        _end(f"error: {error}", 2)
    except RunError as error:
        _end(f"error: {error}", 3)
    except OSError as error:
        _end(f"error: {error}; check that the file is there and that you may use it", 3)
    except (RuntimeError, MemoryError) as error:
        if reason := lost_worker(error):
            _end(f"error: {reason}", 3)
        if not (reason := _lack_of_memory(error)):
            raise
        advice = _memory_advice(Run.latest) if Run.latest else "use device=cpu, or free the memory"
        _end(f"error: not enough memory ({reason}): {advice}", 3)
    except KeyboardInterrupt as stop:
        _end(
            "\nstopped; given again without --restart, the command of a stage goes on from its last checkpoint",
            getattr(stop, "code", 130),
        )


def _lack_of_memory(error: RuntimeError | MemoryError) -> str:
    """What could not be had, "" if the error is of another kind."""
    text = " ".join(str(error).split())
    known = re.search("DefaultCPUAllocator|CUDA.*out of memory|ALLOC_FAILED|alloc fail", text)
    if not known and not isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return ""
    return text[known.start() if known else 0 :].partition(". ")[0] or "none left"


def _memory_advice(cfg) -> str:
    views, plain = cfg.get("augmentation_kwargs", {}), cfg.transformation_kwargs.crop_size
    size = views.get("crop_size") or views.get("random_resized_crop", {}).get("size", plain)
    return (
        f"batch_size {cfg.batch_size}, views of {size} px, model_kwargs.width {cfg.model_kwargs.width}: lower "
        "batch_size, the sizes in augmentation_kwargs and transformation_kwargs, or the width; mine with device=cpu; "
        "what was saved is whole"
    )


def _end(message: str, code: int) -> NoReturn:
    with suppress(OSError):
        print(message, file=sys.stderr)
    sys.exit(code)
