"""Ignite plumbing (trainers, resuming, weights, tracking) and the stages' engines (``rounds``, ``sampling``)."""
