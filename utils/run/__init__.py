"""A run of one stage: its folder, lock, checkpoints, log and signals, and the command line that starts it."""

from utils.run.command_line import command, stage_config
from utils.run.meter import Meter
from utils.run.run import Run

__all__ = ["Meter", "Run", "command", "stage_config"]
