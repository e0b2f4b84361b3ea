#!/bin/sh
# Builds ./train: build.sh PYTHON. The library is that of the package onnxruntime of PYTHON; the headers are those that the npm
# package of ONNX Runtime for Unity carries, since neither the wheel nor Debian has any. Needs a C++ compiler, npm, and
# Debian's nlohmann-json3-dev and zlib1g-dev.
set -eu
cd "$(dirname "$0")"
python="${1:-python3}"
if [ ! -f include/onnxruntime_cxx_api.h ]; then
    mkdir -p include
    package="$(npm pack --silent com.github.asus4.onnxruntime@0.4.9)"
    tar -xzf "$package" -C include --strip-components=7 --wildcards '*/ios-arm64/onnxruntime.framework/Headers/*.h'
    rm "$package"
fi
folder="$("$python" -c 'import onnxruntime, pathlib; print(pathlib.Path(onnxruntime.__file__).parent / "capi")')"
set -- "$folder"/libonnxruntime.so.*
# The wheel's file has another name than the library gives itself.
mkdir -p lib
ln -sf "$1" lib/libonnxruntime.so.1
c++ -std=c++17 -Iinclude train.cpp lib/libonnxruntime.so.1 '-Wl,-rpath,$ORIGIN/lib' -lz -o train
