"""What a model becomes after training: a graph for ONNX runtimes, a StableHLO program, a smaller one."""
