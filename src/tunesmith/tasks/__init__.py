"""Tasks: how rows become inputs, which head, which loss, which metrics, how predictions are decoded. One file each."""
