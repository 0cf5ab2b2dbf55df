"""Small networks are quickest on one thread, and bit-identical sums need the same number of threads."""

import torch

torch.set_num_threads(1)
