import pytest

from helpers.parameters import LoraAdapters, SubspaceSimilarity


def test_defaults_are_valid_and_other_names_of_a_notebook_are_passed_over():
    assert SubspaceSimilarity.check({"__name__": "__main__", "seed": 3}).seed == 3
    assert LoraAdapters.check({}).schedule() == {
        "steps": 1500, "batch_size": 16, "learning_rate": 0.002, "evaluate_every": 125,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "values", "message"),
    [
        (SubspaceSimilarity, {"factor": "B"}, "parameter factor is 'B': input should be 'A' or 'BA'"),
        (SubspaceSimilarity, {"side": "up"}, "parameter side is 'up'"),
        (SubspaceSimilarity, {"first_i": -1}, "parameter first_i is -1: input should be greater than or equal to 0"),
        (SubspaceSimilarity, {"last_j": 1.5}, "parameter last_j is 1.5: input should be a valid integer"),
        (SubspaceSimilarity, {"adapters": "data/adapters/r4"}, "parameter adapters is 'data/adapters/r4'.*valid list"),
        (SubspaceSimilarity, {"adapters": []}, "at least 1 item"),
        (SubspaceSimilarity, {"adapters": ["a", "a"]}, "names a directory twice"),
        (SubspaceSimilarity, {"base": "", "adapters": ["a"]}, "give a base to compare it with, or a second adapter"),
        (SubspaceSimilarity, {"side": "left"}, 'use factor "BA", or side "right"'),
        (SubspaceSimilarity, {"first_i": 9, "last_i": 8}, "first_i is 9, above last_i, 8"),
        (SubspaceSimilarity, {"colour_low": 0.2, "colour_high": 0.1}, "must be below the second"),
        (SubspaceSimilarity, {"colour_high": 1.5}, "parameter colour_high is 1.5"),
        (LoraAdapters, {"ranks": [4, 0]}, "parameter ranks.1 is 0: input should be greater than 0"),
        (LoraAdapters, {"ranks": [4], "seeds": [0, 1]}, "as many of each"),
        (LoraAdapters, {"ranks": [4, 4], "seeds": [0, 0]}, "no pair twice"),
        (LoraAdapters, {"learning_rate": 0.0}, "greater than 0"),
    ],
)
def test_a_bad_value_is_one_sentence(schema, values, message):
    with pytest.raises(ValueError, match=message) as refusal:
        schema.check(values)
    assert "\n" not in str(refusal.value)


def test_an_unknown_name_is_refused_where_only_known_ones_may_come():
    with pytest.raises(ValueError, match="there is no parameter 'modul'"):
        SubspaceSimilarity.check({"modul": "x"}, only_known=True)
