"""What strategies cost and gain: speed (benchmark), accuracy (fidelity), and the search for the
fastest setting that loses no more than allowed (tuning)."""
