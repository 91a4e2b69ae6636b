"""Ignite plumbing that knows no paper: trainers, resuming, weights on disk, tracking."""
