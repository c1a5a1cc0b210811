"""From captions to masked captions: rules, parsers, lists and shards."""
