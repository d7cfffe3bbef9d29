# Pretraining and GPU evaluation: CUDA, torch, DeepSpeed. Build from the project's root:
#   docker build -f containers/train.Dockerfile -t REGISTRY/clippo-train:VERSION .
#
# Tags below are exact but not digests: they were chosen where no registry could be asked. Before production, look the digests up
# (`docker buildx imagetools inspect IMAGE`) and write IMAGE@sha256:… in their place.

# Stage 1 has compilers for the few packages of the lock that come as source; none of it reaches the final image.
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Ubuntu drops superseded versions from its archive, so a version pinned here would stop building within weeks.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3.12-dev python3.12-venv \
 && rm -rf /var/lib/apt/lists/*
# No DeepSpeed operator is compiled, here or later: ZeRO runs with this project's own optimizers, which need none.
ENV DS_BUILD_OPS=0 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements.lock /tmp/requirements.lock
RUN python3.12 -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --requirement /tmp/requirements.lock

FROM nvidia/cuda:13.0.1-base-ubuntu24.04
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# gcc and Python's headers: Triton compiles its launchers with them when a tower is compiled. CUDA's libraries come with torch's wheels.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates gcc libc6-dev python3.12 python3.12-dev \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home clippo
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/root \
    PYTHONUNBUFFERED=1 \
    GX_ANALYTICS_ENABLED=false \
    HOME=/home/clippo \
    XDG_CACHE_HOME=/tmp/cache \
    HF_HOME=/tmp/cache/huggingface \
    MPLCONFIGDIR=/tmp/cache/matplotlib \
    TORCH_EXTENSIONS_DIR=/tmp/cache/torch_extensions \
    TORCHINDUCTOR_CACHE_DIR=/tmp/cache/inductor \
    TRITON_CACHE_DIR=/tmp/cache/triton
# Flyte unpacks the code of a fast registration over /root, so the user who runs owns it.
WORKDIR /root
COPY --chown=10001:10001 requirements.lock ./
COPY --chown=10001:10001 clippo_core clippo_core/
COPY --chown=10001:10001 tasks tasks/
COPY --chown=10001:10001 workflows workflows/
RUN chown 10001:10001 /root && chmod 755 /root
USER 10001:10001
# The image is good only if what Flyte calls is there and the code imports.
RUN pyflyte-execute --help > /dev/null \
 && python -c "import deepspeed, torch, workflows, clippo_core.embedder, clippo_core.train.loop; assert torch.version.cuda"
# Flyte gives the command: pyflyte-execute with its arguments.
CMD ["pyflyte-execute", "--help"]
