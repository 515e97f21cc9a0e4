from experiments.exp18_discover_circuits import EXPERIMENT
from experiments.harness.runner import run

if __name__ == "__main__":
    run(EXPERIMENT)
