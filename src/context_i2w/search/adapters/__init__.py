"""A Retriever where other libraries expect a model of theirs; each file needs the library that it is named after."""
