"""The core's losses, one file each; see ``kdcore.losses.base`` for the contract."""
