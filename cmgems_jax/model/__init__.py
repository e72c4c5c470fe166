"""The BERT encoder with its masked-language-model head."""
