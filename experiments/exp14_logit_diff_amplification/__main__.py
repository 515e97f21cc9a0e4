from experiments.exp14_logit_diff_amplification import EXPERIMENT
from experiments.harness.runner import run

run(EXPERIMENT)
