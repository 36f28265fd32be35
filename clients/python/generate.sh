#!/bin/sh
# Generates the Python stubs of cabbage into the folder that is named, or else beside the programs.
# PYTHON names the interpreter that has the packages of requirements.txt; without it, python3 does.
set -eu
mkdir -p "${1:-$(dirname "$0")}"
out=$(cd "${1:-$(dirname "$0")}" && pwd)
# A path as it is from here.
python=$(command -v "${PYTHON:-python3}")
case $python in /*) ;; *) python=$(pwd)/$python ;; esac
cd "$(dirname "$0")/../../proto"
exec "$python" -m grpc_tools.protoc -I . --python_out="$out" --grpc_python_out="$out" cabbage/v1/*.proto
