# One Dockerfile, three images:
#
#   docker build --target cpu .       the server with the embedded Triton: no GPU, no torch, no compiler, no pip
#   docker build --target gpu .       the same on NVIDIA's Triton image
#   docker build --target builder .   cpu, with torch and what else `tritext build` needs
#
# Every base is an argument. A certificate authority or a package mirror of your own comes in as a secret, which no
# layer keeps: --secret id=ca,src=ca.pem --secret id=pip,src=pip.conf
# BuildKit builds only the stages that a target needs; nothing here is fetched from a registry but the bases.
ARG CPU_BASE=python:3.12-slim-bookworm
# The first in which all holes are mended that NVIDIA had named by November 2026 (security bulletin 5875).
ARG GPU_BASE=nvcr.io/nvidia/tritonserver:26.07-py3

# --- what builds the images and is in none of them ---------------------------------------------------------------

# pip and hatchling in the versions of constraints.txt, whatever the base brings; apart, because pip takes what it
# sees for installed.
FROM ${CPU_BASE} AS tools
COPY constraints.txt deploy/image/with-secrets deploy/image/install deploy/image/tensorrt-bindings /tools/
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/bootstrap \
 && /tools/with-secrets /opt/bootstrap/bin/pip install -c /tools/constraints.txt --target /tools/pip pip \
 && /tools/with-secrets /opt/bootstrap/bin/pip install -c /tools/constraints.txt --target /tools/hatchling hatchling

# What to install, as files of their own: a layer below depends on these lines and not on all of pyproject.toml.
FROM ${CPU_BASE} AS requirements
COPY pyproject.toml deploy/image/requirements.py /source/
WORKDIR /requirements
RUN python3 /source/requirements.py /source/pyproject.toml serve > cpu.txt \
 && python3 /source/requirements.py /source/pyproject.toml serve -nvidia-pytriton > gpu.txt \
 && python3 /source/requirements.py /source/pyproject.toml build > builder.txt

FROM ${CPU_BASE} AS cpu-dependencies
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,from=tools,source=/tools,target=/tools \
    --mount=type=bind,from=requirements,source=/requirements/cpu.txt,target=/requirements.txt \
    /tools/install -c /tools/constraints.txt -r /requirements.txt

# NVIDIA's image has Triton and TensorRT, but not TensorRT's Python side, whose version must be the library's.
FROM ${GPU_BASE} AS gpu-dependencies
ARG TENSORRT_BINDINGS=
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,from=tools,source=/tools,target=/tools \
    --mount=type=bind,from=requirements,source=/requirements/gpu.txt,target=/requirements.txt \
    bindings=${TENSORRT_BINDINGS:-$(/tools/tensorrt-bindings)} \
 && /tools/install -c /tools/constraints.txt -r /requirements.txt "${bindings}"

# The package: the only stage that sees the source. What it leaves in /package is laid over /opt/tritext.
FROM cpu-dependencies AS package
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY ensembles ensembles
COPY plugin plugin
RUN --mount=type=bind,from=tools,source=/tools,target=/tools \
    PYTHONPATH=/tools/hatchling python3 /tools/pip/pip wheel --no-deps --no-index --no-build-isolation \
        --wheel-dir /wheels .

FROM package AS cpu-package
RUN --mount=type=bind,from=tools,source=/tools,target=/tools \
    /tools/install --no-deps --no-index --prefix /package /wheels/*.whl

FROM gpu-dependencies AS gpu-package
RUN --mount=type=bind,from=tools,source=/tools,target=/tools \
    --mount=type=bind,from=package,source=/wheels,target=/wheels \
    /tools/install --no-deps --no-index --prefix /package /wheels/*.whl

# --- the images: from what changes least to what changes most ----------------------------------------------------

FROM ${CPU_BASE} AS cpu
# A repository is mounted or copied in: as no volume is declared, an image with a model inside is an ordinary one.
# The base's own pip and what it is unpacked from have no place in a server.
RUN useradd --uid 10001 --user-group --home-dir /tmp --no-create-home --shell /usr/sbin/nologin tritext \
 && mkdir /repository \
 && rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/pip* /usr/local/lib/python3*/ensurepip \
        /usr/lib/python3*/ensurepip /usr/share/python-wheels
# Nothing is written but below /tmp, so that the root file system can be read-only.
ENV PATH=/opt/tritext/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8000 8001 8002 8003
STOPSIGNAL SIGTERM
# A real inference on every model: Triton says that it is ready also where a step is dead. The check and the server read
# the same variables: TRITEXT_API_KEY_FILE, TRITEXT_TLS_CERT, TRITEXT_TLS_KEY. Where TRITEXT_TLS_CLIENT_CA asks callers
# for certificates, TRITEXT_HEALTH_URL=http://127.0.0.1:8000 leads the check around that.
HEALTHCHECK --interval=15s --timeout=10s --start-period=120s --retries=2 CMD ["tritext", "health", "/repository"]
ENTRYPOINT ["tritext"]
# Inside a container the port that is published decides who can call.
CMD ["serve", "/repository", "--host", "0.0.0.0"]
COPY --from=cpu-dependencies /opt/tritext /opt/tritext
COPY --from=cpu-package /package /opt/tritext
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tritext" \
      org.opencontainers.image.description="Raw text in, labels out: BERT-family models on NVIDIA Triton" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM ${GPU_BASE} AS gpu
RUN useradd --uid 10001 --user-group --home-dir /tmp --no-create-home --shell /usr/sbin/nologin tritext \
 && mkdir /repository \
 && install --directory --owner 10001 --group 10001 /var/cache/tritext
# Plans take minutes to make: a volume keeps them.
ENV PATH=/opt/tritext/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 TRITEXT_CACHE=/var/cache/tritext
USER 10001:10001
EXPOSE 8000 8001 8002 8003
VOLUME /var/cache/tritext
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=900s --retries=2 CMD ["tritext", "health", "/repository"]
ENTRYPOINT ["tritext"]
CMD ["serve", "/repository", "--host", "0.0.0.0"]
COPY --from=gpu-dependencies /opt/tritext /opt/tritext
COPY --from=gpu-package /package /opt/tritext
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tritext" \
      org.opencontainers.image.description="Raw text in, labels out: BERT-family models on NVIDIA Triton" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM cpu AS builder
USER 0:0
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,from=tools,source=/tools,target=/tools \
    --mount=type=bind,from=requirements,source=/requirements/builder.txt,target=/requirements.txt \
    /tools/install -c /tools/constraints.txt -r /requirements.txt
USER 10001:10001
HEALTHCHECK NONE
CMD ["build", "--help"]
