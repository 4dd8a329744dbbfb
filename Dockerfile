# syntax=docker/dockerfile:1
# dsmap on CPUs.
#
#   docker build -t dsmap .
#   docker build -t dsmap:ray --target ray .                        # for nodes of a Ray cluster
#   docker build -t dsmap:hub --build-arg EXTRAS=cpu,serve,hub .    # other extras
#   docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" dsmap video summer.mp4 --domain winter -o winter.mp4

ARG PYTHON=3.12

FROM node:22-slim AS node

FROM python:${PYTHON}-slim AS wheel
# npm fetches the files of other projects that the web page needs, and nothing of it stays in the image.
COPY --from=node /usr/local/bin/node /usr/local/bin/node
COPY --from=node /usr/local/lib/node_modules/npm /usr/local/lib/node_modules/npm
RUN ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM rayproject/ray:2.60.0-py312-cpu AS ray
COPY --from=wheel /wheels /tmp/wheels
COPY constraints.txt /tmp/
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt "$(ls /tmp/wheels/*.whl)[cpu,ray]"

FROM wheel AS environment
ARG EXTRAS=cpu,serve
RUN python -m venv /opt/dsmap \
    && /opt/dsmap/bin/pip install --no-cache-dir --constraint constraints.txt "$(ls /wheels/*.whl)[${EXTRAS}]" \
    && /opt/dsmap/bin/python -P -m dsmap.runtime.web.vendor \
    && /opt/dsmap/bin/pip uninstall --yes pip

FROM python:${PYTHON}-slim AS dsmap
LABEL org.opencontainers.image.title="dsmap" \
      org.opencontainers.image.source="https://github.com/dsmap/dsmap" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /cache dsmap \
    && install --directory --mode 1777 /cache /work
COPY --from=environment /opt/dsmap /opt/dsmap
ENV PATH=/opt/dsmap/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TMPDIR=/cache \
    DSMAP_CACHE=/cache/dsmap \
    DSMAP_LISTEN_HOST=0.0.0.0
USER 10001:10001
WORKDIR /work
VOLUME ["/cache"]
EXPOSE 8000
# Of the server; other commands end before it matters.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=4 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["dsmap"]
CMD ["serve"]
