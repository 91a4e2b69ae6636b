"""Unsupervised adaptation of retinal vessel segmentation by diffusion, as MONAI bundles."""

import os

__version__ = "0.1.0"

# MLflow reports its usage to its makers unless told otherwise before it is imported, and MONAI imports it. Whoever
# adapts on patients' images decides that for themselves, by setting the variable.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
