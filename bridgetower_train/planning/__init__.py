"""What a run would take on hardware that is not at hand: a model, from counted work and published figures."""
