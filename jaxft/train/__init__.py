"""The pure core of training (state, step, optimizer), and the loop and the checkpoints around it."""
