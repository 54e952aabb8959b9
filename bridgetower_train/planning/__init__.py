"""What a run would need on other hardware: an analytical model, from counted work and published figures."""
