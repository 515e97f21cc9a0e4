"""Tables read well raw, and say what they must."""

from __future__ import annotations

import pytest

from mlx_interp.reporting.tables import UNVALIDATED, Column, Table, latex, over_models
from mlx_interp.stats import Estimate

TABLE = Table(
    "Fixed by the best pair",
    ["family", "n", Column("fixed", "%"), Column("control", "%"), Column("answer", "nats", digits=1)],
    [
        ["state_capital", 120, Estimate(0.411, 0.33, 0.49, 120), Estimate(0, 0, 0.03, 120), -1.26],
        ["首都|州", 3, None, Estimate(1, 0.29, 1, 3), 12.0],
    ],
    notes=["n counts queries."],
)


def test_a_table_is_markdown_of_aligned_columns_with_units_in_the_head():
    assert TABLE.markdown() == (
        "### Fixed by the best pair\n"
        "\n"
        "| family        |   n |   fixed (%) |   control (%) | answer (nats) |\n"
        "| ------------- | --: | ----------: | ------------: | ------------: |\n"
        "| state_capital | 120 | 41 [33, 49] |      0 [0, 3] |          -1.3 |\n"
        "| 首都\\|州      |   3 |           - | 100 [29, 100] |          12.0 |\n"
        "\n"
        "n counts queries.\n"
    )


def test_an_unvalidated_table_says_so_in_its_title():
    assert TABLE.markdown(unvalidated=True).startswith("### **UNVALIDATED** Fixed by")


def test_a_row_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match="row 2 has 1 cells for 2 columns"):
        Table("t", ["a", "b"], [[1, 2], [3]])


def test_a_table_without_rows_still_has_its_head():
    assert Table("t", ["a", "b"], []).markdown() == "### t\n\n|   a |   b |\n| --: | --: |\n"


def test_tables_of_several_models_become_one_with_the_model_first():
    other = {**TABLE.as_data(), "rows": TABLE.as_data()["rows"][:1]}
    both = over_models({"tiny-llama": TABLE.as_data(), "tiny-qwen2": other})
    assert both["columns"][0] == "model"
    assert [row[:2] for row in both["rows"]] == [
        ["tiny-llama", "state_capital"],
        ["tiny-llama", "首都|州"],
        ["tiny-qwen2", "state_capital"],
    ]
    assert both["notes"] == ["n counts queries."]


def test_what_is_the_same_for_all_models_stands_once():
    tables = {"tiny-llama": TABLE.as_data(), "tiny-qwen2": TABLE.as_data()}
    both = over_models(tables)
    assert (both["columns"], both["rows"]) == (TABLE.as_data()["columns"], TABLE.as_data()["rows"])
    assert both["notes"] == ["n counts queries.", "The same for all 2 models."]
    alone = over_models({"tiny-llama": TABLE.as_data()})
    assert alone["columns"][0] == "model"
    unvalidated = over_models({"tiny-llama": TABLE.as_data(), f"tiny-qwen2 ({UNVALIDATED})": TABLE.as_data()})
    assert unvalidated["columns"][0] == "model"


def test_latex_has_every_cell_with_special_characters_escaped_and_the_notes_in_the_caption():
    text = latex(TABLE.as_data(), unvalidated=True)
    assert r"state\_capital & 120 & 41 [33, 49] & 0 [0, 3] & -1.3 \\" in " ".join(text.split())
    assert r"fixed (\%)" in text
    assert r"\begin{tabular}{lrrrr}" in text
    assert r"\caption{UNVALIDATED: Fixed by the best pair. n counts queries.}" in text
    assert text.index(r"\toprule") < text.index(r"\midrule") < text.index(r"\bottomrule")


def test_csv_has_the_numbers_unrounded_and_three_columns_for_an_estimate() -> None:
    table = Table(
        "t", ["name", Column("rate", "%"), "n"], [["a, b", Estimate(0.123456, 0.1, 0.2, 5), 5], ["c", None, 0]]
    )
    assert table.csv() == 'name,rate,"rate, low","rate, high",n\n"a, b",0.123456,0.1,0.2,5\nc,,,,0\n'
