# Serving images. The first target needs no GPU; neither has torch, build tools or a root process.
#
#   docker build --target cpu -t tritext:cpu .
#   docker run --rm -p 127.0.0.1:8001:8001 -v "$PWD/repository:/repository:ro" --shm-size 1g tritext:cpu
#
# Every base is an argument, so that a mirror or an image of your own can take its place.
ARG CPU_BASE=python:3.12-slim-bookworm
ARG GPU_BASE=nvcr.io/nvidia/tritonserver:25.10-py3

# The package as a wheel: the only stage that sees the source.
FROM ${CPU_BASE} AS wheel
WORKDIR /source
COPY constraints.txt ./
RUN python3 -m venv /opt/build && /opt/build/bin/pip install --no-cache-dir -c constraints.txt hatchling
COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY ensembles ensembles
COPY plugin plugin
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

# What both images run. Dependencies come before the wheel, so that a change of code downloads nothing again.
FROM ${CPU_BASE} AS cpu
COPY constraints.txt pyproject.toml /tmp/tritext/
RUN python3 -m venv /opt/tritext \
 && /opt/tritext/bin/python -c "import tomllib; p = tomllib.load(open('/tmp/tritext/pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *p['optional-dependencies']['serve'], sep='\n')" > /tmp/tritext/serve.txt \
 && /opt/tritext/bin/pip install --no-cache-dir -c /tmp/tritext/constraints.txt -r /tmp/tritext/serve.txt
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    /opt/tritext/bin/pip install --no-cache-dir --no-deps /wheels/*.whl \
 && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin tritext
ENV PATH=/opt/tritext/bin:$PATH PYTHONUNBUFFERED=1
LABEL org.opencontainers.image.title="tritext" \
      org.opencontainers.image.description="Raw text in, labels out, on NVIDIA Triton" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 10001
EXPOSE 8000 8001 8002
VOLUME /repository
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["tritext"]
# Inside a container the port that is published decides who can call; everything else is closed by default.
CMD ["serve", "/repository", "--host", "0.0.0.0"]

# The same on NVIDIA's image, whose tritonserver and backends are used instead of the embedded ones.
FROM ${GPU_BASE} AS gpu
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    --mount=type=bind,source=constraints.txt,target=/tmp/constraints.txt \
    pip install --no-cache-dir -c /tmp/constraints.txt tokenizers openvino onnxruntime \
        "tritonclient[grpc]" typer rich protobuf \
 && pip install --no-cache-dir --no-deps /wheels/*.whl \
 && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin tritext
USER 10001
EXPOSE 8000 8001 8002
VOLUME /repository
STOPSIGNAL SIGTERM
ENTRYPOINT ["tritext"]
CMD ["serve", "/repository", "--host", "0.0.0.0"]
