"""Where images come from: file formats, public data set layouts, the manifest, phantoms and patches."""
