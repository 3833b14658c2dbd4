# The gateway's image: see docs/image.md. No `syntax=` line: the builder's own frontend
# is enough, and a frontend would be one more image to pin.

ARG PYTHON_NAME=docker.io/library/python:3.11-slim-bookworm
# Has no default: a digest has to be looked up and noted by whoever builds, and without
# one no stage can start. `make image` says so in words.
ARG PYTHON_DIGEST

FROM ${PYTHON_NAME}@${PYTHON_DIGEST} AS python

# --- the environment that the image carries -------------------------------------------
FROM python AS builder
# Wheels and bytecode hold no other time, so that equal sources give equal files.
ARG SOURCE_DATE_EPOCH=315532800
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /build
COPY image/locks/build.lock image/locks/runtime.lock ./
# Both environments are made without pip, which stays the base image's own.
RUN python3 -m venv --without-pip /build/venv && \
    python3 -m venv --without-pip /opt/llmtune
# Only wheels: no package's own code runs while it is installed, and no compiler is
# needed. The secret, which may be left out, is a pip.conf for a company's index.
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    python3 -m pip --python /opt/llmtune/bin/python install --quiet --no-compile \
      --require-hashes --only-binary :all: --requirement runtime.lock
# hadolint ignore=DL3059
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    python3 -m pip --python /build/venv/bin/python install --quiet --no-compile \
      --require-hashes --only-binary :all: --requirement build.lock
COPY pyproject.toml README.md ./
COPY gateway gateway
COPY policies policies
RUN /build/venv/bin/python -m hatchling build --target wheel --directory /build/dist && \
    python3 -m pip --python /opt/llmtune/bin/python install --quiet --no-compile \
      --no-deps --no-index /build/dist/*.whl && \
    python3 -m pip --python /opt/llmtune/bin/python check
# What is labelled is what is inside.
ARG VERSION=0.1.0
RUN test "$(/opt/llmtune/bin/llmtune-gateway --version)" = "${VERSION}"
# The root is read-only at run time, so bytecode is made now, once for all starts. It is
# found by no file time: those differ from build to build, and layers may change them.
RUN /opt/llmtune/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash \
      /opt/llmtune/lib

# --- what is inside, as CycloneDX -----------------------------------------------------
FROM python AS inventory
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /sbom
COPY image/locks/sbom.lock ./
RUN python3 -m venv --without-pip /sbom/venv
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    python3 -m pip --python /sbom/venv/bin/python install --quiet --no-compile \
      --require-hashes --only-binary :all: --requirement sbom.lock
COPY --from=builder /opt/llmtune /opt/llmtune
# It asks the environment itself, not the lock: a package that came otherwise is told.
# The project file gives the root component, whose version ours takes from its code.
ARG VERSION=0.1.0
RUN printf '[project]\nname = "llmtune-gateway"\nversion = "%s"\n' "${VERSION}" \
      > pyproject.toml && \
    /sbom/venv/bin/cyclonedx-py environment --output-reproducible \
      --output-format JSON --output-file /sbom/llmtune-gateway.cdx.json \
      --pyproject pyproject.toml --mc-type application /opt/llmtune/bin/python

# `--target sbom --output type=local,dest=.` writes it to the builder's disk.
FROM scratch AS sbom
COPY --from=inventory /sbom/llmtune-gateway.cdx.json /

# --- the image ------------------------------------------------------------------------
FROM python AS gateway
# Installers go, and the standard library gets the bytecode that slim images lack: with
# a read-only root it would be compiled anew at every start.
RUN python3 -m pip --disable-pip-version-check --quiet --no-cache-dir \
      uninstall --yes --root-user-action ignore pip setuptools wheel && \
    python3 -c "import ensurepip, shutil; shutil.rmtree(ensurepip.__path__[0])" && \
    python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash \
      -x '/(test|tests|idlelib|lib2to3|tkinter|turtledemo)/' \
      "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
COPY --from=builder /opt/llmtune /opt/llmtune
COPY --from=inventory /sbom/llmtune-gateway.cdx.json /usr/share/llmtune/
ENV PATH=/opt/llmtune/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# A number, so that Kubernetes' runAsNonRoot can tell; no name of it is needed.
USER 10001:10001
WORKDIR /tmp
# The API, the operators' listener, and rate limits over gRPC.
EXPOSE 8080 9090 8081
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["llmtune-gateway", "health", "--port", "8080"]
ENTRYPOINT ["llmtune-gateway"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8080"]
# Last, because they change with every commit and nothing above has to.
ARG PYTHON_NAME
ARG PYTHON_DIGEST
ARG VERSION=0.1.0
ARG REVISION
ARG CREATED
ARG SOURCE
LABEL org.opencontainers.image.title="llmtune-gateway" \
      org.opencontainers.image.description="An OpenAI-compatible edge gateway for LLMTune that enforces plan limits exactly." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="${PYTHON_NAME}" \
      org.opencontainers.image.base.digest="${PYTHON_DIGEST}"
