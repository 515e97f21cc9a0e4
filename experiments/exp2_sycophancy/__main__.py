from experiments.exp2_sycophancy import EXPERIMENT
from experiments.harness.runner import run

run(EXPERIMENT)
