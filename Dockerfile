# Aiki's commands: server, orchestrator, worker, db. Small, without a compiler, and as a user with no rights.
#   docker build -t aiki .
#   docker run --rm aiki aiki --help
# For workers, put your application on top:
#   FROM aiki
#   COPY --chown=root:root . /app
FROM python:3.12-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/aiki
COPY requirements.lock ./
RUN /opt/aiki/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY aiki aiki
RUN /opt/aiki/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation .

FROM python:3.12-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin aiki
COPY --from=build /opt/aiki /opt/aiki
ENV PATH=/opt/aiki/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    AIKI_LOG_FORMAT=json
WORKDIR /app
USER 10001
# What is told to stop gives back its work and leaves: TERM, which Docker sends first.
STOPSIGNAL SIGTERM
CMD ["aiki", "--help"]
