from experiments.exp15_contrastive_steering import EXPERIMENT
from experiments.harness.runner import run

run(EXPERIMENT)
