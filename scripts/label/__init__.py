"""Label a catalogue through a running service: `python -m scripts.label --help`."""
