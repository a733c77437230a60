"""How well tokens are guessed."""

import numpy as np


def perplexity(log_probs: np.ndarray) -> float:
    """Returns exp of the mean of -log p over tokens, `[n]`: among how many words the model is as if undecided."""
    return float(np.exp(-log_probs.astype(np.float64).mean()))


def guesses(log_probs: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """Returns `perplexity` and `accuracy` of tokens that were guessed; of none nothing.

    Args:
      log_probs: of what each is, `[n]`.
      right: 1 where that was the best guess, `[n]`.
    """
    if not len(log_probs):
        return {}
    return {"perplexity": perplexity(log_probs), "accuracy": float(right.mean())}
