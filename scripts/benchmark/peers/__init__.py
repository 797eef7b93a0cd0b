"""What is measured beside the service: the same bundle behind other servers, one file each.

Each file runs in an environment of its own and is imported by nobody else.
"""
