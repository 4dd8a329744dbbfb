"""Translation of large frames in stripes, in bounded memory, with the statistics of the whole frame."""
