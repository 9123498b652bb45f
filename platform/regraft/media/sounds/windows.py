"""Windows of a sound: the parts of a long one that a model reads one by one, spread evenly over it."""

from __future__ import annotations

from regraft.media.sounds.sounds import Span


def windows_of(frames: int, window: int, most: int) -> list[Span]:
    """Return an odd number of windows, at most `most`, the middle one first; all of a sound that is no longer than one.

    They cover the sound where they are enough for that. The middle window is the same whatever `most` is.
    """
    if frames <= window:
        return [Span(0, frames)]
    count = min(most, -(-frames // window))
    count += 1 - count % 2 if count < most else count % 2 - 1
    if count <= 1:
        return [Span((frames - window) // 2, window)]
    spans = [Span((frames - window) * number // (count - 1), window) for number in range(count)]
    return [spans.pop(count // 2), *spans]
