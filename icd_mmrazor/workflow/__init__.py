"""From a folder of images to a student in use: what ``tools/distill.py`` runs."""
