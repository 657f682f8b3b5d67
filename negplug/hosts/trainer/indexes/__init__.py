"""Which sample each row of a batch is: its data set index, from the loader to the loss."""
