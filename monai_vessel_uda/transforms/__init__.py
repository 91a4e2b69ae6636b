"""Dictionary transforms that MONAI lacks: field of view, grey conversion, polarity, calibre, intensity matching."""
