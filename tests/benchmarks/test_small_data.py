"""The small-data page matches its results, and its rows are configs of the project."""

import json

from benchmarks.few_videos.page import PAGE, RESULTS, render
from benchmarks.few_videos.tasks import RATE, RECIPES, WIDTH
from configs.folder import get_config


def test_the_page_is_what_its_results_say():
    assert PAGE.read_text() == render(json.loads(RESULTS.read_text()))


def test_the_rows_are_of_recipes_that_exist():
    rates = {name: get_config(f"video_list,{recipe.variant}").optimizer.learning_rate for name, recipe in RECIPES.items()}
    assert rates["small"] * 768 / WIDTH == RATE
