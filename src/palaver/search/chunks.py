"""Documents in chunks, each of which is one commit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from palaver.ports import SearchDoc


def chunks(docs: Sequence[SearchDoc], most: int, characters: int) -> Iterator[Sequence[SearchDoc]]:
    """Yield documents in their order, up to `most` and with up to so many characters at once; a longer one comes alone."""
    start = size = 0
    for end, doc in enumerate(docs):
        more = text_length([doc])
        if end > start and (end - start == most or size + more > characters):
            yield docs[start:end]
            start, size = end, 0
        size += more
    if docs:
        yield docs[start:]


def text_length(docs: Sequence[SearchDoc]) -> int:
    """Return how many characters documents have to be cut into tokens."""
    return sum(len(text) for doc in docs for text in doc.text.values())
