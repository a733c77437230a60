"""An objective of one's own: the same answer where a tenth of the words is hidden (as UDA, Xie et al. 2020, eq. 1).

    program = jaxft.compose(experiment, model, task, steps, parts=Parts(objective=consistent(task, model, mask_id)))

L(x) + weight * KL(p(x) || p(x with hidden words)): a second pass. docs/objectives.md says what an objective is. Which
words are hidden is a function of the example and the position in it, however a batch is laid out.
"""

import jax
import jax.numpy as jnp

from jaxft.models import nn


def consistent(task, model, mask_id, weight=1.0, share=0.1):
    """Returns the transform; `mask_id` is what stands for a hidden word, `share` how many are."""

    def transform(inner):
        def objective(params, batch, key):
            (total, count), outputs = inner(params, batch, key)
            if key is None:  # evaluation
                return (total, count), outputs
            tokens = nn.token_numbers(batch, model.facts.longest).astype(jnp.uint32)
            chosen = nn.hash_bits(jax.random.fold_in(key, 2**20), tokens) < share * 2.0**32
            hidden = {**batch, "input_ids": jnp.where(chosen, mask_id, batch["input_ids"])}
            others = inner(params, hidden, key)[1]
            outputs_there = jax.tree.map(jax.lax.stop_gradient, outputs)
            return (total + weight * task.divergence(outputs_there, others, batch), count), outputs

        return objective

    return transform
