"""Figures, score tables and the HTML report; imported by the pipeline and the command line alone."""
