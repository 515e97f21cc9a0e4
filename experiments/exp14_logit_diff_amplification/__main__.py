from experiments.exp14_logit_diff_amplification import EXPERIMENT
from experiments.harness.runner import run

if __name__ == "__main__":
    run(EXPERIMENT)
