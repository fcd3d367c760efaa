# All functions as one server, for Cloud Run, Fly, Render and other hosts of containers: docs/deploy.md, "Not on AWS".
FROM python:3.13-slim

# FORWARDED_ALLOW_IPS: only the host's proxy reaches the container, so its x-forwarded-proto is true.
ENV PYTHONUNBUFFERED=1 FORWARDED_ALLOW_IPS=*
WORKDIR /app

COPY requirements requirements
RUN python -m venv /tmp/tools \
    && /tmp/tools/bin/pip install --no-cache-dir --require-hashes -r requirements/package.txt \
    && /tmp/tools/bin/uv pip install --python "$(command -v python)" --system --no-cache --compile-bytecode --no-deps \
       --require-hashes -r requirements/chat.txt -r requirements/keys.txt -r requirements/checkout.txt \
       -r requirements/account.txt -r requirements/webhooks.txt -r requirements/maintenance.txt \
    && rm -rf /tmp/tools

COPY docs/openapi.json docs/openapi.json
COPY functions functions
RUN python -m compileall -q functions

USER 65534:65534
EXPOSE 8080
CMD ["python", "-m", "functions"]
