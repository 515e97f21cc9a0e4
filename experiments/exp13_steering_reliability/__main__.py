from experiments.exp13_steering_reliability import EXPERIMENT
from experiments.harness.runner import run

if __name__ == "__main__":
    run(EXPERIMENT)
