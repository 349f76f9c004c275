"""slowfast_ray: finetuning SlowFast on clips of recordings, with Ray, Optuna and MLflow.

The floors, and who may import whom (tests/test_architecture.py holds them):

    roof          experiments --> search_spaces
                      |
    first floor    running                           ray, optuna, mlflow
                      |
    landing       experiment.py, run_config.py       an Experiment is a frozen value
                      |
    ground        data     model     learning        three wings that never import one another

Every name has one address: import it from the module that defines it. This file stays empty of code.
"""
