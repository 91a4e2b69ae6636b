"""One paper, one module that reads top to bottom; and the baselines that every result is compared with."""
