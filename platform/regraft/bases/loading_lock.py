"""One model is made at a time in a process.

While transformers makes a model it changes what all threads share: how weights are initialised, whether they are tied,
and the default device. Of two threads that overlap, the second restores what the first had changed. From then on no
model of the process has tied weights, and some have none at all.
"""

from __future__ import annotations

import threading

MAKING_A_MODEL = threading.RLock()
"""Held from the seed of a model's new weights until the model is made."""
