# The daemon. Build: docker build -t tickloom .    Run: docker run -e TICKLOOM_DATABASE_URL=… tickloom
FROM python:3.12-slim AS build
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /build
# What changes least comes first. The lock holds the developers' tools as well: as a constraint it pins and
# verifies (uv checks the hashes) exactly what the daemon needs, and nothing else is installed.
COPY pyproject.toml requirements.lock ./
RUN uv venv /opt/tickloom \
    && uv pip install --no-cache --python /opt/tickloom --constraint requirements.lock -r pyproject.toml
COPY README.md LICENSE ./
COPY src src
RUN uv build --no-cache --wheel --out-dir dist \
    && uv pip install --no-cache --python /opt/tickloom --no-deps dist/*.whl

FROM python:3.12-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin tickloom
COPY --from=build /opt/tickloom /opt/tickloom
# A published port reaches only a program that listens on all interfaces.
ENV PATH=/opt/tickloom/bin:$PATH PYTHONUNBUFFERED=1 TICKLOOM_HTTP_HOST=0.0.0.0
# tickloom_build_info tells it: docker build --build-arg REVISION=$(git rev-parse HEAD)
ARG REVISION=""
ENV TICKLOOM_BUILD_REVISION=$REVISION
LABEL org.opencontainers.image.revision=$REVISION
USER 10001
EXPOSE 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('TICKLOOM_HTTP_PORT', '9464') + '/livez', timeout=4)"]
ENTRYPOINT ["tickloom"]
CMD ["run"]
