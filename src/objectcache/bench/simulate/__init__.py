"""`objectcache simulate`: what comes out of simulations as rows and pictures, and how far reality is from it."""
