"""What the measuring scripts share, and what they measure."""
