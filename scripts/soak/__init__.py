"""The service under hours of ordinary and hostile traffic; run it with `python -m scripts.soak`."""
