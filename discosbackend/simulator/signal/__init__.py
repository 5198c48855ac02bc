"""What is measured: the sky, the receiver's passband, mean values and noise."""
