"""Training of the model that ships with the pack: data, autoencoder, diffusion, classifier, evaluation."""
