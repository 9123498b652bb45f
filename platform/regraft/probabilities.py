"""What do predicted probabilities show beside the truth: calibration, ROC and PR curves, operating points?"""
