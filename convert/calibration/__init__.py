"""What the weights' inputs are like while the denoiser denoises, and rounding that heeds it."""
