"""Photos by address: the one place from which the service reaches out to the network, and only where the operator allows it."""
