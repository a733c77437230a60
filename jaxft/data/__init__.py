"""From a data source to batches: `sources` reads tables, `splits` makes train, validation and test of them."""
