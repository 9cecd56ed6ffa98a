"""The pages of `glassbridge dev` and the routes that serve them."""
