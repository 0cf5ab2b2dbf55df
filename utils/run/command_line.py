"""The command line of a script, and how its process ends."""

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from easydict import EasyDict

import utils
from utils import distributed
from utils.config import check_stage, load_config, values
from utils.console import UNHEARD, any_console
from utils.device import lack_of_memory, own_torch
from utils.errors import RunError, UserError, lost_worker
from utils.run import signals
from utils.stages import STAGES
from utils.storage.files import explain


class Parser(ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; settings are given as key=value, and --help lists the options")


def given_path(text: str) -> Path:
    """The type of all options that take a path, which is read as that of a key."""
    try:
        return Path(values.path(text))
    except UserError as error:
        raise ArgumentTypeError(str(error)) from error


def stage_parser(description: str) -> Parser:
    """Arguments shared by all stages: `--config_env`, `--config_exp`, `--restart` and overrides."""
    parser = Parser(description=description)
    add = parser.add_argument
    add("--config_env", type=given_path, help="where results go (default: configs/env.yml, if present)")
    add("--config_exp", type=given_path, required=True, help="the YAML of stage and data set, in configs/")
    add("--restart", action="store_true", help="begin anew; the old folder is moved aside")
    add("overrides", nargs="*", metavar="key=value", help="settings that win over both files")
    return parser


def stage_config(argv: list[str] | None, stage: str, description: str = "") -> tuple[EasyDict, Namespace]:
    """The checked config of a stage script, and its options: `restart`, and for step 1 `model`."""
    parser = stage_parser(description)
    if STAGES[stage].folder == "pretext":
        model = "a trained model to mine with: nothing is trained"
        parser.add_argument("--model", type=given_path, help=model)
    options = parser.parse_intermixed_args(argv)
    cfg = load_config(options.config_env, options.config_exp, options.overrides)
    check_stage(cfg, stage)
    return cfg, options


@any_console()
def command(main: Callable[[], None]) -> None:
    """Run a script's `main` and end the process as the shell expects: after one line, with exit code 2 for a
    user's mistake, 3 for failed storage, numbers or memory, 130 and 143 for SIGINT and SIGTERM.

    Anything else is a bug of ours and shows its traceback."""
    try:
        with signals.answered():
            _run(main)
    finally:
        utils.put_back()


def _run(main: Callable[[], None]) -> None:
    """Run `main`, and say how it ended; no signal disturbs that: torchrun sends one when a process ends."""
    try:
        with own_torch(), distributed.started():
            main()
    except KeyboardInterrupt as stop:
        signals.ignore()
        remark = "stopped; the same command without --restart goes on from the last checkpoint"
        _end(f"\n{remark}", getattr(stop, "code", 130), distributed.is_main())
    except Exception as error:
        signals.ignore()
        if message := _explained(error):
            code = getattr(error, "exit_code", RunError.exit_code)
            _end(f"error: {message}", code, distributed.may_speak())
        if distributed.may_speak():
            raise
        sys.exit(1)


def _explained(error: Exception) -> str:
    """An error in one line; "" for a bug of ours."""
    if isinstance(error, UserError | RunError):
        return str(error)
    if lack := lack_of_memory(error):
        return f"not enough memory ({lack}): use device=cpu, or free memory"
    if isinstance(error, OSError) and error.filename is not None and not isinstance(error, FileNotFoundError):
        return explain(error, error.filename)
    return lost_worker(error) or distributed.lost_process(error) if isinstance(error, RuntimeError) else ""


def _end(message: str, code: int, speaks: bool) -> NoReturn:
    if speaks:
        with suppress(*UNHEARD):
            print(message, file=sys.stderr)
    sys.exit(code)
