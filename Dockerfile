# The agent's image. bcc and LLVM come from the distribution; no compiler, no headers: dagwall ships what bcc wants.
FROM debian:trixie-slim AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv \
 && apt-get clean && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml README.md LICENSE /src/
COPY requirements/run.txt /src/requirements/
COPY agent /src/agent
COPY bpf /src/bpf
RUN python3 -m venv --system-site-packages /opt/dagwall \
 && /opt/dagwall/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /src/requirements/run.txt \
 && /opt/dagwall/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps /src \
 && /opt/dagwall/bin/pip uninstall --yes --quiet pip

FROM debian:trixie-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-bpfcc \
 && apt-get clean && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/dagwall /opt/dagwall
ENV PATH=/opt/dagwall/bin:$PATH PYTHONDONTWRITEBYTECODE=1
ENTRYPOINT ["dagwall"]
CMD ["run"]
