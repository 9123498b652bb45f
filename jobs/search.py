"""Search a spec's space on the cluster this job runs on.

ray job submit --address http://head:8265 --working-dir . -- python jobs/search.py jobs/specs/search.yaml
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from regraft.cli import console

if __name__ == "__main__":
    sys.exit(console(["search", *sys.argv[1:]]))
