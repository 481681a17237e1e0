# The tested environment as an image: the steps of `make install`, the versions of constraints.txt.
#
#   docker build -t segformer-plusplus .                                    # CUDA, and CPU of Arm
#   docker build -t segformer-plusplus:cpu --build-arg TORCH_INDEX=... .    # CPU of x86-64
#
# TORCH_INDEX is the index of CPU builds that PyTorch's page "Get started" shows for pip; PyTorch's
# default for x86-64 brings several GB of CUDA along. CUDA needs NVIDIA's driver and container
# toolkit on the host, and `docker run --gpus all`.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim-bookworm

# The compiler stays: xtcocotools is compiled here, and Triton compiles with it at run time.
# libgl1 and libglib2.0-0 are what OpenCV's wheel is linked against.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev libgl1 libglib2.0-0 make \
    && rm -rf /var/lib/apt/lists/*
ENV PIP_NO_CACHE_DIR=1 VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /opt/segformer_plusplus

ARG TORCH_INDEX=
COPY constraints.txt ./
# hadolint ignore=DL3013
RUN if [ -n "$TORCH_INDEX" ]; then \
      python -m venv "$VIRTUAL_ENV" && pip install --index-url "$TORCH_INDEX" \
        "$(grep '^torch==' constraints.txt)" "$(grep '^torchvision==' constraints.txt)"; \
    fi
COPY . .
RUN make install VENV="$VIRTUAL_ENV" && useradd --create-home --uid 1000 user
USER 1000
WORKDIR /home/user
ENTRYPOINT ["segformer-plusplus"]
CMD ["--help"]
