#!/bin/sh
# The chat function's start on Lambda, in place of its Python runtime: the Lambda Web Adapter's wrapper executes this
# file, waits until GET /health answers on $AWS_LWA_PORT, then forwards every invocation there. `exec`, so that Lambda's
# SIGTERM at the environment's end reaches uvicorn and not a shell.
# $LAMBDA_RUNTIME_DIR has the packages of the managed runtime.
root="${LAMBDA_TASK_ROOT:-$(cd "$(dirname "$0")/../.." && pwd)}"
export PYTHONPATH="$root${LAMBDA_RUNTIME_DIR:+:$LAMBDA_RUNTIME_DIR}${PYTHONPATH:+:$PYTHONPATH}"
# Lambda freezes the process between invocations: a buffered log line or metric would be late or lost.
export PYTHONUNBUFFERED=1

# One worker: an environment serves one request at a time, and Lambda starts more environments.
# uvloop and httptools: docs/decisions/0018-uvloop-and-httptools.md
# Keep-alive is longer than the adapter's (4 s), so that the adapter never uses a connection that is closing.
# A shutdown waits one second at most, because Lambda kills the process soon after SIGTERM.
exec python3 -m uvicorn --factory functions.chat.handler:create \
  --host 127.0.0.1 --port "${AWS_LWA_PORT:-8080}" \
  --workers 1 --loop uvloop --http httptools --ws none --lifespan on \
  --timeout-keep-alive 65 --timeout-graceful-shutdown 1 \
  --no-access-log --no-server-header --log-level warning
