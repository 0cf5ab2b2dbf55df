"""The config of a run: one table of keys, read from YAML and the command line."""

from utils.config.load import check_stage, config_hash, load_config, resume_differences, save_config

__all__ = ["check_stage", "config_hash", "load_config", "resume_differences", "save_config"]
