"""Speed and memory: one program, whose ratios are measured side by side; see ``__main__``."""
