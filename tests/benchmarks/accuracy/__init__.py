"""Accuracy on real images: the default over several seeds, and one factor at a time against it."""
