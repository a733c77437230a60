"""The same seed on the same machine gives the same run, bit for bit; another seed another one."""

from runs import experiment, lines, results, weights

from jaxft import modes


def test_two_runs_are_bit_identical(tiny_model, cache, finished, tmp_path):
    modes.train(experiment(tiny_model, cache), str(tmp_path / "again"))
    assert weights(tmp_path / "again") == weights(finished)
    assert lines(tmp_path / "again") == lines(finished)
    assert results(tmp_path / "again") == results(finished)


def test_the_seed_matters(tiny_model, cache, finished, tmp_path):
    e = experiment(tiny_model, cache)
    e.seed = 1
    modes.train(e, str(tmp_path / "other"))
    assert weights(tmp_path / "other") != weights(finished)
