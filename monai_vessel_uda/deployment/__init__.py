"""A finished adaptation for other people's machines: the exported bundle, its archive, other runtimes."""
