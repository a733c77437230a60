"""What a training step needs and costs on devices that are not at hand, as their compiler says."""
