# Validation, rendering, gate, report, and evaluation on the CPU. Build from the project's root:
#   docker build -f containers/cpu.Dockerfile -t REGISTRY/clippo-cpu:VERSION .
#
# The tag below is exact but not a digest: it was chosen where no registry could be asked. Before production, look the digest up
# (`docker buildx imagetools inspect IMAGE`) and write IMAGE@sha256:… in its place.
FROM python:3.12.12-slim-bookworm
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# An index that holds torch's CPU builds makes the image some gigabytes smaller: --build-arg TORCH_INDEX_URL=https://...
ARG TORCH_INDEX_URL=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 DS_BUILD_OPS=0
COPY requirements.lock /tmp/requirements.lock
RUN python -m venv /opt/venv && grep -E '^torch(vision)?==' /tmp/requirements.lock > /tmp/torch.lock
RUN test -z "$TORCH_INDEX_URL" \
 || /opt/venv/bin/pip install --no-cache-dir --no-deps --index-url "$TORCH_INDEX_URL" --requirement /tmp/torch.lock
RUN /opt/venv/bin/pip install --no-cache-dir --requirement /tmp/requirements.lock \
 && rm /tmp/torch.lock \
 && useradd --uid 10001 --create-home clippo
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/root \
    PYTHONUNBUFFERED=1 \
    GX_ANALYTICS_ENABLED=false \
    HOME=/home/clippo \
    XDG_CACHE_HOME=/tmp/cache \
    HF_HOME=/tmp/cache/huggingface \
    MPLCONFIGDIR=/tmp/cache/matplotlib
# Flyte unpacks the code of a fast registration over /root, so the user who runs owns it.
WORKDIR /root
COPY --chown=10001:10001 requirements.lock ./
COPY --chown=10001:10001 clippo_core clippo_core/
COPY --chown=10001:10001 tasks tasks/
COPY --chown=10001:10001 workflows workflows/
RUN chown 10001:10001 /root && chmod 755 /root
USER 10001:10001
# The image is good only if what Flyte calls is there, the code imports, and the font is in it.
RUN pyflyte-execute --help > /dev/null \
 && python -c "import workflows; from clippo_core.rendering import Renderer; assert (Renderer(64).render(['a']) == 0).any()"
# Flyte gives the command: pyflyte-execute with its arguments.
CMD ["pyflyte-execute", "--help"]
