"""How fast the service is, against its in-process ceiling and other servers. Run by `python -m scripts.benchmark`."""
