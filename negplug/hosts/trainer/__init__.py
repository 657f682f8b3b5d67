"""All that knows Lightning's Trainer. Every Trainer passes here: no import of torch."""
