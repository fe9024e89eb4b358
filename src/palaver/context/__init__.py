"""The end of a conversation, as a prompt needs it: the newest messages in order, from the cache, and whole or from the records."""

from palaver.context.items import estimated_tokens
from palaver.context.trust import Figures
from palaver.context.window import ContextWindow

__all__ = ["ContextWindow", "Figures", "estimated_tokens"]
