from experiments.exp5_layer_comparison import EXPERIMENT
from experiments.harness.runner import run

if __name__ == "__main__":
    run(EXPERIMENT)
