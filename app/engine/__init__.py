"""The engine: items in, answers out. It knows models, batches and decisions, and nothing of HTTP."""
