from experiments.exp10_crosslingual_refusal import EXPERIMENT
from experiments.harness.runner import run

run(EXPERIMENT)
