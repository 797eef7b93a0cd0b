"""Offline tools: train, export, evaluate. They may import `app.engine`; `app` never imports them."""
