"""File formats the converter writes; one module each."""
