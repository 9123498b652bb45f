"""Serve models on the cluster this job runs on, until the job is stopped.

ray job submit --address http://head:8265 --working-dir . -- \\
    python jobs/serve.py tickets@production --store s3://bucket/store --host 0.0.0.0 --keys /keys/keys.yaml
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from regraft.cli import console

if __name__ == "__main__":
    sys.exit(console(["serve", *sys.argv[1:]]))
