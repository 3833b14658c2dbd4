"""Several processes that serve one replica, and the supervisor that holds them."""
