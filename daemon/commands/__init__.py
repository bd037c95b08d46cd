"""What the commands of `tickring` do; one function each, without the parsing of arguments."""
