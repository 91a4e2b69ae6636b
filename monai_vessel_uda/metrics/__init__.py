"""Segmentation scores (evaluator only), distances between image distributions, label-free measures."""
