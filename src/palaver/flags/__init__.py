"""Feature flags and experiments whose truth lies in the records: declared, asked without waiting, changed for all processes at once."""

from palaver.flags.declaring import Experiment, Flag, FlagSet
from palaver.flags.history import Changed
from palaver.flags.live import Flags, FlagsHealth, FlagState, Setting
from palaver.flags.records import ExposureRecord, FlagRecord
from palaver.flags.report import Rating, Ratings, Report, VariantReport
from palaver.flags.snapshot import Evaluation, Problem

__all__ = [
    "Changed",
    "Evaluation",
    "Experiment",
    "ExposureRecord",
    "Flag",
    "FlagRecord",
    "FlagSet",
    "FlagState",
    "Flags",
    "FlagsHealth",
    "Problem",
    "Rating",
    "Ratings",
    "Report",
    "Setting",
    "VariantReport",
]
