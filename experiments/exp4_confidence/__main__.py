from experiments.exp4_confidence import EXPERIMENT
from experiments.harness.runner import run

run(EXPERIMENT)
