"""What a user may write: the config of a run, declared once and checked before anything heavy is imported."""

from rlreason.config.help import FieldHelp, dump, field_help, field_table, help_text, json_schema
from rlreason.config.loading import load
from rlreason.config.schema import RunConfig

__all__ = ["FieldHelp", "RunConfig", "dump", "field_help", "field_table", "help_text", "json_schema", "load"]
