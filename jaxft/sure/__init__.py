"""How sure a trained model may be: probabilities that are meant, sets that hold the truth, texts that are unusual.

All of it is fitted on labelled rows that the model has not learned from, on the host, after training.
"""
