"""An example of a host and of the plugin that makes its loss treatable."""
