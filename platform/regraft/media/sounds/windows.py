"""Windows of a sound: the parts of a long one that a model reads one by one, spread evenly over it."""

from __future__ import annotations

from regraft.media.sounds.sounds import Span


def spread(frames: int, window: int, most: int) -> list[Span]:
    """Return windows of one length, at most `most` of them; all of a sound that is no longer than one.

    They cover the sound where they are enough for that, and begin and end with it. A single one is in the middle.
    """
    if frames <= window:
        return [Span(0, frames)]
    count = min(most, -(-frames // window))
    if count == 1:
        return [Span((frames - window) // 2, window)]
    return [Span((frames - window) * number // (count - 1), window) for number in range(count)]
