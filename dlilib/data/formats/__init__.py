"""One module an annotation program's format: it reads, says what it leaves out, draws nothing."""
