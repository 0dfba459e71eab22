# marlearn for a cluster: torch from PyPI brings CUDA along, the host only needs its driver and the NVIDIA container toolkit.
#   docker build -t marlearn .
#   docker run --gpus all --ipc=host -v "$PWD":/work marlearn sample --out samples.png
#   docker run --gpus all --ipc=host -v "$PWD":/work --entrypoint torchrun marlearn --nproc_per_node 8 -m marlearn train ...
FROM python:3.12-slim

# torch.compile needs a C++ compiler
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

COPY settings.ini setup.py pyproject.toml README.md LICENSE /build/
COPY marlearn /build/marlearn
COPY data/pretrained /build/data/pretrained
RUN pip install --no-cache-dir '/build[metrics]' && rm -r /build

# Whoever runs it may be another user (--user): the cache must not lie in a home that is not theirs
RUN useradd --create-home marlearn && mkdir /work && chown marlearn /work
ENV MARLEARN_CACHE=/tmp/marlearn
USER marlearn
WORKDIR /work
ENTRYPOINT ["marlearn"]
CMD ["--help"]
