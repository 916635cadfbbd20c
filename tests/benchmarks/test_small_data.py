"""The small-data page matches its results, and its rows are configs of the project."""

import json

from benchmarks.few_videos.page import PAGE, RESULTS, render
from benchmarks.few_videos.tasks import RATE, RECIPES, WIDTH
from configs.folder import get_config


def test_page_matches_its_results():
    assert PAGE.read_text() == render(json.loads(RESULTS.read_text()))


def test_rows_refer_to_existing_recipes():
    rates = {name: get_config(f"video_list,{recipe.variant}").optimizer.learning_rate for name, recipe in RECIPES.items()}
    assert rates["small"] * 768 / WIDTH == RATE
