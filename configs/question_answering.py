"""Extractive question answering: SQuAD's JSON (v1 or v2), or a row a question with its context and its answers.

  python run.py --config=configs/question_answering.py:FILE_OR_FOLDER --workdir=/tmp/answers \\
      --config.model.path=google-bert/bert-base-multilingual-cased

The argument is a file (.json, .jsonl, .csv, .parquet) or a folder with train, dev and test. In a table the columns are
`question`, `context` and either `answers`, as the Hugging Face Hub has them, or the text of the one answer in `answers`
and the character that it begins at in `answer_start`. For Chinese add --config.task.unit=characters.

Measured: MiniLM, taught by 764 questions about 30 articles of XQuAD in English (two epochs, 256 tokens, batch 8,
learning rate 2e-4), answers those about 12 other articles with F1 0.275 +- 0.128, exact match 0.172; taught by PyTorch
0.274 +- 0.124 and 0.161 (three seeds, mean +- standard deviation). So few examples leave much to chance; SQuAD has
88,000.

  python benchmarks/tasks_vs_torch.py --data=DIR --out=/tmp/tasks.jsonl --only=answers
"""

from jaxft.config import Data, Experiment, Model, Optimizer, QuestionAnswering, Train


def get_config(source: str = "") -> Experiment:
    return Experiment(
        name="question-answering",
        model=Model(path="google-bert/bert-base-uncased"),
        task=QuestionAnswering(),
        data=Data(source=source, max_length=384),
        optimizer=Optimizer(learning_rate=5e-5),
        train=Train(batch_size=32, epochs=3),
    )
