from experiments.exp17_train_saes import EXPERIMENT
from experiments.harness.runner import run

run(EXPERIMENT)
