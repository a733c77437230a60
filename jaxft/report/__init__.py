"""What a run shows: progress, tables, TensorBoard files, plots and the report page."""
