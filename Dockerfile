# `serve` (the default, last stage) holds what serving needs and the models; `train` holds TensorFlow, Keras and the scripts.
FROM python:3.12-slim-bookworm AS locked
ENV UV_PROJECT_ENVIRONMENT=/opt/venv UV_PYTHON_DOWNLOADS=never UV_PYTHON=/usr/local/bin/python3 UV_LINK_MODE=copy UV_NO_CACHE=1
WORKDIR /build
COPY scripts/uv-requirements.txt ./
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --quiet --no-cache-dir --require-hashes -r uv-requirements.txt
COPY pyproject.toml uv.lock ./

FROM locked AS serve-packages
RUN /opt/uv/bin/uv sync --quiet --frozen --no-default-groups --no-install-project
# 40 MB that the CPU interpreter never opens: LiteRT's GPU and NPU back ends with their compiler, and NumPy's own tests.
# Bytecode is made here, since the service runs on a read-only root; the imports show that nothing needed is gone.
RUN cd /opt/venv/lib/python3.*/site-packages \
    && rm -rf ai_edge_litert/libLiteRtWebGpuAccelerator.so ai_edge_litert/tools/apply_plugin_main ai_edge_litert/vendors \
    && find numpy -type d -name tests -prune -exec rm -rf {} + \
    && /opt/venv/bin/python -m compileall -q . \
    && /opt/venv/bin/python -c "import ai_edge_litert.interpreter, fastapi, httptools, numpy, PIL.Image, structlog, tokenizers, uvloop"

FROM locked AS train-packages
RUN /opt/uv/bin/uv sync --quiet --frozen --no-default-groups --extra train --no-install-project

# Readable to the service's user whatever the umask of the checkout was.
FROM python:3.12-slim-bookworm AS files
WORKDIR /srv/itemlens
COPY app app
COPY scripts scripts
COPY models models
RUN chmod -R a+rX . && python3 -m compileall -q --invalidation-mode unchecked-hash app scripts

FROM python:3.12-slim-bookworm AS base
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /srv/itemlens

FROM base AS train
COPY --from=train-packages /opt/venv /opt/venv
COPY --from=files /srv/itemlens/app app
COPY --from=files /srv/itemlens/scripts scripts
# Whoever runs it has no home here: Keras' downloads and Matplotlib's font cache go to /tmp.
ENV HOME=/tmp KERAS_HOME=/tmp/keras MPLCONFIGDIR=/tmp/matplotlib
USER 10001:10001
ENTRYPOINT ["python", "-m", "scripts.train"]
CMD ["--help"]

FROM base AS serve
LABEL org.opencontainers.image.title="Itemlens" \
    org.opencontainers.image.description="Recognises shop items from a photo, a title, or both" \
    org.opencontainers.image.licenses="Apache-2.0"
COPY --from=serve-packages /opt/venv /opt/venv
COPY --from=files /srv/itemlens/app app
COPY --from=files /srv/itemlens/models models
# Inside the container every interface is the container's own; docker-compose.yml publishes it on loopback only.
ENV ITEMLENS_HOST=0.0.0.0 ITEMLENS_PORT=8000
# By number, so that an orchestrator can see that it is not root.
USER 10001:10001
EXPOSE 8000
# Over TLS too, whose certificate is for other names than the loopback's.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, ssl, urllib.request as r; tls = bool(os.environ.get('ITEMLENS_TLS_CERTIFICATE_FILE')); r.urlopen('http' + 's' * tls + '://127.0.0.1:' + os.environ['ITEMLENS_PORT'] + '/health/ready', timeout=2, context=ssl._create_unverified_context() if tls else None)"]
CMD ["python", "-m", "app"]
