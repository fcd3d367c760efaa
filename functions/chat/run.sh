#!/bin/sh
# What Lambda starts in place of its Python runtime: the Lambda Web Adapter's wrapper executes this file, waits until
# GET /health answers on $AWS_LWA_PORT, then forwards every invocation there. `exec`, so that Lambda's SIGTERM at the
# environment's end reaches uvicorn and not a shell.
# $LAMBDA_RUNTIME_DIR is where the managed runtime keeps what it brings itself.
root="${LAMBDA_TASK_ROOT:-$(cd "$(dirname "$0")/../.." && pwd)}"
export PYTHONPATH="$root${LAMBDA_RUNTIME_DIR:+:$LAMBDA_RUNTIME_DIR}${PYTHONPATH:+:$PYTHONPATH}"
# Lambda freezes the process between invocations: a log line or metric still in a buffer would wait there, or be lost.
export PYTHONUNBUFFERED=1

# One worker: an environment serves one request at a time, and more environments are Lambda's business.
# asyncio and h11: the faster alternatives are not packaged, and naming these spares the search for them.
# Keep-alive outlasts the adapter's (4 s), so that it is never handed a connection that is just closing.
# A shutdown waits one second at most: Lambda kills what is left sooner than that.
exec python3 -m uvicorn --factory functions.chat.handler:create \
  --host 127.0.0.1 --port "${AWS_LWA_PORT:-8080}" \
  --workers 1 --loop asyncio --http h11 --ws none --lifespan on \
  --timeout-keep-alive 65 --timeout-graceful-shutdown 1 \
  --no-access-log --no-server-header --log-level warning
