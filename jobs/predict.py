"""Answer a file of rows with a registered model on the cluster this job runs on.

ray job submit --address http://head:8265 --working-dir . -- \\
    python jobs/predict.py tickets@production s3://bucket/in.csv --output s3://bucket/out.parquet --store s3://bucket/store
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from regraft.cli import console

if __name__ == "__main__":
    sys.exit(console(["predict", *sys.argv[1:]]))
