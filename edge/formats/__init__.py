"""What is in a model file: key names, group layouts, the strict reader, the atomic writer."""
