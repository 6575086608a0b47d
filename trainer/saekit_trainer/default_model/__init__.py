"""Makes the language model that the package embeds, from a text file of stories."""
