"""The same scheduling and planning as in a gateway, under a simulated clock."""
