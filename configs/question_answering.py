"""Extractive question answering: SQuAD's JSON (v1 or v2), or a row a question with its context and its answers.

  python run.py --config=configs/question_answering.py:FILE_OR_FOLDER --workdir=/tmp/answers \\
      --config.model.path=google-bert/bert-base-multilingual-cased

The argument is a file (.json, .jsonl, .csv, .parquet) or a folder with train, dev and test. In a table the columns are
`question`, `context` and either `answers`, as the Hugging Face Hub has them, or the text of the one answer in `answers`
and the character that it begins at in `answer_start`. For Chinese add --config.task.unit=characters.
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
