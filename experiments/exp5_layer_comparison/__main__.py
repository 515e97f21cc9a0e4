from experiments.exp5_layer_comparison import EXPERIMENT
from experiments.harness.runner import run

run(EXPERIMENT)
