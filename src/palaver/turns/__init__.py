"""The pipeline of an answer, recorded step by step, and the small interface transcripts are read through."""

from palaver.turns.recorder import Turn
from palaver.turns.steps import Usage
from palaver.turns.transcripts import Transcripts

__all__ = ["Transcripts", "Turn", "Usage"]
