"""One of two processes that `regraft doctor` has sum a number: `python -m regraft.cli.doctor.ring RANK FILE`."""

from __future__ import annotations

import sys
from datetime import timedelta

import torch
import torch.distributed as dist


def main(rank: int, rendezvous: str) -> int:
    """Find the other process through a file, sum over both, and return 0 if the sum is right."""
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    number = torch.full((1024,), float(rank + 1))
    dist.all_reduce(number)
    dist.destroy_process_group()
    if not bool((number == 3).all()):
        sys.stderr.write("the sum over two processes is wrong\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
