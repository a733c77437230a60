"""Lays out a model repository for Triton Inference Server, of an export that `--format=onnx` has written.

    python deploy/triton/repository.py /tmp/reviews/export /tmp/repository reviews

writes REPOSITORY/NAME/config.pbtxt and REPOSITORY/NAME/1/model.onnx (with model.onnx_data, where there is one), which
`tritonserver --model-repository=/tmp/repository` serves. Token ids go in, logits come out: the tokenizer, softmax and
thresholds are the client's, see docs/export.md. It takes onnx (`pip install 'jaxft[onnx]'`) and nothing of jaxft.
"""

import shutil
import sys
from pathlib import Path

import onnx

TYPES: dict[int, str] = {onnx.TensorProto.INT64: "TYPE_INT64", onnx.TensorProto.FLOAT: "TYPE_FP32"}
"""Types of the tensors of a graph that jaxft writes -> Triton's names."""


def tensors(kind: str, values: list[onnx.ValueInfoProto]) -> str:
    """Returns the part of config.pbtxt on inputs or outputs; a size that the graph leaves open is -1.

    The first axis, of rows, is open in each tensor. Triton adds it by itself, as `max_batch_size` is above zero.
    """
    found = []
    for value in values:
        sizes = [d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim]
        if not sizes or sizes[0] != -1:
            raise ValueError(f"{value.name} has no open axis of rows, but {sizes}")
        dims, dtype = ", ".join(map(str, sizes[1:])), TYPES[value.type.tensor_type.elem_type]
        found.append(f'  {{ name: "{value.name}" data_type: {dtype} dims: [ {dims} ] }}')
    return f"{kind} [\n" + ",\n".join(found) + "\n]\n"


def config(name: str, graph: onnx.GraphProto, rows: int = 64) -> str:
    """Returns config.pbtxt of a graph: `rows` at most in a batch, made of requests of one length that wait up to 2 ms.

    https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
    """
    return (
        f'name: "{name}"\nbackend: "onnxruntime"\nmax_batch_size: {rows}\n'
        + tensors("input", list(graph.input))
        + tensors("output", list(graph.output))
        + "dynamic_batching { max_queue_delay_microseconds: 2000 }\n"
    )


def main(export: str, repository: str, name: str) -> str:
    """Writes the repository's entry of that name, and returns what is wrong; empty: nothing."""
    graph = Path(export) / "onnx" / "model.onnx"
    if not graph.is_file():
        return f"there is no {graph}; write it by: python run.py --mode=export --workdir={export} --format=onnx"
    folder = Path(repository) / name
    if folder.exists():
        return f"{folder} is there already; choose another name, or remove it"
    text = config(name, onnx.load(str(graph), load_external_data=False).graph)
    (folder / "1").mkdir(parents=True)
    for file in graph.parent.glob("model.onnx*"):
        shutil.copy(file, folder / "1")
    (folder / "config.pbtxt").write_text(text, encoding="utf-8")
    return ""


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python deploy/triton/repository.py EXPORT REPOSITORY NAME")
    if problem := main(*sys.argv[1:]):
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
