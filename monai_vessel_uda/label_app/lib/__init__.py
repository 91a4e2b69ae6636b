"""Parts of the MONAI Label application; MONAI Label puts the application's folder on the path, hence ``lib``."""
