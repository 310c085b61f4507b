"""What the 4D-STEM guide names, and what it is here: parameters, stages, scenarios."""
