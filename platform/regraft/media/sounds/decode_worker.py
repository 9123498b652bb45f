"""The process that decodes sounds which are no plain WAV files: `python -m` this module, niceness."""

from __future__ import annotations

from regraft.errors import DataError
from regraft.media.apart.jobs import CHECK, COSTLY, DAMAGED, DONE, MEMORY, serve_jobs
from regraft.media.sounds.check import damage
from regraft.media.sounds.plain import CostlySound, plain_wav


def answer(asked: bytes, content: bytes, samples: int) -> tuple[bytes, bytes]:
    """Do one job: return the kind of the answer and its text or file."""
    try:
        return DONE, damage(content).encode() if asked == CHECK else plain_wav(content, samples)
    except MemoryError:
        return MEMORY, b""
    except CostlySound as error:
        return COSTLY, error.message.encode()
    except DataError as error:
        return (MEMORY, b"") if "free memory" in error.message else (DAMAGED, error.message.encode())


if __name__ == "__main__":
    serve_jobs(answer)
