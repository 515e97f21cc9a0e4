from experiments.exp8_function_vectors import EXPERIMENT
from experiments.harness.runner import run

if __name__ == "__main__":
    run(EXPERIMENT)
