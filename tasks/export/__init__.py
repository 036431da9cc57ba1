"""Export: an Artifact in, one ExportReport per format out."""
