"""Words: lists, and the little grammar that sentences made of them need."""
