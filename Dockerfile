# syntax=docker/dockerfile:1
# `serve` (the default, last stage) holds what serving needs and the shipped models; `train` adds TensorFlow and Keras.
FROM python:3.12-slim-bookworm AS locked
ENV UV_PROJECT_ENVIRONMENT=/opt/venv UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_NO_CACHE=1 \
    PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --quiet --no-cache-dir uv==0.13.9
WORKDIR /build
COPY pyproject.toml uv.lock README.md ./

FROM locked AS serve-packages
RUN /opt/uv/bin/uv sync --quiet --locked --no-default-groups --no-install-project --python "$(command -v python3)"

FROM locked AS train-packages
RUN /opt/uv/bin/uv sync --quiet --locked --no-default-groups --extra train --no-install-project --python "$(command -v python3)"

FROM python:3.12-slim-bookworm AS base
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin itemlens
WORKDIR /srv/itemlens

FROM base AS train
COPY --from=train-packages /opt/venv /opt/venv
COPY app app
COPY scripts scripts
# Matplotlib wants a folder for its font cache.
ENV MPLCONFIGDIR=/tmp
USER itemlens
ENTRYPOINT ["python", "-m", "scripts.train"]
CMD ["--help"]

FROM base AS serve
COPY --from=serve-packages /opt/venv /opt/venv
COPY app app
COPY models models
# Inside the container every interface is the container's own; docker-compose.yml publishes it on loopback only.
ENV ITEMLENS_HOST=0.0.0.0 ITEMLENS_PORT=8000
USER itemlens
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"ITEMLENS_PORT\"]}/health/ready', timeout=2)"]
CMD ["python", "-m", "app"]
