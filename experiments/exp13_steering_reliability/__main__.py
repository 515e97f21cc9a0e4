from experiments.exp13_steering_reliability import EXPERIMENT
from experiments.harness.runner import run

run(EXPERIMENT)
